"""The files of jobs: a film that is read while it is uploaded, one that is followed while it is written, the spool."""

import errno
import hashlib
import io
import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kinochrome_proto.errors import BadSettings, Cancelled
from kinochrome_server.jobs.coloured import ColouredFile
from kinochrome_server.jobs.folders import Spool, default_spool
from kinochrome_server.jobs.uploads import FilmFile, streamable
from kinochrome_server.sources import GrowingSource
from tests import films
from tests.films import Kind


def film_in(folder: Path, size: int = 0) -> tuple[FilmFile, GrowingSource]:
    source = GrowingSource(folder / "film-1")
    return FilmFile(source, size, durable=True), source


def test_a_reader_waits_for_bytes_and_sees_all_of_them(tmp_path: Path) -> None:
    upload, source = film_in(tmp_path)
    whole = bytes(range(256)) * 1000
    got: list[bytes] = []

    def read() -> None:
        with source.open() as file:
            while data := file.read(7000):
                got.append(data)

    reader = threading.Thread(target=read)
    reader.start()
    for start in range(0, len(whole), 9999):
        upload.append([whole[start : start + 5000], whole[start + 5000 : start + 9999]])
    assert reader.is_alive()  # it cannot know that this was all
    source.finish()
    reader.join(10)
    assert b"".join(got) == whole
    assert upload.sha256(threading.Event()) == hashlib.sha256(whole).digest()
    upload.close()


def test_seeking_to_the_end_waits_for_the_end(tmp_path: Path) -> None:
    upload, source = film_in(tmp_path)
    upload.append([b"abc"])
    sizes: list[int] = []
    file = source.open()
    seeker = threading.Thread(target=lambda: sizes.append(file.seek(0, io.SEEK_END)))
    seeker.start()
    seeker.join(0.2)
    assert seeker.is_alive()
    upload.append([b"def"])
    source.finish()
    seeker.join(10)
    assert sizes == [6]
    file.seek(4)
    assert file.read(100) == b"ef"
    assert file.read(100) == b""
    file.close()
    upload.close()


def test_cancelling_frees_waiting_readers(tmp_path: Path) -> None:
    upload, source = film_in(tmp_path)
    faults: list[BaseException] = []

    def read() -> None:
        try:
            with source.open() as file:
                file.read(1)
        except Cancelled as error:
            faults.append(error)

    reader = threading.Thread(target=read)
    reader.start()
    source.abandon()
    reader.join(10)
    assert len(faults) == 1
    upload.close()


def test_what_was_never_acknowledged_goes_when_the_film_is_opened_again(tmp_path: Path) -> None:
    upload, source = film_in(tmp_path)
    upload.append([b"acknowledged"])
    upload.append([b", and not"])
    upload.close()
    upload, _ = film_in(tmp_path, len("acknowledged"))
    assert source.path.read_bytes() == b"acknowledged"
    upload.append([b" twice"])
    assert upload.sha256(threading.Event()) == hashlib.sha256(b"acknowledged twice").digest(), (
        "of what an earlier server took, too"
    )
    upload.close()


def test_a_write_that_fails_adds_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    upload, source = film_in(tmp_path)
    upload.append([b"here"])
    real, left = os.pwrite, 3

    def short(file: int, data: Any, at: int) -> int:
        nonlocal left
        if not left:
            raise OSError(errno.ENOSPC, "No space left on device")
        count = real(file, data[:left], at)
        left -= count
        return count

    monkeypatch.setattr(os, "pwrite", short)
    with pytest.raises(OSError):
        upload.append([b"and more"])
    monkeypatch.undo()
    assert source.path.read_bytes() == b"here" and upload.size == 4
    upload.append([b" again"])
    assert source.path.read_bytes() == b"here again"
    assert upload.sha256(threading.Event()) == hashlib.sha256(b"here again").digest()
    upload.close()


Writes = Sequence[tuple[float, bytes]]
"""Where between the beginning and the end, and what."""


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 1), st.binary(min_size=1, max_size=50)), max_size=30), st.data())
def test_whoever_follows_a_file_and_gets_its_patches_has_the_file(writes: Writes, data: st.DataObject) -> None:
    """Bytes taken when they were appended, at any moment, and the patches at the end rebuild it."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "coloured"
        taken = bytearray()
        with ColouredFile(path, lambda size: None) as file:
            for where, written in writes:
                file.seek(round(where * file.size))
                file.write(written)
                if data.draw(st.booleans()):
                    taken += path.read_bytes()[len(taken) :]
            taken += path.read_bytes()[len(taken) :]
            whole = path.read_bytes()
            assert file.digest(threading.Event()) == hashlib.sha256(whole).digest()
            for start, length in file.patches:
                taken[start : start + length] = whole[start : start + length]
        assert taken == whole


def test_a_file_says_how_far_it_has_come_and_asks_for_room_first(tmp_path: Path) -> None:
    said: list[tuple[str, int]] = []
    with ColouredFile(
        tmp_path / "coloured", lambda size: said.append(("is", size)), lambda size: said.append(("wants", size))
    ) as file:
        file.write(b"12345")
        file.seek(1)
        file.write(b"x")
        file.seek(0, io.SEEK_END)
        file.write(b"6")
    assert said == [("wants", 5), ("is", 5), ("wants", 6), ("is", 6)]
    assert file.patches == [(1, 1)]


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (Kind("film.mkv", frames=10), True),
        (Kind("film.mp4", frames=10, faststart=True), True),
        (Kind("film.mp4", frames=10, faststart=False), False),
        (Kind("film.ts", frames=10), True),
        (Kind("film.avi", codec="mpeg4", frames=10), False),
    ],
    ids=lambda value: getattr(value, "name", str(value)),
)
def test_films_that_can_be_read_as_they_come_are_known(kind: Kind, expected: bool, tmp_path: Path) -> None:
    whole = films.make(tmp_path, kind).read_bytes()
    source = GrowingSource(tmp_path / "film-1")
    known = set()
    for size in range(0, len(whole), 97):
        source.path.write_bytes(whole[:size])
        known.add(streamable(source, size))
        if None not in (answer := {streamable(source, size)}):
            assert answer == {expected}
    assert known <= {None, expected} and expected in known


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=400))
def test_nothing_is_made_of_nonsense(data: bytes) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        source = GrowingSource(Path(folder) / "film-1")
        source.path.write_bytes(data)
        assert streamable(source, len(data)) in (True, False, None)


def test_a_spool_is_held_once_and_swept(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "a" / "spool")
    assert spool.path.stat().st_mode & 0o777 == 0o700
    with pytest.raises(BadSettings, match=f"in use by another server .process {os.getpid()}"):
        Spool(spool.path)
    mine, other = spool.job("mine"), spool.job("other")
    mine.make()
    other.make()
    (other.path / "film-1").write_bytes(b"x")
    (tmp_path / "elsewhere").mkdir()
    (spool.jobs / "link").symlink_to(tmp_path / "elsewhere")
    assert sorted(spool.sweep({"mine"})) == ["link", "other"]
    assert [path.name for path in spool.jobs.iterdir()] == ["mine"]
    assert (tmp_path / "elsewhere").exists()
    spool.close()
    Spool(spool.path).close()


def test_the_default_spool_is_durable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("STATE_DIRECTORY", raising=False)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert default_spool() == tmp_path / "kinochrome" / "spool"
    monkeypatch.setenv("XDG_STATE_HOME", "relative")  # to be ignored, says the specification
    assert default_spool() == Path.home() / ".local" / "state" / "kinochrome" / "spool"
    monkeypatch.setenv("STATE_DIRECTORY", "/var/lib/kinochrome:/elsewhere")
    assert default_spool() == Path("/var/lib/kinochrome/spool")
