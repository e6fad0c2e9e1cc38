"""What jobs may take, and for how long."""

from dataclasses import dataclass

from kinochrome_proto.errors import BadSettings

GIB = 1 << 30
UPLOAD_SHARE = 0.75
"""Of the spool, what films on their way in may fill: the rest is for what is coloured, or nothing would get out."""


@dataclass(frozen=True)
class Limits:
    """What jobs may take, and for how long. Owners are those that tokens or certificates name."""

    active: int = 8
    """Jobs that are coloured at once; they share the workers. Others wait. At least 1."""
    spool_bytes: int = 100 * GIB
    """Of all jobs: films, finished segments, coloured films. At least 1."""
    owner_jobs: int = 100
    """Jobs that an owner may have on the server. At least 1."""
    owner_bytes: int = 0
    """Bytes that an owner's jobs may take; 0: as many as there are."""
    owner_pixels: int = 0
    """Pixels (width x height x frames) that may be coloured for an owner in a day; 0: any number."""
    keep_done_s: float = 7 * 86_400
    """A coloured film waits so long to be fetched, and a failed or cancelled job to be asked about."""
    keep_abandoned_s: float = 86_400
    """A film that is not wholly uploaded waits so long for its next byte."""
    upload_idle_s: float = 120
    """Longest silence of an upload that is under way."""

    def __post_init__(self) -> None:
        """Raises BadSettings."""
        for option, value, least in (
            ("--active", self.active, 1),
            ("--spool-bytes", self.spool_bytes, 1),
            ("--owner-jobs", self.owner_jobs, 1),
            ("--owner-bytes", self.owner_bytes, 0),
            ("--owner-pixels", self.owner_pixels, 0),
        ):
            if value < least:
                raise BadSettings(f"{option} {value} is too small: at least {least}")
        for option, seconds in (
            ("--keep", self.keep_done_s),
            ("--keep-abandoned", self.keep_abandoned_s),
            ("--upload-idle", self.upload_idle_s),
        ):
            if not 0.1 <= seconds < 1e9:  # NaN included
                raise BadSettings(f"{option} {seconds:g} s is out of range: 0.1 s to 30 years")
