"""Colorizer files in fp16 and int8: what is kept in fp32, what is refused, and that the loss they state is true."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from kinochrome_export import exported, half, int8, loss, pictures, precision, sealing
from kinochrome_export.cpu import session
from kinochrome_proto import colorizer_file
from kinochrome_proto.errors import BadColorizer, BadSettings, KinochromeError
from kinochrome_proto.manifest import Manifest
from kinochrome_trainer import checkpoint, metrics, recipe, systems
from kinochrome_trainer.colour import rgb_to_ycbcr, ycbcr_to_rgb
from kinochrome_trainer.errors import TrainingError
from tests.client import command
from tests.trainer import pictures as stills_made

MANIFEST = Manifest("made", 96, 4, 4, "ycbcr-bt601-full", "Apache-2.0")
NORMS = {"InstanceNormalization", "ReduceMean"}


def network(
    file: Path,
    *,
    width: int = 8,
    deep: int = 0,
    gain: float = 1.0,
    norm: bool = True,
    noise: int = 0,
    divide: bool = False,
) -> Path:
    """A colorizer file: two strided convolutions, a norm (or none), a mean, `deep` convolutions, an output layer.

    gain: factor of the first layer's weights. divide: divide luma by itself, which of black is no number.
    """
    chance = np.random.default_rng(1)
    nodes: list[onnx.NodeProto] = []
    weights: list[onnx.TensorProto] = []

    def weight(array: Any, name: str) -> str:
        weights.append(numpy_helper.from_array(np.asarray(array), name))
        return name

    def node(kind: str, takes: Sequence[str], **attributes: Any) -> str:
        name = f"{kind.lower()}_{len(nodes)}"
        nodes.append(helper.make_node(kind, takes, [name], name=f"node_{name}", **attributes))
        return name

    def conv(x: str, inside: int, outside: int, stride: int = 1, scale: float = 1.0) -> str:
        kernel = chance.standard_normal((outside, inside, 3, 3)) * scale / np.sqrt(9 * inside)
        taken = [
            x,
            weight(kernel.astype(np.float32), f"w{len(nodes)}"),
            weight(np.full(outside, 0.1, np.float32), f"b{len(nodes)}"),
        ]
        return node("Conv", taken, pads=[1, 1, 1, 1], strides=[stride, stride])

    x = node("Div", [node("Cast", ["luma"], to=TensorProto.FLOAT), weight(np.float32(255), "white")])
    if divide:
        x = node("Div", [x, x])
    x = conv(x, 1, width, 2, gain)
    if norm:
        ones, zeros = weight(np.ones(width, np.float32), "ones"), weight(np.zeros(width, np.float32), "zeros")
        x = node("InstanceNormalization", [x, ones, zeros])
        # A norm right after a norm, and one value that two of them take.
        mean = node("ReduceMean", [x, weight(np.array([2, 3]), "axes")])
        x = node("Add", [node("InstanceNormalization", [x, ones, zeros]), mean])
    x = node("Relu", [conv(node("Relu", [x]), width, width, 2)])
    for _ in range(deep):
        x = node("Relu", [conv(x, width, width)])
    x = node("Add", [x, node("ReduceMean", [x, weight(np.array([2, 3]), "places")])])
    inputs = [helper.make_tensor_value_info("luma", TensorProto.UINT8, ["n", 1, "h", "w"])]
    if noise:
        inputs.append(helper.make_tensor_value_info("noise", TensorProto.FLOAT, ["n", noise]))
        styled = node("Gemm", ["noise", weight(chance.standard_normal((noise, width)).astype(np.float32), "style")])
        x = node("Add", [x, node("Unsqueeze", [styled, weight(np.array([2, 3]), "wide")])])
    x = node("Tanh", [conv(x, width, 2)])
    nodes.append(helper.make_node("Mul", [x, weight(np.float32(0.3), "third")], ["chroma"], name="last"))
    output = helper.make_tensor_value_info("chroma", TensorProto.FLOAT, ["n", 2, "h4", "w4"])
    graph = helper.make_graph(nodes, "made", inputs, [output], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    sealing.write(model, dataclasses.replace(MANIFEST, noise_length=noise), file)
    return file


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("precision")


@pytest.fixture(scope="session")
def colour(folder: Path) -> Path:
    return stills_made.make(folder / "colour", 8, (96, 72))


@pytest.fixture(scope="session")
def fp32(folder: Path) -> Path:
    return network(folder / "fp32.onnx")


@pytest.fixture(scope="session")
def fp16(folder: Path, fp32: Path, colour: Path) -> Path:
    precision.convert(fp32, folder / "fp16.onnx", "fp16", [colour])
    return folder / "fp16.onnx"


@pytest.fixture(scope="session")
def wide(folder: Path) -> Path:
    """A network with enough to compute for int8 to matter."""
    return network(folder / "wide.onnx", width=96, deep=4, norm=False)


@pytest.fixture(scope="session")
def small(folder: Path, wide: Path, colour: Path) -> Path:
    """The wide network in int8, kept whatever its speed: machines differ."""
    file = folder / "int8.onnx"
    with pytest.MonkeyPatch.context() as patch:
        real = int8.speed
        patch.setattr(int8, "speed", lambda *given: dataclasses.replace(real(*given), fp32_ms=float("inf")))
        precision.convert(wide, file, "int8", [colour])
    return file


def kinds(model: onnx.ModelProto) -> dict[str, int]:
    """The element type of every value, by its name."""
    graph = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
    found = {item.name: item.type.tensor_type.elem_type for item in (*graph.input, *graph.value_info, *graph.output)}
    return found | {tensor.name: tensor.data_type for tensor in graph.initializer}


def test_fp16_keeps_norms_and_means_in_fp32_and_nothing_else(fp16: Path) -> None:
    model = onnx.load(fp16)
    of = kinds(model)
    seen = set()
    for node in model.graph.node:
        values = [of[name] for name in (*node.input, *node.output) if of[name] != TensorProto.INT64]
        if node.op_type in NORMS:
            assert set(values) == {TensorProto.FLOAT}, node.name
        elif node.op_type != "Cast":
            assert set(values) == {TensorProto.FLOAT16}, node.name
        seen.add(node.op_type)
    assert seen >= NORMS | {"Conv", "Add", "Tanh"}
    assert (of["luma"], of["chroma"]) == (TensorProto.UINT8, TensorProto.FLOAT)


def test_fp16_casts_no_value_twice(fp16: Path) -> None:
    casts = [node for node in onnx.load(fp16).graph.node if node.op_type == "Cast"]
    assert not {node.input[0] for node in casts} & {node.output[0] for node in casts}
    wanted = [(node.input[0], helper.get_attribute_value(node.attribute[0])) for node in casts]
    assert len(set(wanted)) == len(wanted)


def test_an_fp16_file_is_a_colorizer_of_half_the_weight(fp32: Path, fp16: Path) -> None:
    before, after = colorizer_file.read(fp32), colorizer_file.read(fp16)
    assert (before.manifest.precision, after.manifest.precision) == ("fp32", "fp16")
    assert after.manifest.precision_loss["fp32_sha256"] == before.sha256
    sizes = [
        sum(len(numpy_helper.to_array(tensor).tobytes()) for tensor in onnx.load(file).graph.initializer)
        for file in (fp32, fp16)
    ]
    assert sizes[1] < 0.6 * sizes[0]


def test_noise_stays_an_input_in_fp32(folder: Path) -> None:
    file = network(folder / "noise.onnx", noise=3)
    precision.convert(file, folder / "noise16.onnx", "fp16")
    before, after = (exported.load(one) for one in (file, folder / "noise16.onnx"))
    luma, noise = torch.rand(2, 1, 16, 16), torch.tensor([[1.0, 0, 0], [0, 0, -2]])
    assert (before.paint(luma, noise) - after.paint(luma, noise)).abs().max() < 1 / 255
    assert (after.paint(luma, noise) - after.paint(luma)).abs().max() > 10 / 255


def test_a_rehearsal_rounds_between_operators_as_a_gpu_does() -> None:
    """2048 + 1 is 2048 in fp16, so taking 2048 away again leaves 0. ONNX Runtime on a CPU says 1."""
    values = {
        name: numpy_helper.from_array(np.array([value], np.float16), name)
        for name, value in (("one", 1), ("big", 2048))
    }
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["x"], ["x16"], to=TensorProto.FLOAT16),
            helper.make_node("Add", ["x16", "one"], ["more"]),
            helper.make_node("Sub", ["more", "big"], ["less"]),
            helper.make_node("Cast", ["less"], ["y"], to=TensorProto.FLOAT),
        ],
        "sum",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])],
        list(values.values()),
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    plain, rehearsed = (session(one.SerializeToString()) for one in (model, half.rehearsal(model)))
    x = {"x": np.array([2048], np.float32)}
    assert (plain.run(None, x)[0].item(), rehearsed.run(None, x)[0].item()) == (1, 0)
    assert np.isinf(rehearsed.run(None, {"x": np.array([70_000], np.float32)})[0].item())


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"gain": 7e4}, r"the value conv_\d+ reaches .* on these pictures, fp16 ends at 65504"),
        ({"gain": 1e7}, r"weight w\d+ reaches .*, fp16 ends at 65504"),
        ({"divide": True}, "in fp32 too it paints chroma that is no number: train it again"),
    ],
)
def test_what_does_not_fit_into_fp16_is_refused(
    changes: dict[str, Any], words: str, tmp_path: Path, colour: Path
) -> None:
    source, target = network(tmp_path / "large.onnx", **changes), tmp_path / "half.onnx"
    glaring = tmp_path / "glaring"
    glaring.mkdir()
    picture = Image.new("RGB", (96, 72), "white")
    picture.paste("black", (0, 0, 48, 72))
    picture.save(glaring / "a.png")
    if "gain" in changes:
        chroma = exported.load(source).paint(torch.rand(1, 1, 16, 16))
        assert chroma.isfinite().all()  # fp32 has no trouble with it
    with pytest.raises(BadColorizer, match=words) as caught:
        precision.convert(source, target, "fp16", [glaring])
    assert str(caught.value).startswith("half.onnx cannot be had in fp16: ") and "\n" not in str(caught.value)
    assert not target.exists()


def test_int8_has_bytes_between_layers_and_a_scale_for_each_channel(small: Path) -> None:
    model = onnx.load(small)
    made = {node.output[0]: node for node in model.graph.node}
    shapes = {tensor.name: (tensor.data_type, list(tensor.dims)) for tensor in model.graph.initializer}
    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    kept = colorizer_file.read(small).manifest.precision_loss["last_layers_in_fp32"]
    for node in convolutions[: len(convolutions) - kept]:
        value, weight = (made[name] for name in node.input[:2])
        assert (value.op_type, weight.op_type) == ("DequantizeLinear", "DequantizeLinear")
        assert shapes[value.input[2]][0] == TensorProto.UINT8
        kind, (outputs, *_) = shapes[weight.input[0]]
        assert kind == TensorProto.INT8 and shapes[weight.input[1]] == (TensorProto.FLOAT, [outputs])
    assert all(node.input[1] in shapes for node in convolutions[len(convolutions) - kept :])


def test_int8_batched_is_unbatched_within_a_code_value(small: Path) -> None:
    painter = exported.load(small)
    luma = torch.rand(7, 1, 32, 48, generator=torch.Generator().manual_seed(0))
    together = painter.paint(luma)
    apart = torch.cat([painter.paint(one) for one in luma.split(1)])
    assert 255 * (together - apart).abs().max() <= 1


def test_the_loss_stated_is_what_a_fresh_measurement_gives(
    fp32: Path, fp16: Path, wide: Path, small: Path, colour: Path
) -> None:
    shown = pictures.from_stills([colour], MANIFEST, precision.STILLS)
    for source, target, taken in ((fp32, fp16, shown), (wide, small, shown.halves()[1])):
        manifest = colorizer_file.read(target).manifest
        stated = manifest.precision_loss
        model = onnx.load(target)
        if manifest.precision == "fp16":
            model = half.rehearsal(model)
        found = loss.measure(session(source.read_bytes()), session(model.SerializeToString()), taken)
        fresh = dataclasses.asdict(found)
        assert fresh == pytest.approx({name: stated[name] for name in fresh}, abs=1e-5)
        assert 0 < found.mean < found.largest < 20 and found.psnr_change and abs(found.psnr_change) < 0.5
        assert (found.pictures, found.kind) == (len(taken.items), "colour stills")
    assert stated["speed"]["batch"] == 4 and stated["speed"]["int8_ms"] > 0 and stated["calibrated_on"] == 4
    assert stated["ranges"] in ("Entropy", "MinMax")


def test_psnr_is_the_one_that_evaluations_state() -> None:
    chance = torch.Generator().manual_seed(0)
    rgb = torch.rand(1, 3, 48, 64, generator=chance)
    luma, _ = rgb_to_ycbcr(rgb)
    chroma = torch.rand(1, 2, 12, 16, generator=chance) * 0.4 - 0.2
    full = torch.nn.functional.interpolate(chroma, (48, 64), mode="bilinear")
    (expected,) = metrics.figures(ycbcr_to_rgb(luma, full), rgb)
    assert loss.psnr(chroma, luma, rgb) == pytest.approx(expected.psnr, abs=1e-4)


def test_int8_that_is_slower_is_refused(
    wide: Path, colour: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(int8, "speed", lambda *given: int8.Speed(2.0, 2.5, 4, 96, 128, 5))
    with pytest.raises(BadSettings, match=r"int8 is no gain: 2\.50 ms a frame against 2\.00 ms in fp32 on this CPU"):
        precision.convert(wide, tmp_path / "int8.onnx", "int8", [colour])
    assert not list(tmp_path.iterdir())


def test_int8_that_is_worse_is_refused_after_keeping_more_layers(
    wide: Path, colour: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, measured = loss.measure, []

    def worse(*given: Any) -> loss.Loss:
        measured.append(real(*given))
        return dataclasses.replace(measured[-1], psnr_change=-0.7)

    monkeypatch.setattr(int8, "speed", lambda *given: int8.Speed(2.0, 1.0, 4, 96, 128, 5))
    monkeypatch.setattr(loss, "measure", worse)
    monkeypatch.setattr(precision, "NEAR", 0.0)
    with pytest.raises(BadSettings, match=r"PSNR -0\.70 dB \(it must be faster and cost at most 0\.5 dB\): keep fp32"):
        precision.convert(wide, tmp_path / "int8.onnx", "int8", [colour])
    rounds = [measured[place : place + int8.KEPT + 1] for place in (0, int8.KEPT + 1)]  # none kept, one, ...
    assert len(measured) == len(int8.METHODS) * (int8.KEPT + 1) + 1  # and the best of them on other stills
    assert all(most.mean < none.mean for none, *_, most in rounds)
    assert not list(tmp_path.iterdir())


def test_speed_is_taken_of_both(fp32: Path, wide: Path) -> None:
    """The wide network does far more work: whatever the machine, it is the slower one."""
    taken = int8.speed(wide.read_bytes(), fp32.read_bytes(), MANIFEST)
    assert taken.fp32_ms > taken.int8_ms > 0
    assert (taken.batch, taken.height, taken.width) == (4, 96, 128) and 5 <= taken.runs <= 25


def test_without_stills_fp16_is_measured_on_made_pictures_and_says_so(fp32: Path, tmp_path: Path) -> None:
    manifest = precision.convert(fp32, tmp_path / "new" / "fp16.onnx", "fp16")
    stated = manifest.precision_loss
    assert (stated["pictures"], stated["kind"]) == (16, "pictures made on the spot")
    assert stated["psnr"] is stated["psnr_change"] is None and stated["largest"] > 0
    assert colorizer_file.read(tmp_path / "new" / "fp16.onnx").manifest == manifest


def test_gray_stills_are_told_from_colour(colour: Path, tmp_path: Path) -> None:
    gray = tmp_path / "gray"
    gray.mkdir()
    Image.effect_noise((96, 72), 60).save(gray / "noise.jpg")
    kinds = [pictures.from_stills(data, MANIFEST, 20).kind for data in ([gray], [colour], [gray, colour])]
    assert kinds == ["gray stills", "colour stills", "stills, 8 of 9 in colour"]


def test_the_command_converts_a_file_and_says_what_it_cost(fp32: Path, colour: Path, tmp_path: Path) -> None:
    out = tmp_path / "fp16.onnx"
    done = command.run("export", fp32, "-o", out, "--precision", "fp16", "--data", colour)
    assert done.returncode == 0, done.stderr
    stated = colorizer_file.read(out).manifest.precision_loss
    assert done.stdout.startswith(f"{out}: fp16, {stated['largest']:.2g} code values at most and ")
    assert done.stdout.endswith(f" from fp32, PSNR {stated['psnr_change']:+.2f} dB; measured on 8 colour stills\n")


def test_what_cannot_be_done_is_said_in_one_line(fp32: Path, fp16: Path, colour: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.onnx"
    for name, picture in (("gray", Image.effect_noise((64, 64), 60)), ("one", Image.new("RGB", (64, 64), "red"))):
        (tmp_path / name).mkdir()
        picture.save(tmp_path / name / "a.png")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "a.jpg").write_bytes(b"no picture")
    (tmp_path / "empty").mkdir()
    for source, asked, data, words in (
        (fp32, "fp8", [], "no precision 'fp8': choose from fp32, fp16, int8"),
        (fp32, "int8", [], "name a folder or zip of them with --data"),
        (fp32, "fp32", [colour], "fp32 is not measured on stills"),
        (fp32, "fp32", [], "is in fp32 already: name --precision fp16 or int8"),
        (fp16, "int8", [colour], "is in fp16: name the fp32 file that it was made from"),
        (fp32, "int8", [tmp_path / "gray"], "stills in colour, two or more"),
        (fp32, "int8", [tmp_path / "one"], "stills in colour, two or more"),
        (fp32, "fp16", [tmp_path / "broken"], "a.jpg is broken: no picture"),
        (fp32, "fp16", [tmp_path / "empty"], "holds no still"),
        (fp32, "fp16", [tmp_path / "none"], "does not exist: name a folder or a zip archive of stills"),
        (tmp_path / "none.onnx", "fp16", [], "cannot be read"),
    ):
        with pytest.raises((KinochromeError, TrainingError), match=words) as caught:
            precision.convert(source, out, asked, data)
        assert "\n" not in str(caught.value) and not out.exists()
    with pytest.raises(BadSettings, match="is the fp32 file itself"):
        precision.convert(fp32, fp32, "fp16")
    done = command.run("export", fp32, "-o", out, "--precision", "fp16", "--size", "64")
    assert done.returncode == 1 and "--size and --licence are for training runs" in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.slow
def test_a_run_is_exported_in_fp16_at_once(colour: Path, tmp_path: Path) -> None:
    settings = ["generator.width=8", "generator.depth=2", "discriminator.layers=1", "phases.0.size=32"]
    chosen = recipe.load("default", settings)
    checkpoint.save(tmp_path / "run" / "checkpoints", systems.build(chosen), chosen, 3)
    out = tmp_path / "mine.onnx"
    done = command.run("export", tmp_path / "run", "-o", out, "--precision", "fp16", "--size", "64", "--data", colour)
    assert done.returncode == 0, done.stderr
    manifest = colorizer_file.read(out).manifest
    assert manifest.precision == "fp16" and manifest.working_size == 64 and manifest.recipe["trained_steps"] == 3
    assert manifest.parity["largest"] < 0.01 and manifest.precision_loss["pictures"] == 8
