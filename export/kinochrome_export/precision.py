"""Colorizer files of another precision, made from one in fp32, each with its measured loss."""

import dataclasses
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnxruntime.quantization import CalibrationMethod

from kinochrome_proto import colorizer_file
from kinochrome_proto.colorizer_file import Colorizer
from kinochrome_proto.errors import BadColorizer, BadSettings
from kinochrome_proto.manifest import CHROMA, PRECISIONS, Manifest
from kinochrome_proto.probe import CODE_VALUES, TOLERANCE
from kinochrome_trainer import provenance

from . import calibration, half, int8, loss, parity, pictures, sealing, to_onnx
from .cpu import session

STILLS = 64
"""Stills that a loss is measured on, at most; int8 is calibrated on as many others."""
ALLOWED_DB = 0.5
"""PSNR that int8 may cost."""
NEAR = 1.0
"""Mean difference from fp32, in code values, at which int8 is near enough for no more layers to be left in fp32."""


@dataclass(frozen=True)
class Converted:
    """A model of another precision."""

    model: onnx.ModelProto
    loss: dict[str, Any]
    """What the manifest will say."""
    alike: onnxruntime.InferenceSession
    """Another way to compute the same, as other machines may."""


def export(
    run: Path,
    target: Path,
    precision: str,
    data: Sequence[Path] = (),
    *,
    working_size: int | None = None,
    licence: str = to_onnx.LICENCE,
) -> Manifest:
    """Write the newest checkpoint of a training run as a colorizer file of any precision: `to_onnx.export`, `convert`.

    Raises what those do.
    """
    check(precision, data)
    if precision == "fp32":
        return to_onnx.export(run, target, working_size=working_size, licence=licence)
    with tempfile.TemporaryDirectory() as folder:
        fp32 = Path(folder) / target.name
        to_onnx.export(run, fp32, working_size=working_size, licence=licence)
        return convert(fp32, target, precision, data)


def check(precision: str, data: Sequence[Path]) -> None:
    """Raises BadSettings when there is no such precision, or it wants stills and none are named, or the other way."""
    if precision not in PRECISIONS:
        raise BadSettings(f"no precision {precision!r}: choose from {', '.join(PRECISIONS)}")
    if precision == "int8" and not data:
        raise BadSettings("int8 is calibrated and measured on real stills: name a folder or zip of them with --data")
    if precision == "fp32" and data:
        raise BadSettings("fp32 is not measured on stills: leave --data out, or name --precision fp16 or int8")


def convert(source: Path, target: Path, precision: str, data: Sequence[Path] = ()) -> Manifest:
    """Write a colorizer file of fp16 or int8, made from one of fp32; return its manifest.

    Args:
        source: a colorizer file in fp32.
        target: the .onnx file to write; it appears when its loss has been measured.
        precision: "fp16" or "int8".
        data: folders or zip archives of stills, in colour for int8; without them, fp16 is measured on pictures made on
            the spot.

    Raises UnknownColorizer, BadColorizer (the source cannot be used, or not in that precision), BadSettings (int8 is
    no gain here, or the stills do not do), BadData (stills that are missing or broken).
    """
    check(precision, data)
    fp32 = colorizer_file.read(source)
    if fp32.manifest.precision != "fp32":
        raise BadSettings(f"{source} is in {fp32.manifest.precision}: name the fp32 file that it was made from")
    if precision == "fp32":
        raise BadSettings(f"{source} is in fp32 already: name --precision fp16 or int8")
    if target.exists() and target.samefile(source):
        raise BadSettings(f"{target} is the fp32 file itself, which is to be kept: name another output")
    try:
        made = measured(fp32, precision, data)
    except BadColorizer as error:
        raise BadColorizer(f"{target.name} cannot be had in {precision}: {error}") from None
    if precision == "int8":
        _check_gain(made.loss)
    manifest = dataclasses.replace(
        fp32.manifest,
        precision=precision,
        precision_loss={**made.loss, "fp32_sha256": fp32.sha256},
        parity={**fp32.manifest.parity, "probe": _probe(made, fp32.manifest)},
    )
    target.parent.mkdir(parents=True, exist_ok=True)
    sealing.write(made.model, manifest, target)
    return manifest


def measured(fp32: Colorizer, precision: str, data: Sequence[Path], count: int = STILLS) -> Converted:
    """What an fp32 colorizer is in fp16 or int8, and what that costs, whether or not it is worth it.

    count: of stills, at most. Raises BadColorizer, BadSettings, BadData as `convert` does.
    """
    return _half(fp32, data, count) if precision == "fp16" else _int8(fp32, data, count)


def _check_gain(found: dict[str, Any]) -> None:
    """Raises BadSettings where int8 is no gain."""
    fp32_ms, int8_ms, change = found["speed"]["fp32_ms"], found["speed"]["int8_ms"], found["psnr_change"]
    if int8_ms >= fp32_ms or change < -ALLOWED_DB:
        raise BadSettings(
            f"int8 is no gain: {int8_ms:.2f} ms a frame against {fp32_ms:.2f} ms in fp32 on this CPU, "
            f"PSNR {change:+.2f} dB (it must be faster and cost at most {ALLOWED_DB} dB): keep fp32"
        )


def _half(fp32: Colorizer, data: Sequence[Path], count: int) -> Converted:
    shown = pictures.from_stills(data, fp32.manifest, count) if data else pictures.made(fp32.manifest)
    painter = _sound(fp32, shown)
    model = onnx.load_model_from_string(fp32.content)
    converted = half.convert(model)
    found = calibration.reach(model, [picture.feed for picture in shown.items])
    largest = half.check_reach(found, [name for name in half.halves(converted) if name in found])
    rehearsal = session(half.rehearsal(converted).SerializeToString())
    lost = loss.measure(painter, rehearsal, shown)
    how = f"every operator in fp32, every value between two rounded to fp16, by onnxruntime {onnxruntime.__version__}"
    said = {**_rounded(lost), "measured": how, "largest_value": round(largest, 3)}
    return Converted(converted, said, rehearsal)


def _int8(fp32: Colorizer, data: Sequence[Path], count: int) -> Converted:
    given = pictures.from_stills(data, fp32.manifest, 2 * count).in_colour()
    if len(given.items) < 2:
        raise BadSettings("int8 is calibrated and measured on stills in colour, two or more: name some with --data")
    learnt, shown = given.halves()
    painter = _sound(fp32, given)
    tried: list[tuple[float, int, str, onnx.ModelProto]] = []
    for method in int8.METHODS:
        tried += _tried(fp32, painter, learnt, method)
        if min(tried)[0] <= NEAR:
            break
    _, kept, ranges, model = min(tried)
    content = model.SerializeToString()
    lost, taken = loss.measure(painter, session(content), shown), int8.speed(fp32.content, content, fp32.manifest)
    said = {
        **_rounded(lost),
        "measured": f"onnxruntime {onnxruntime.__version__} on CPU",
        "calibrated_on": len(learnt.items),
        "ranges": ranges,
        "last_layers_in_fp32": kept,
        "speed": {**_rounded(taken), "cpu": provenance.versions()["cpu"].rpartition(",")[0]},
    }
    return Converted(model, said, session(content, optimized=False))


def _tried(
    fp32: Colorizer, painter: onnxruntime.InferenceSession, learnt: pictures.Pictures, method: CalibrationMethod
) -> Iterator[tuple[float, int, str, onnx.ModelProto]]:
    """Mean difference from fp32, last layers kept in fp32, method, model: with as many kept as brings it to NEAR."""
    model, feeds = onnx.load_model_from_string(fp32.content), [picture.feed for picture in learnt.items]
    for kept, quantized in enumerate(int8.quantized(model, feeds, method)):
        mean = loss.measure(painter, session(quantized.SerializeToString()), learnt).mean
        yield mean, kept, method.name, quantized
        if mean <= NEAR:
            return


def _sound(fp32: Colorizer, given: pictures.Pictures) -> onnxruntime.InferenceSession:
    """The painter in fp32. Raises BadColorizer where that gives no numbers either."""
    painter = session(fp32.content)
    for picture in given.items:
        if not loss.paint(painter, picture).isfinite().all():
            raise BadColorizer("in fp32 too it paints chroma that is no number: train it again")
    return painter


def _rounded(found: loss.Loss | int8.Speed) -> dict[str, Any]:
    """Figures as people read them, to six places."""
    return {
        name: round(value, 6) if isinstance(value, float) else value
        for name, value in dataclasses.asdict(found).items()
    }


def _probe(made: Converted, manifest: Manifest) -> dict[str, Any]:
    """What the file paints on the probe's pictures, with room for twice what two ways to compute it differ by."""
    given = parity.probe_pictures(manifest.size_multiple, manifest.noise_length)
    painted, other = (one.run([CHROMA], given)[0] for one in (session(made.model.SerializeToString()), made.alike))
    spread = float(np.abs(painted - other).max()) * CODE_VALUES
    probe = parity.probe(painted, f"onnxruntime {onnxruntime.__version__}", TOLERANCE + 2 * spread)
    return dataclasses.asdict(probe)
