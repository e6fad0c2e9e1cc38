"""The verbs that take films: colorize, inspect, frames."""

import re
import sys
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kinochrome_proto.errors import BadFilm, BadSettings, OutputInTheWay

from . import server_options
from .output import CONTAINER_OF
from .siblings import local_errors, sibling

if TYPE_CHECKING:
    from kinochrome_proto.kinochrome.v1 import colorizer_pb2 as wire

    from .progress import Display
    from .server_options import Reach


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
    engine: Annotated[
        str,
        typer.Option(
            help="What runs the colorizer: auto, the best that works here; cpu, cuda, tensorrt or tensorrt-native; "
            "see `kinochrome doctor`."
        ),
    ] = "auto",
    server: Annotated[
        str | None,
        typer.Option(
            metavar="HOST:PORT",
            help="Colour on this server, with its engine, not in this process. Default: $KINOCHROME_SERVER.",
        ),
    ] = None,
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
    token_file: server_options.TokenFile = None,
    tls_ca: server_options.TlsCa = None,
    tls_cert: server_options.TlsCert = None,
    tls_key: server_options.TlsKey = None,
    tls_name: server_options.TlsName = "",
    priority: Annotated[
        int, typer.Option(min=-10, max=10, help="On a server: of your jobs, those of higher priority are begun first.")
    ] = 0,
    patience: server_options.Patience = 300.0,
) -> None:
    """Colour a film. Luma, timing, sound and subtitles stay the film's own; only colour is added.

    Interrupted, by Ctrl-C, a crash or a full disk? The same command carries on where it stopped: finished parts are
    kept beside the output, in OUT.kinochrome, until the film is finished. A server goes on meanwhile: see
    `kinochrome jobs`.

    Examples:

      kinochrome colorize old.mp4

      kinochrome colorize old.mkv -o coloured.mkv --codec ffv1

      kinochrome colorize old.mp4 -o look.mp4 --from 1:00 --to 1:10 --compare --saturation 1.3

      kinochrome colorize old.mp4 --server films.example.org:50551 --token-file token
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
    reach = server_options.reach(server, token_file, tls_ca, tls_cert, tls_key, tls_name, patience)
    if reach.server and engine != "auto":
        raise BadSettings("--engine: the server chooses its own, with `kinochrome serve --engine`; leave it out here")
    if not reach.server:
        refuse_existing(out, overwrite=overwrite)  # the client looks closer: it may have been about to clear away
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
        if reach.server:
            frames = _colorize_there(
                reach, film, out, settings, display, priority=priority, overwrite=overwrite, restart=restart
            )
        else:
            frames = _colorize_here(film, out, settings, engine, display, overwrite=overwrite, restart=restart)
    speed = f", {display.rate:.1f} fps" if display.rate else ""  # of a film that somebody else coloured meanwhile: none
    print(f"{out}: {frames} frames{speed}")


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
    reach: "Reach",
    film: Path,
    out: Path,
    settings: "wire.Settings",
    display: "Display",
    *,
    priority: int,
    overwrite: bool,
    restart: bool,
) -> int:
    from .job_display import Shown, remote_errors

    with remote_errors(out), reach.client() as client:
        return client.colorize(
            film,
            out,
            settings=settings,
            priority=priority,
            overwrite=overwrite,
            restart=restart,
            on_progress=Shown(display),
            on_warning=display.warn,
        ).frames


def _colorize_here(
    film: Path,
    out: Path,
    asked: "wire.Settings",
    engine: str,
    display: "Display",
    *,
    overwrite: bool,
    restart: bool,
) -> int:
    from . import unfinished
    from .output import NewFile

    pipeline, sources, wired = (
        sibling(f"kinochrome_server.{name}", "server") for name in ("pipeline", "sources", "wired")
    )
    source = sources.FileSource(film)
    folder = unfinished.folder_of(out)
    if (there := unfinished.recorded(out)) and not restart:
        raise OutputInTheWay(
            f"{folder} holds an unfinished run on server {there.server}: --server {there.server} carries on, "
            "--restart begins anew"
        )
    kept = f"finished parts are kept in {folder}: the same command carries on"
    with local_errors(lambda: kept if folder.exists() else "nothing was left behind"):
        settings = pipeline.decided(wired.settings(asked, engine), display.warn)
        with (
            pipeline.journal_in(folder, source, settings, restart=restart) as journal,
            NewFile(out, overwrite=overwrite, folder=folder) as new,
        ):
            report = pipeline.colorize(
                source,
                new.file,
                settings,
                journal=journal,
                on_engine=lambda words: display.say(f"engine {words}"),
                on_progress=display.update,
                on_resumed=display.skip,
                on_warning=display.warn,
            )
            new.commit()
            journal.remove()
    return int(report.frames)


def inspect(
    film: Annotated[Path, typer.Argument(help="The film to look at.")],
    json_: Annotated[bool, typer.Option("--json", help="Print it as JSON.")] = False,
    lenient: Annotated[bool, typer.Option("--lenient", help="Of a damaged film, tell what can be read.")] = False,
) -> None:
    """Tell what a film is, without colouring it: streams, frames, cuts, shots in colour, what would be lost, time."""
    import json

    from . import report
    from .progress import Display

    inspection, sources = (sibling(f"kinochrome_server.{name}", "server") for name in ("inspection", "sources"))
    if not film.is_file():
        raise BadFilm(f"{film} is not a file")
    with (
        local_errors(lambda: "nothing was left behind"),
        Display(f"looking at {film.name}", "frames", "fps") as display,
    ):
        found = inspection.inspect(sources.FileSource(film), lenient=lenient, on_progress=display.update)
    if json_:
        print(json.dumps(found.plain(), indent=2))
    else:
        report.show(film.name, found.plain())


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
        sibling(f"kinochrome_server.{name}", "server") for name in ("frames", "sources", "pool")
    )
    total, read = gathering.Tally(), 0
    wanted = gathering.Wanted(per_shot, every, size, format_, lenient)
    with (
        local_errors(lambda: f"films that were read to their end have their stills in {out}"),
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
