"""The `kinochrome` command. A verb parses, calls, prints; what it needs is imported when it runs."""

import importlib
import re
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kinochrome_proto.errors import BadFilm, BadSettings, KinochromeError

if TYPE_CHECKING:
    from kinochrome_proto.kinochrome.v1 import colorizer_pb2 as wire

    from .progress import Display

app = typer.Typer(
    name="kinochrome",
    help="Colorizes black-and-white film. Start with: kinochrome colorize FILM",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

CONTAINER_OF = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "mkv", ".webm": "webm"}


def main() -> None:
    """Entry point: one line and exit code 1 for errors that a person can mend, 130 for Ctrl-C, 2 for bad usage."""
    try:
        app()
    except KinochromeError as error:
        print(f"kinochrome: {error}", file=sys.stderr)
        sys.exit(1)


def _sibling(module: str, extra: str) -> ModuleType:
    """Import another of Kinochrome's packages, which may not be installed."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise KinochromeError(
            f"this needs {error.name}, which is not installed: pip install 'kinochrome[{extra}]'"
        ) from None


@contextmanager
def _local_errors(what_is_left: Callable[[], str]) -> Iterator[None]:
    """Disk errors while writing, Ctrl-C and a polite kill, in one line that also says what is left behind."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    except KeyboardInterrupt:
        print(f"kinochrome: interrupted; {what_is_left()}", file=sys.stderr)
        raise typer.Exit(130) from None
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        raise KinochromeError(f"{error.strerror or error}{where}; {what_is_left()}") from None


def _version(asked: bool) -> None:
    if asked:
        print(version("kinochrome"))
        raise typer.Exit


@app.callback()
def _global(
    show_version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    pass


@app.command()
def colorize(
    film: Annotated[Path, typer.Argument(help="The black-and-white film: MP4, MKV, MOV, AVI, TS, WebM, ...")],
    out: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--out",
            help="The coloured film; .mp4, .mov, .mkv or .webm. Default: FILM.color.mp4, or .mkv for Matroska.",
        ),
    ] = None,
    model: Annotated[
        str, typer.Option(help="A colorizer by name (see `kinochrome models`) or an .onnx file.")
    ] = "default",
    server: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="Colour on this server instead of in this process.")
    ] = "",
    saturation: Annotated[float | None, typer.Option(help="How vivid: 0 gray, 1 as painted, up to 3.")] = None,
    warmth: Annotated[float | None, typer.Option(help="From -1, cold, to 1, warm.")] = None,
    stabilize: Annotated[
        float | None,
        typer.Option(help="Steadiness of colours: 0 none, 1 most. Default: 0.8."),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Another colouring, of colorizers that have several.")] = None,
    reference: Annotated[
        list[Path] | None,
        typer.Option(metavar="STILL", help="A colour still whose palette steers the film; may be given again."),
    ] = None,
    keep_color: Annotated[
        bool, typer.Option("--keep-color", help="Leave shots as they are that are in colour already.")
    ] = False,
    compare: Annotated[bool, typer.Option("--compare", help="Gray left, coloured right, in one picture.")] = False,
    start: Annotated[str, typer.Option("--from", metavar="TIME", help="Start there: seconds, 1:30 or 1:02:03.5.")] = "",
    stop: Annotated[str, typer.Option("--to", metavar="TIME", help="End there.")] = "",
    codec: Annotated[
        str, typer.Option(help="h264, h265, av1, vp9, prores, or ffv1 (lossless). Default: the container's usual one.")
    ] = "",
    crf: Annotated[
        int | None, typer.Option(help="Quality, in the codec's own scale: lower is better and larger.")
    ] = None,
    preset: Annotated[str, typer.Option(help="Speed against size, in the codec's own words.")] = "",
    pix_fmt: Annotated[
        str, typer.Option(help="Output pixel format. Default: what keeps the film's luma depth and chroma grid.")
    ] = "",
    deinterlace: Annotated[
        bool,
        typer.Option("--deinterlace", help="Turn interlaced film into whole frames. Default: it stays interlaced."),
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the output if it exists.")] = False,
    restart: Annotated[
        bool, typer.Option("--restart", help="Begin anew, though an interrupted run could be carried on.")
    ] = False,
    lenient: Annotated[bool, typer.Option("--lenient", help="Of a damaged film, colour what can be read.")] = False,
    strict: Annotated[
        bool, typer.Option("--strict", help="Refuse a film of which anything would be lost, instead of warning.")
    ] = False,
) -> None:
    """Colour a film. Luma, timing, sound and subtitles stay the film's own; only colour is added.

    Interrupted, by Ctrl-C, a crash or a full disk? The same command carries on where it stopped: finished parts are
    kept beside the output, in OUT.kinochrome, until the film is finished.

    Examples:

      kinochrome colorize old.mp4

      kinochrome colorize old.mkv -o coloured.mkv --codec ffv1

      kinochrome colorize old.mp4 -o look.mp4 --from 1:00 --to 1:10 --compare --saturation 1.3
    """
    from kinochrome_proto.kinochrome.v1 import colorizer_pb2 as wire

    from .output import refuse_existing
    from .progress import Display

    if not film.exists():
        raise BadFilm(f"{film} does not exist")
    if not film.is_file():
        raise BadFilm(f"{film} is not a file")
    out = out or film.with_name(f"{film.stem}.color.{'mkv' if film.suffix.lower() in ('.mkv', '.webm') else 'mp4'}")
    if out.suffix.lower() not in CONTAINER_OF:
        raise BadSettings(f"{out}: the output's ending chooses its container; use {', '.join(CONTAINER_OF)}")
    if out.exists() and out.samefile(film):
        raise BadSettings(f"{out} is the film itself: choose another -o")
    refuse_existing(out, overwrite=overwrite)
    settings = wire.Settings(
        colorizer=model,
        codec=codec,
        container=CONTAINER_OF[out.suffix.lower()],
        crf=crf,
        preset=preset,
        pix_fmt=pix_fmt,
        look=wire.Look(
            saturation=saturation,
            warmth=warmth,
            stabilize=stabilize,
            seed=seed,
            references=[_still(path) for path in reference or []],
        ),
        from_us=_microseconds("--from", start),
        to_us=_microseconds("--to", stop),
        keep_color=keep_color,
        deinterlace=deinterlace,
        compare=compare,
        lenient=lenient,
        strict=strict,
    )
    with Display(film.name, "frames", "fps") as display:
        if server:
            frames = _colorize_there(server, film, out, settings, display, overwrite=overwrite)
        else:
            frames = _colorize_here(film, out, settings, display, overwrite=overwrite, restart=restart)
    print(f"{out}: {frames} frames, {display.rate:.1f} fps")


def _still(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise BadSettings(f"--reference {path} cannot be read: {error.strerror}") from None


def _microseconds(option: str, time: str) -> int | None:
    """A point in time as people write it: 90, 1:30, 0:01:30.5; None when it is empty."""
    if not time:
        return None
    match = re.fullmatch(r"(?:(?:(\d+):)?(\d+):)?(\d+(?:\.\d+)?)", time)
    if not match:
        raise BadSettings(f"{option} {time} is no time: write seconds, minutes:seconds or hours:minutes:seconds")
    hours, minutes, seconds = (Fraction(part or 0) for part in match.groups())
    return round((3600 * hours + 60 * minutes + seconds) * 1_000_000)


def _colorize_there(
    server: str, film: Path, out: Path, settings: "wire.Settings", display: "Display", *, overwrite: bool
) -> int:
    from . import remote
    from .output import NewFile

    if settings.ByteSize() > remote.MAX_SETTINGS:
        raise BadSettings(
            "--reference: for a server the stills may be 3 MB in all; make them smaller, 800 pixels will do"
        )
    with _local_errors(lambda: "nothing was left behind"), NewFile(out, overwrite=overwrite) as new:
        frames = remote.colorize(server, film, new.file, settings, on_progress=display.update, on_warning=display.warn)
        new.commit()
    return frames


def _colorize_here(
    film: Path, out: Path, asked: "wire.Settings", display: "Display", *, overwrite: bool, restart: bool
) -> int:
    from .output import NewFile

    pipeline, sources, wired = (
        _sibling(f"kinochrome_server.{name}", "server") for name in ("pipeline", "sources", "wired")
    )
    source, settings = sources.FileSource(film), wired.settings(asked)
    folder = out.with_name(f"{out.name}.kinochrome")
    kept = f"finished parts are kept in {folder}: the same command carries on"
    with (
        _local_errors(lambda: kept if folder.exists() else "nothing was left behind"),
        pipeline.journal_in(folder, source, settings, restart=restart) as journal,
        NewFile(out, overwrite=overwrite, folder=folder) as new,
    ):
        report = pipeline.colorize(
            source,
            new.file,
            settings,
            journal=journal,
            on_progress=display.update,
            on_resumed=display.skip,
            on_warning=display.warn,
        )
        new.commit()
        journal.remove()
    return int(report.frames)


@app.command()
def inspect(
    film: Annotated[Path, typer.Argument(help="The film to look at.")],
    json_: Annotated[bool, typer.Option("--json", help="Print it as JSON.")] = False,
    lenient: Annotated[bool, typer.Option("--lenient", help="Of a damaged film, tell what can be read.")] = False,
) -> None:
    """Tell what a film is, without colouring it: streams, frames, cuts, shots in colour, what would be lost, time."""
    import json

    from . import report
    from .progress import Display

    inspection, sources = (_sibling(f"kinochrome_server.{name}", "server") for name in ("inspection", "sources"))
    if not film.is_file():
        raise BadFilm(f"{film} is not a file")
    with (
        _local_errors(lambda: "nothing was left behind"),
        Display(f"looking at {film.name}", "frames", "fps") as display,
    ):
        found = inspection.inspect(sources.FileSource(film), lenient=lenient, on_progress=display.update)
    if json_:
        print(json.dumps(found.plain(), indent=2))
    else:
        report.show(film.name, found.plain())


@app.command()
def frames(
    films: Annotated[list[Path], typer.Argument(metavar="FILM", help="The films: MP4, MKV, MOV, AVI, TS, WebM, ...")],
    out: Annotated[
        Path, typer.Option("-o", "--out", metavar="DIR", help="Where the stills go, a folder in it for each film.")
    ],
    per_shot: Annotated[int, typer.Option(min=1, max=64, help="Stills of a shot at most, spread over it.")] = 2,
    every: Annotated[
        float, typer.Option(min=1, metavar="SECONDS", help="Of a longer shot, one more still for each so many.")
    ] = 10.0,
    size: Annotated[
        int, typer.Option(min=0, metavar="LINES", help="Short side; nothing is enlarged. 0: the film's own.")
    ] = 256,
    format_: Annotated[str, typer.Option("--format", help="jpg (quality 95, 4:4:4) or png (lossless).")] = "jpg",
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the stills that an earlier run left in the films' folders.")
    ] = False,
    lenient: Annotated[bool, typer.Option("--lenient", help="Of a damaged film, take what can be read.")] = False,
) -> None:
    """Take stills from films, to train with: of each shot a few, the sharpest, no two alike.

    They are DIR/FILM/TIME.jpg: the film's name without its ending, the time in milliseconds from its first moment.
    Pixels are square, the picture upright, fields made whole, black bars cut off. A film in colour gives stills in
    colour; one in gray, or tinted, gives gray ones. Left out are frames that are blurred, blank (black, white, next to
    nothing, titles on black), damaged, or much like a still that is kept already, of this film or one before it.

    A film that cannot be read is told of and the others are done; the exit code is 1 then. Nothing is left of a film
    that was not read to its end, and nothing is overwritten unless you say --overwrite.

    Examples:

      kinochrome frames holiday.mp4 -o stills

      kinochrome frames films/*.mkv -o stills --per-shot 3 --size 0 --format png

      kinochrome frames colour/*.mp4 -o stills && kinochrome train default --color stills --out runs/mine

      kinochrome frames old/*.mp4 -o gray && kinochrome train default --color stills --gray gray --out runs/old
    """
    from .progress import Display

    gathering, sources, pools = (
        _sibling(f"kinochrome_server.{name}", "server") for name in ("frames", "sources", "pool")
    )
    total, read = gathering.Tally(), 0
    wanted = gathering.Wanted(per_shot, every, size, format_, lenient)
    with (
        _local_errors(lambda: f"films that were read to their end have their stills in {out}"),
        pools.WorkerPool() as pool,
    ):
        gleaner = gathering.Gleaner(wanted, pool)
        for film, folder in zip(films, gathering.folders(films, out, overwrite=overwrite), strict=True):
            try:
                if not film.is_file():
                    raise BadFilm(f"{film} is not a file" if film.exists() else f"{film} does not exist")
                with Display(f"looking at {film.name}", "frames", "fps") as display:
                    tally = gleaner.glean(
                        sources.FileSource(film),
                        folder,
                        overwrite=overwrite,
                        on_progress=display.update,
                        on_warning=display.warn,
                    )
            except BadFilm as error:
                print(f"kinochrome: {error}", file=sys.stderr)
                continue
            print(f"{folder}: {tally.kept} stills, shots: {tally.shots}")
            total.add(tally)
            read += 1
    dropped = f"{total.blurred} blurred, {total.duplicate} duplicate, {total.blank} blank, {total.damaged} damaged"
    print(f"{read} of {len(films)} films, shots: {total.shots}, stills kept: {total.kept}, dropped: {dropped}")
    if read < len(films):
        raise typer.Exit(1)


@app.command()
def serve(
    listen: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="Loopback address to serve on; port 0 takes a free one.")
    ] = "127.0.0.1:50551",
    spool: Annotated[
        Path | None, typer.Option(help="Folder for films on their way. Default: a private one, removed at the end.")
    ] = None,
) -> None:
    """Serve films over gRPC. Stop it with Ctrl-C: running films get a few seconds to end."""
    import asyncio
    import logging

    service = _sibling("kinochrome_server.service", "server")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    host = listen.rpartition(":")[0]
    asyncio.run(
        service.serve(
            listen, spool, on_ready=lambda port: print(f"ready on {host}:{port}", file=sys.stderr, flush=True)
        )
    )


@app.command()
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

    loop = _sibling("kinochrome_trainer.loop", "trainer")
    recipes = _sibling("kinochrome_trainer.recipe", "trainer")
    errors = _sibling("kinochrome_trainer.errors", "trainer")
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


@app.command()
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
    evaluation, stills, clips, judges = (_sibling(f"kinochrome_trainer.{name}", "trainer") for name in modules)
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
            _sibling("kinochrome_trainer.report", "trainer").write(what)
    if json_:
        print(json.dumps({**head, **found.plain()}, indent=2))
    else:
        report.tables(evaluation.tables(found), [*found.notes, f"{folder}: {', '.join(evaluation.NAMES)}"])


def _painter(what: Path) -> tuple[Any, int, dict[str, Any]]:
    """The painter of a run or a colorizer file, its usual lines, and what to say of it in its evaluation."""
    if what.suffix == ".onnx":
        painter = _sibling("kinochrome_export.exported", "export").load(what)
        step = painter.manifest.recipe.get("trained_steps")
        return painter, painter.manifest.working_size, {"step": step, "model": what.name}
    checkpoint = _sibling("kinochrome_trainer.checkpoint", "trainer")
    generator, recipe, step = checkpoint.painter(checkpoint.latest(what))
    return generator, recipe.size, {"step": step}


@app.command()
def export(
    run: Annotated[Path, typer.Argument(help="A training run's folder.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="The colorizer file to write, ending in .onnx.")],
    size: Annotated[
        int | None, typer.Option(min=1, help="Lines to paint films at; default: those of the evaluation.")
    ] = None,
    licence: Annotated[
        str | None, typer.Option(help="SPDX identifier of the weights' licence. Default: that of this project's own.")
    ] = None,
) -> None:
    """Turn a trained generator into one ONNX file that `colorize --model` takes, proven against PyTorch."""
    if out.suffix != ".onnx":
        raise BadSettings(f"{out}: a colorizer file's name ends in .onnx")
    to_onnx = _sibling("kinochrome_export.to_onnx", "export")
    parity = _sibling("kinochrome_export.parity", "export")
    with _training_errors():
        try:
            manifest = to_onnx.export(run, out, working_size=size, licence=licence or to_onnx.LICENCE)
        except parity.ParityError as error:
            raise KinochromeError(str(error)) from None
    largest = manifest.parity["largest"]
    print(f"{out}: {largest:.2g} code values at most from PyTorch, painting at {manifest.working_size} lines")


@contextmanager
def _training_errors() -> Iterator[None]:
    errors = _sibling("kinochrome_trainer.errors", "trainer")
    try:
        yield
    except errors.TrainingError as error:
        raise KinochromeError(str(error)) from None
    except OSError as error:
        raise KinochromeError(f"{error.filename or 'disk'}: {error.strerror or error}") from None


@app.command()
def models(
    server: Annotated[str, typer.Option(metavar="HOST:PORT", help="List a server's colorizers instead.")] = "",
) -> None:
    """List the colorizers that --model may name."""
    from rich.console import Console
    from rich.table import Table

    console = Console(width=None if sys.stdout.isatty() else 160)
    table = Table(box=None)
    if server:
        from . import remote

        for column in ("name", "sha256"):
            table.add_column(column)
        for info in remote.server_info(server).colorizers:
            table.add_row(info.name, info.sha256[:12])
    else:
        colorizers = _sibling("kinochrome_server.colorizers", "server")
        for column in ("name", "family", "lines", "MB", "PSNR over gray", "colourfulness", "licence", "sha256"):
            table.add_column(column)
        for name in colorizers.shipped():
            colorizer = colorizers.load(name)
            manifest, figures = colorizer.manifest, colorizer.manifest.evaluation
            gain = f"{figures['ours']['psnr'] - figures['gray']['psnr']:+.2f} dB" if figures else "not measured"
            vivid = (
                f"{figures['ours']['colourfulness'] / figures['truth_colourfulness']:.0%} of truth" if figures else ""
            )
            table.add_row(
                name,
                manifest.family,
                str(manifest.working_size),
                f"{len(colorizer.content) / 1e6:.1f}",
                gain,
                vivid,
                manifest.licence,
                colorizer.sha256[:12],
            )
    console.print(table)


@app.command()
def doctor() -> None:
    """Say what this machine can do, and what stands in the way. Exit code 1 when films cannot be coloured here."""
    from . import doctor as examination

    findings = examination.examine()
    for finding in findings:
        print(finding.line())
    if any(finding.state == "fault" for finding in findings):
        raise typer.Exit(1)
