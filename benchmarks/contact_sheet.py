"""Contact sheets: frames of a film above the same frames coloured."""

from pathlib import Path

import av
from PIL import Image


def pictures(film: Path, count: int, height: int) -> list[Image.Image]:
    """`count` frames spread over a film, each `height` lines tall."""
    with av.open(str(film)) as container:
        total = sum(1 for packet in container.demux(video=0) if packet.size)
    wanted = {round((index + 0.5) * total / count) for index in range(count)}
    found = []
    with av.open(str(film)) as container:
        for index, frame in enumerate(container.decode(video=0)):
            if index in wanted:
                picture = frame.to_image()  # type: ignore[no-untyped-call]
                found.append(picture.resize((round(picture.width * height / picture.height), height)))
    return found


def save(gray: Path, coloured: Path, sheet: Path, *, columns: int = 5, height: int = 240) -> None:
    """Write a PNG: gray above, coloured below."""
    rows = [pictures(film, columns, height) for film in (gray, coloured)]
    page = Image.new("RGB", (max(sum(p.width for p in row) for row in rows), 2 * height))
    for index, row in enumerate(rows):
        left = 0
        for picture in row:
            page.paste(picture, (left, index * height))
            left += picture.width
    page.save(sheet)
