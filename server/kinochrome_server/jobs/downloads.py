"""Coloured films on their way out, while they come into being and afterwards."""

from collections.abc import AsyncGenerator, Awaitable, Callable
from pathlib import Path

import google_crc32c

from kinochrome_proto import errors
from kinochrome_proto.kinochrome.v1 import colorizer_pb2 as wire

from .job import CANCELLED, DONE, FAILED, Job

PIECE = 256 * 1024  # bytes of media in one message: larger ones gain little, smaller ones cost calls

Read = Callable[[Path, int, int], Awaitable[bytes]]
"""Bytes of a file from an offset on, at most so many; fewer where the file ends."""


async def media(job: Job, offset: int, read: Read) -> AsyncGenerator[wire.Media | None, None]:
    """The bytes from an offset on, as they come, then those that were written again; None when other things change.

    Ends when all of a finished film has been given. The film is read from its file at the reader's own pace: a slow
    reader holds nothing in memory. A film that is coloured anew, after a crash or for want of room, has the same bytes,
    so its readers wait until it has come as far as they have.

    Raises WrongOffset, DamagedOnTheWay when the film was sent anew, the reason why there is no coloured film, OSError.
    """
    film = job.film
    if offset < 0:
        raise errors.WrongOffset("a download begins at byte 0 or later").at("offset")
    while True:
        seen = job.version
        if job.gone or job.state in (FAILED, CANCELLED):
            raise job.fault()
        if job.film != film:
            raise errors.DamagedOnTheWay("the film is sent again from the start: so is what is coloured of it")
        if job.state == DONE and offset > job.coloured:
            raise errors.WrongOffset(f"the coloured film has {job.coloured} bytes, not {offset}: begin at 0").at(
                "offset"
            )
        if offset < job.coloured:
            data = await read(job.folder.coloured, offset, min(PIECE, job.coloured - offset))
            if data:
                yield wire.Media(offset=offset, data=data, crc32c=google_crc32c.value(data))
                offset += len(data)
                continue
            if job.state == DONE and not job.gone:
                raise errors.ServerFailed("the server lost the coloured film: send the film again")
        if job.state == DONE:
            break
        if seen == job.version:
            yield None
            await job.change(seen)
    for start, length in job.patches:
        for at in range(start, start + length, PIECE):
            data = await read(job.folder.coloured, at, min(PIECE, start + length - at))
            yield wire.Media(offset=at, data=data, crc32c=google_crc32c.value(data))


def piece_of(path: Path, offset: int, length: int) -> bytes:
    """Bytes of a file. Blocks. Gives none where there is no such file, or it is shorter. Raises OSError."""
    try:
        with path.open("rb", buffering=0) as file:
            file.seek(offset)
            return file.read(length)
    except FileNotFoundError:
        return b""
