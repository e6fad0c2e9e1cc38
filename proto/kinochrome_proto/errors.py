"""The errors that people see, the same in one process and over the wire.

KinochromeError
├─ BadFilm             the input cannot be read as a film, or not wholly
├─ BadSettings         the settings ask for something that does not exist or does not fit
├─ UnknownColorizer    no colorizer of that name or file
├─ BadColorizer        a colorizer file is damaged or made for another version
├─ Unusable            an engine cannot run on this machine
├─ OutputInTheWay      the output exists, or its folder does not
├─ Cancelled           the user or the other side gave up
├─ NotAllowed          the server does not know the caller: no token, a wrong one, or no certificate
├─ NoSuchJob           the server has no job of that id, or it is another owner's
├─ WrongOffset         an upload or a download begins where the server has nothing to put it to
├─ DamagedOnTheWay     bytes arrived otherwise than they were sent
├─ QuotaReached        the owner has as many jobs, bytes or pixels on the server as it may
├─ ServerUnreachable   no server answers there
├─ ServerFull          the server has no room for the film
└─ ServerFailed        the server broke off for a reason of its own

The text of an error is one line: what, why, and what to do. `reason` is its name on the wire.
"""

from typing import ClassVar, Self


class KinochromeError(Exception):
    """Base of all errors that a person can mend."""

    reason: ClassVar[str] = "INTERNAL"
    field: str = ""
    """Of the request over the wire, the one that is at fault, such as "settings.crf"; "" where none is."""
    retry_s: float | None = None
    """Seconds after which trying again may help; None where it does not."""

    def at(self, field: str) -> Self:
        """The same error, with the field that is at fault."""
        self.field = field
        return self

    def retried_in(self, seconds: float) -> Self:
        """The same error, with the time after which trying again may help."""
        self.retry_s = seconds
        return self


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


class NotAllowed(KinochromeError):
    """The server does not know the caller: no token, a wrong one, or no certificate."""

    reason = "NOT_ALLOWED"


class NoSuchJob(KinochromeError):
    """The server has no job of that id, or it is another owner's."""

    reason = "NO_SUCH_JOB"


class WrongOffset(KinochromeError):
    """An upload or a download begins where the server has nothing to put it to."""

    reason = "WRONG_OFFSET"


class DamagedOnTheWay(KinochromeError):
    """Bytes arrived otherwise than they were sent."""

    reason = "DAMAGED_ON_THE_WAY"


class QuotaReached(KinochromeError):
    """The owner has as many jobs, bytes or pixels on the server as it may."""

    reason = "QUOTA_REACHED"


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
        NotAllowed,
        NoSuchJob,
        WrongOffset,
        DamagedOnTheWay,
        QuotaReached,
        ServerUnreachable,
        ServerFull,
        ServerFailed,
    )
}
