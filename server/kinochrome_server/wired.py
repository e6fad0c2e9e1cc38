"""The pipeline's settings as they come over the wire, and from the command, which speaks the same language."""

import re
from fractions import Fraction

from kinochrome_proto.errors import BadSettings, UnknownColorizer
from kinochrome_proto.kinochrome.v1 import colorizer_pb2 as wire

from . import colorizers
from .codecs import choose_codec, choose_container
from .film import Clip
from .looks import Look
from .pipeline import Settings

_FIELDS = {
    "--crf": "crf",
    "--preset": "preset",
    "--from": "from_us",
    "--to": "to_us",
    "--saturation": "look.saturation",
    "--warmth": "look.warmth",
    "--stabilize": "look.stabilize",
    "--seed": "look.seed",
    "--reference": "look.references",
    "--strict": "strict",
    "codec": "codec",
    "container": "container",
}
"""Fields of a call's settings, by what the command calls them; errors speak of these."""


def settings(asked: wire.Settings, engine: str) -> Settings:
    """The pipeline's settings for those of a call; who runs the pipeline chooses the engine."""
    look = asked.look
    given = {field.name: value for field, value in look.ListFields() if field.name != "references"}
    return Settings(
        colorizer=asked.colorizer,
        engine=engine,
        look=Look(**given, references=tuple(look.references)),
        clip=Clip(
            Fraction(asked.from_us, 1_000_000),
            Fraction(asked.to_us, 1_000_000) if asked.HasField("to_us") else None,
        ),
        codec=asked.codec,
        container=asked.container,
        crf=asked.crf if asked.HasField("crf") else None,
        preset=asked.preset,
        pix_fmt=asked.pix_fmt,
        keep_color=asked.keep_color,
        deinterlace=asked.deinterlace,
        compare=asked.compare,
        lenient=asked.lenient,
        strict=asked.strict,
    )


def check(asked: wire.Settings, engine: str) -> None:
    """What can be told of the settings without a film.

    Raises BadSettings and UnknownColorizer, with the field that is at fault, and BadColorizer.
    """
    try:
        wanted = settings(asked, engine)
        if wanted.strict and wanted.lenient:
            raise BadSettings("--strict and --lenient exclude each other: choose one")
        choose_codec(wanted.codec, choose_container(wanted.container), crf=wanted.crf, preset=wanted.preset)
        if wanted.clip.start < 0:
            raise BadSettings(f"--from {float(wanted.clip.start):g} s lies before the film's first moment")
        if wanted.clip.stop is not None and wanted.clip.stop <= wanted.clip.start:
            stop, start = float(wanted.clip.stop), float(wanted.clip.start)
            raise BadSettings(f"--to {stop:g} s does not come after --from {start:g} s")
        colorizers.load(wanted.colorizer, files=False)
    except UnknownColorizer as fault:
        raise fault.at("settings.colorizer") from None
    except BadSettings as fault:
        word = re.search(r"--[a-z]+|codec|container", str(fault))
        field = _FIELDS.get(word.group(), "") if word else ""
        raise fault.at(f"settings.{field}" if field else "settings") from None
