"""The pipeline's settings as they come over the wire, and from the command, which speaks the same language."""

from fractions import Fraction

from kinochrome_proto.kinochrome.v1 import colorizer_pb2 as wire

from .film import Clip
from .looks import Look
from .pipeline import Settings


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
