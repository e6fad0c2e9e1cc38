"""From a trained run to a colorizer file that the server takes."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

import tests.trainer
from kinochrome_export import parity, to_onnx
from kinochrome_export.graph import LumaToChroma
from kinochrome_server import colorizers
from kinochrome_server.engine import CpuEngine
from kinochrome_trainer import checkpoint, loop, metrics, networks, recipe
from kinochrome_trainer.errors import BadRun
from tests.trainer import pictures
from tests.trainer.test_loop import small


@pytest.mark.parametrize("name", recipe.names())
def test_every_recipe_exports_and_paints_the_same_in_the_server(name: str, vgg: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    chosen = tests.trainer.small(name, "phases.0.steps=2", "loss.adversarial_from=0", f"features.weights={vgg}")
    stills = [pictures.make(tmp_path / "stills")]
    loop.train(chosen, run, colour=stills, gray=stills if chosen.data.keep_color else [])
    file = tmp_path / "new.onnx"
    manifest = to_onnx.export(run, file, working_size=64)
    assert [entry.name for entry in tmp_path.iterdir() if "new" in entry.name] == ["new.onnx"]  # no data file beside

    colorizer = colorizers.load(str(file))
    assert colorizer.manifest == manifest
    assert manifest.working_size == 64 and manifest.family == chosen.system
    assert manifest.recipe["trained_steps"] == 2
    assert recipe.from_table({key: manifest.recipe[key] for key in recipe.to_table(chosen)}) == chosen
    assert manifest.parity["largest"] < 0.01
    assert onnx.load(file).opset_import[0].version >= 18

    system, _, _ = checkpoint.restore(checkpoint.latest(run))
    graph, engine = LumaToChroma(system.average).eval(), CpuEngine(colorizer, seed=5)
    multiple = manifest.size_multiple
    for count, rows, columns in ((1, 2, 3), (7, 3, 2)):
        luma = np.random.default_rng(0).integers(0, 256, (count, rows * multiple, columns * multiple), dtype=np.uint8)
        noise = metrics.noise(system.average, 5)
        with torch.no_grad():
            expected = graph(
                torch.from_numpy(luma).unsqueeze(1), None if noise is None else noise.expand(count, -1)
            ).numpy()
        assert np.abs(engine.run(luma) - expected).max() < 0.01 / 255
    assert manifest.noise_length == (8 if name == "cyclegan-stochastic" else 0)


def test_figures_of_other_weights_are_refused(tmp_path: Path) -> None:
    run, stills = tmp_path / "run", pictures.make(tmp_path / "stills")
    loop.train(small("phases.0.steps=1"), run, colour=[stills])
    (run / "evaluation.json").write_text('{"step": 1, "working_size": 96}')
    assert to_onnx.export(run, tmp_path / "m.onnx").working_size == 96
    loop.train(small("phases.0.steps=2"), run, colour=[stills], resume=True)
    with pytest.raises(BadRun, match="its evaluation is of step 1, its newest checkpoint of step 2"):
        to_onnx.export(run, tmp_path / "m.onnx")


def test_a_file_that_computes_something_else_is_refused(tmp_path: Path) -> None:
    run = tmp_path / "run"
    loop.train(small("phases.0.steps=2"), run, colour=[pictures.make(tmp_path / "stills")])
    to_onnx.export(run, tmp_path / "good.onnx")
    system, _, _ = checkpoint.restore(checkpoint.latest(run))
    generator = system.average
    with torch.no_grad():
        assert isinstance(generator, networks.LightUNet) and generator.head.bias is not None
        generator.head.bias += 0.1
    with pytest.raises(parity.ParityError, match=r"good\.onnx differs from the trained network by"):
        parity.measure(LumaToChroma(generator).eval(), tmp_path / "good.onnx", generator.size_multiple)
