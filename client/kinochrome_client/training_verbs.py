"""The verbs that make colorizers: train, evaluate, export."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from kinochrome_proto.errors import BadSettings, KinochromeError

from .siblings import sibling


def train(
    recipe: Annotated[str, typer.Argument(help="A recipe by name, or a .toml file.")],
    out: Annotated[Path, typer.Option(help="The run's folder: log, samples, checkpoints, report.html.")],
    color: Annotated[list[Path], typer.Option(help="Folder or zip archive of colour stills; may be given again.")],
    gray: Annotated[
        list[Path] | None,
        typer.Option(
            help="Folder or zip of real black-and-white stills: what the cyclegan recipes learn to colour (else gray "
            "is made from half of the colour stills); the others show them in the samples."
        ),
    ] = None,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Length of the run, instead of the recipe's; phases keep their shares.")
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="PATH=VALUE", help="Override a setting, such as loss.l1=50 or phases.0.size=64."),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Carry the run on from its newest checkpoint.")] = False,
    accelerator: Annotated[
        str, typer.Option(help="auto, cpu, cuda, mps; auto takes a GPU where there is one.")
    ] = "auto",
    devices: Annotated[int, typer.Option(min=1, help="Processes to train with, each with a device of its own.")] = 1,
) -> None:
    """Train a generator on stills. Ctrl-C saves; the same command with --resume carries on exactly there.

    Recipes: cyclegan, cyclegan-unet, cyclegan-progressive, cyclegan-capsule, cyclegan-capsule-patch,
    cyclegan-stochastic, pix2pix, pix2pix-perceptual, semi-supervised, translate; default is what ships.

    Example: kinochrome train default --color stills.zip --out runs/first

    Stills from films: kinochrome frames OLD.mp4 -o gray; kinochrome frames NEW.mp4 -o color; then
    kinochrome train semi-supervised --gray gray --color color --out runs/film
    """
    from .progress import Display

    loop = sibling("kinochrome_trainer.loop", "trainer")
    recipes = sibling("kinochrome_trainer.recipe", "trainer")
    errors = sibling("kinochrome_trainer.errors", "trainer")
    with _training_errors(), Display(f"training {recipe}", "steps", "steps/s") as display:

        def show(progress: Any) -> None:
            terms = " ".join(f"{name} {value:.4f}" for name, value in progress.losses.items())
            note = f"{progress.pictures_per_second:.1f} pictures/s {terms}"
            display.update(progress.step, progress.steps, note)

        try:
            done = loop.train(
                recipes.load(recipe, set_ or []),
                out,
                colour=color,
                gray=gray or [],
                steps=steps,
                resume=resume,
                machine=loop.Machine(accelerator, devices),
                on_progress=show,
                on_warning=display.warn,
            )
        except errors.Stopped:
            print(f"kinochrome: saved in {out}; the same command with --resume carries on", file=sys.stderr)
            raise typer.Exit(130) from None
        except KeyboardInterrupt:
            print("kinochrome: interrupted; what the last checkpoint holds is kept", file=sys.stderr)
            raise typer.Exit(130) from None
    if done is not None:
        print(
            f"{out}: {done} steps, see {out / 'report.html'}; next: kinochrome evaluate {out} --data STILLS, "
            f"kinochrome export {out} -o MODEL.onnx"
        )


def evaluate(
    what: Annotated[
        Path, typer.Argument(metavar="RUN|MODEL.onnx", help="A training run's folder, or a colorizer file.")
    ],
    data: Annotated[list[Path], typer.Option(help="Folder or zip of held-out colour stills; may be given again.")],
    size: Annotated[
        int | None,
        typer.Option(min=1, help="Lines to paint at; default: the size of training, or the colorizer's own."),
    ] = None,
    classifier: Annotated[
        str,
        typer.Option(
            metavar="FILE|imagenet",
            help="SqueezeNet v1.0, a file of weights, or imagenet to fetch torchvision's: for the recognition rate "
            "and a distance of deep features.",
        ),
    ] = "",
    neighbours: Annotated[
        list[Path] | None,
        typer.Option(help="Folder or zip to seek nearest neighbours in, such as the training stills. Default: --data."),
    ] = None,
    sequences: Annotated[
        list[Path] | None,
        typer.Option(metavar="DIR|FILM", help="Colour clips, for steadiness: a film, a folder of frames, or of these."),
    ] = None,
    threshold: Annotated[
        float, typer.Option(min=0, max=1, help="Share of full scale within which a pixel counts as right.")
    ] = 0.05,
    seeds: Annotated[int, typer.Option(min=2, help="Colourings to compare, of a painter that has several.")] = 4,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where the results go; default: RUN, or MODEL.evaluation.")
    ] = None,
    json_: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
) -> None:
    """Measure colours on held-out stills, each made gray first, beside painting nothing and trivial painters.

    Left behind: evaluation.json, which `export` passes on; evaluation-stills.csv, still by still; evaluation-worst.jpg
    and evaluation-best.jpg (gray, painted, true), by PSNR above that of gray. Behind ± is half of a 95 % interval.

    Examples:

      kinochrome evaluate runs/mine --data held-out.zip --neighbours stills.zip

      kinochrome evaluate mine.onnx --data held-out.zip --classifier imagenet --sequences clips/
    """
    import json

    from . import report
    from .progress import Display

    modules = ("evaluation", "stills", "sequences", "classifier")
    evaluation, stills, clips, judges = (sibling(f"kinochrome_trainer.{name}", "trainer") for name in modules)
    with _training_errors(), Display("evaluating", "stills", "stills/s") as display:
        painter, lines, head = _painter(what)
        held_out = stills.Stills(data)
        found = evaluation.evaluate(
            painter,
            held_out,
            size or lines,
            threshold=threshold,
            seeds=seeds,
            classifier=judges.load(classifier) if classifier else None,
            neighbours=stills.Stills(neighbours) if neighbours else None,
            clips=clips.clips(sequences or []),
            on_progress=display.update,
        )
        folder = out or (what.with_suffix(".evaluation") if what.suffix == ".onnx" else what)
        evaluation.write(found, folder, painter, held_out, head)
        if folder == what and (what / "recipe.json").exists():
            sibling("kinochrome_trainer.report", "trainer").write(what)
    if json_:
        print(json.dumps({**head, **found.plain()}, indent=2))
    else:
        report.tables(evaluation.tables(found), [*found.notes, f"{folder}: {', '.join(evaluation.NAMES)}"])


def _painter(what: Path) -> tuple[Any, int, dict[str, Any]]:
    """The painter of a run or a colorizer file, its usual lines, and what to say of it in its evaluation."""
    if what.suffix == ".onnx":
        painter = sibling("kinochrome_export.exported", "export").load(what)
        step = painter.manifest.recipe.get("trained_steps")
        return painter, painter.manifest.working_size, {"step": step, "model": what.name}
    checkpoint = sibling("kinochrome_trainer.checkpoint", "trainer")
    generator, recipe, step = checkpoint.painter(checkpoint.latest(what))
    return generator, recipe.size, {"step": step}


def export(
    what: Annotated[
        Path, typer.Argument(metavar="RUN|MODEL.onnx", help="A training run's folder, or a colorizer file in fp32.")
    ],
    out: Annotated[Path, typer.Option("-o", "--out", help="The colorizer file to write, ending in .onnx.")],
    size: Annotated[
        int | None, typer.Option(min=1, help="Lines to paint films at; default: those of the evaluation.")
    ] = None,
    licence: Annotated[
        str | None, typer.Option(help="SPDX identifier of the weights' licence. Default: that of this project's own.")
    ] = None,
    precision: Annotated[
        str, typer.Option(help="fp32; fp16, for GPUs; int8, for CPUs, kept only where it is faster and true enough.")
    ] = "fp32",
    data: Annotated[
        list[Path] | None,
        typer.Option(help="Folder or zip of stills to measure fp16 and int8 on; may be given again. int8 needs some."),
    ] = None,
) -> None:
    """Turn a trained generator into one ONNX file that `colorize --model` takes, proven against PyTorch.

    A colorizer file in fp32 can be turned into fp16 or int8 too; what that costs is measured and kept in the file.

    Examples:

      kinochrome export runs/mine -o mine.onnx

      kinochrome export mine.onnx -o mine-int8.onnx --precision int8 --data stills.zip
    """
    if out.suffix != ".onnx":
        raise BadSettings(f"{out}: a colorizer file's name ends in .onnx")
    to_onnx, parity, precisions = (
        sibling(f"kinochrome_export.{name}", "export") for name in ("to_onnx", "parity", "precision")
    )
    with _training_errors():
        if what.suffix == ".onnx":
            if size or licence:
                raise BadSettings(f"{what} states its size and licence: --size and --licence are for training runs")
            manifest = precisions.convert(what, out, precision, data or [])
        else:
            try:
                manifest = precisions.export(
                    what, out, precision, data or [], working_size=size, licence=licence or to_onnx.LICENCE
                )
            except parity.ParityError as error:
                raise KinochromeError(str(error)) from None
    if precision == "fp32":
        largest = manifest.parity["largest"]
        print(f"{out}: {largest:.2g} code values at most from PyTorch, painting at {manifest.working_size} lines")
        return
    lost = manifest.precision_loss
    words = [f"{lost['largest']:.2g} code values at most and {lost['mean']:.2g} on average from fp32"]
    if lost["psnr_change"] is not None:
        words.append(f"PSNR {lost['psnr_change']:+.2f} dB")
    if "speed" in lost:
        words.append(f"{lost['speed']['fp32_ms'] / lost['speed']['int8_ms']:.1f} times as fast on this CPU")
    print(f"{out}: {precision}, {', '.join(words)}; measured on {lost['pictures']} {lost['kind']}")


@contextmanager
def _training_errors() -> Iterator[None]:
    errors = sibling("kinochrome_trainer.errors", "trainer")
    try:
        yield
    except errors.TrainingError as error:
        raise KinochromeError(str(error)) from None
    except OSError as error:
        raise KinochromeError(f"{error.filename or 'disk'}: {error.strerror or error}") from None
