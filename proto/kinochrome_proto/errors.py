"""The errors that people see, the same in one process and over the wire.

KinochromeError
├─ BadFilm             the input cannot be read as a film, or not wholly
├─ BadSettings         the settings ask for something that does not exist or does not fit
├─ UnknownColorizer    no colorizer of that name or file
├─ BadColorizer        a colorizer file is damaged or made for another version
├─ Unusable            an engine cannot run on this machine
├─ OutputInTheWay      the output exists, or its folder does not
├─ Cancelled           the user or the other side gave up
├─ ServerUnreachable   no server answers there
├─ ServerFull          the server has no room for the film
└─ ServerFailed        the server broke off for a reason of its own

The text of an error is one line: what, why, and what to do. `reason` is its name on the wire.
"""

from typing import ClassVar


class KinochromeError(Exception):
    """Base of all errors that a person can mend."""

    reason: ClassVar[str] = "INTERNAL"


class BadFilm(KinochromeError):
    """The input cannot be read as a film, or not wholly."""

    reason = "BAD_FILM"


class BadSettings(KinochromeError):
    """The settings ask for something that does not exist or does not fit."""

    reason = "BAD_SETTINGS"


class UnknownColorizer(KinochromeError):
    """No colorizer of that name or file."""

    reason = "UNKNOWN_COLORIZER"


class BadColorizer(KinochromeError):
    """A colorizer file is damaged or made for another version."""

    reason = "BAD_COLORIZER"


class Unusable(KinochromeError):
    """An engine cannot run on this machine."""

    reason = "ENGINE_UNUSABLE"


class OutputInTheWay(KinochromeError):
    """The output exists, or its folder does not."""

    reason = "OUTPUT_IN_THE_WAY"


class Cancelled(KinochromeError):
    """The user or the other side gave up."""

    reason = "CANCELLED"


class ServerUnreachable(KinochromeError):
    """No server answers there."""

    reason = "SERVER_UNREACHABLE"


class ServerFull(KinochromeError):
    """The server has no room for the film."""

    reason = "SERVER_FULL"


class ServerFailed(KinochromeError):
    """The server broke off for a reason of its own."""

    reason = "SERVER_FAILED"


BY_REASON: dict[str, type[KinochromeError]] = {
    error.reason: error
    for error in (
        BadFilm,
        BadSettings,
        UnknownColorizer,
        BadColorizer,
        Unusable,
        OutputInTheWay,
        Cancelled,
        ServerUnreachable,
        ServerFull,
        ServerFailed,
    )
}
