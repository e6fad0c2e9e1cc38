"""From a trained run to a colorizer file that the server takes."""

import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from kinochrome_export import parity, to_onnx
from kinochrome_export.graph import LumaToChroma
from kinochrome_proto.probe import CODE_VALUES, Probe
from kinochrome_server import colorizers, verification
from kinochrome_server.engines.cpu import CpuEngine
from kinochrome_server.engines.interface import EngineSettings
from kinochrome_server.looks import Look
from kinochrome_server.pipeline import Settings, colorize
from kinochrome_server.pool import WorkerPool
from kinochrome_server.sources import FileSource
from kinochrome_trainer import checkpoint, metrics, networks, recipe
from kinochrome_trainer.errors import BadRun
from tests import films, reading
from tests.export import exports as made_exports
from tests.export.exports import Exports
from tests.films import Kind


@pytest.mark.parametrize("name", recipe.names())
def test_every_recipe_exports_and_paints_the_same_in_the_server(name: str, exports: Exports) -> None:
    """Deterministic and stochastic, in several sizes and batches, one by one and together."""
    export = exports(name)
    colorizer = colorizers.load(str(export.file))
    manifest, generator = colorizer.manifest, export.generator()
    engine, graph = CpuEngine(colorizer, EngineSettings(seed=5)), LumaToChroma(generator).eval()
    multiple, stride = manifest.size_multiple, manifest.chroma_stride
    chance = np.random.default_rng(0)
    for count, rows, columns in ((1, 2, 3), (7, 3, 2), (2, 2, 5)):
        luma = chance.integers(0, 256, (count, rows * multiple, columns * multiple), dtype=np.uint8)
        noise = metrics.noise(generator, 5)
        with torch.no_grad():
            expected = graph(
                torch.from_numpy(luma).unsqueeze(1), None if noise is None else noise.expand(count, -1)
            ).numpy()
        painted = engine.run(luma)
        assert painted.shape == (count, 2, rows * multiple // stride, columns * multiple // stride)
        assert painted.std() * CODE_VALUES > 2  # there is something to compare
        assert np.abs(painted - expected).max() < 0.01 / CODE_VALUES
        alone = np.concatenate([engine.run(picture[None]) for picture in luma])
        assert np.abs(painted - alone).max() < 1 / CODE_VALUES


@pytest.mark.parametrize("name", recipe.names())
def test_the_file_of_every_recipe_says_what_it_is(name: str, exports: Exports) -> None:
    export = exports(name)
    chosen, manifest = export.recipe, colorizers.load(str(export.file)).manifest
    assert [file.name for file in export.file.parent.glob(f"*{name}*")] == [f"{name}.onnx"]  # nothing lies beside it
    assert manifest.working_size == made_exports.LINES and manifest.family == chosen.system
    assert manifest.licence == "Apache-2.0" and manifest.precision == "fp32" and manifest.precision_loss == {}
    assert manifest.noise_length == chosen.generator.noise == (8 if name == "cyclegan-stochastic" else 0)
    assert manifest.recipe["trained_steps"] == made_exports.STEP
    assert recipe.from_table({key: manifest.recipe[key] for key in recipe.to_table(chosen)}) == chosen
    cases = manifest.parity["cases"]
    assert {case[0] for case in cases} == {1, 2, 5} and len({tuple(case[1:]) for case in cases}) >= 4
    assert all(side % manifest.size_multiple == 0 for case in cases for side in case[1:])
    assert 0 < manifest.parity["mean"] <= manifest.parity["largest"] < 0.01
    model = onnx.load(export.file)
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", to_onnx.OPSET)]
    assert str(Path(to_onnx.__file__).parents[2]).encode() not in export.file.read_bytes()  # no path of this machine


@pytest.mark.parametrize("name", ["default", "cyclegan-stochastic"])
def test_what_was_exported_is_verified_without_torch(name: str, exports: Exports, tmp_path: Path) -> None:
    file = exports(name).file
    found = verification.verify(colorizers.load(str(file)))
    assert found.painted_by == f"torch {torch.__version__}"
    assert found.from_probe is not None and found.from_probe < 0.01 and found.from_batch < 0.01
    probe = Probe.from_parity(colorizers.load(str(file)).manifest.parity, "")
    assert probe and len(probe.chroma) > 100 and np.std(probe.chroma) > 2


def test_seeds_choose_among_the_colourings_of_a_stochastic_export(exports: Exports, tmp_path: Path) -> None:
    """All the way to films: two seeds differ, one seed gives the same bytes again."""
    file, film = exports("cyclegan-stochastic").file, films.make(tmp_path, Kind("film.mkv", frames=8, size=(96, 64)))
    results = []
    with WorkerPool(1) as pool:
        for number, seed in enumerate((1, 1, 2)):
            out = tmp_path / f"{number}.mkv"
            with out.open("wb") as sink:
                look = Look(seed=seed)
                settings = Settings(colorizer=str(file), engine="cpu", container="mkv", codec="ffv1", look=look)
                colorize(FileSource(film), sink, settings, pool=pool)
            results.append(out)
    first, again, other = results
    assert first.read_bytes() == again.read_bytes()
    ours, theirs = (
        np.stack([plane for picture in reading.pictures(out) for plane in picture.planes[1:]]).astype(int)
        for out in (first, other)
    )
    assert np.abs(ours - theirs).mean() > 1  # code values


def test_figures_of_other_weights_are_refused(
    tmp_path: Path, exports: Exports, monkeypatch: pytest.MonkeyPatch
) -> None:
    export = exports("default")
    # The same weights, whose graph was traced already.
    monkeypatch.setattr(to_onnx, "_write", lambda graph, file, multiple: shutil.copy(export.file, file))
    run = shutil.copytree(export.run, tmp_path / "run")
    (run / "evaluation.json").write_text('{"step": 7, "working_size": 96}')
    manifest = to_onnx.export(run, tmp_path / "m.onnx", licence="CC-BY-4.0")
    assert manifest.working_size == 96 and manifest.evaluation == {"step": 7, "working_size": 96}
    assert colorizers.load(str(tmp_path / "m.onnx")).manifest == manifest
    made_exports.save_run(run, export.recipe, step=8)
    with pytest.raises(BadRun, match="its evaluation is of step 7, its newest checkpoint of step 8"):
        to_onnx.export(run, tmp_path / "m.onnx")


def test_a_file_that_computes_something_else_is_refused(exports: Exports) -> None:
    export = exports("default")
    generator = checkpoint.painter(checkpoint.latest(export.run))[0]
    with torch.no_grad():
        assert isinstance(generator, networks.LightUNet) and generator.head.bias is not None
        generator.head.bias += 0.1
    with pytest.raises(parity.ParityError, match=r"default\.onnx differs from the trained network by"):
        parity.measure(LumaToChroma(generator).eval(), export.file, generator.size_multiple)
