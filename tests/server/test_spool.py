"""A film that is read while it is written, and one that is sent while it is written."""

import io
import threading
from pathlib import Path

from kinochrome_proto.errors import Cancelled
from kinochrome_server.spool import MESSAGE_SIZE, Run, SentFile, Upload


def test_a_reader_waits_for_bytes_and_sees_all_of_them(tmp_path: Path) -> None:
    upload = Upload(tmp_path / "film")
    whole = bytes(range(256)) * 1000
    got: list[bytes] = []

    def read() -> None:
        with upload.source.open() as file:
            while data := file.read(7000):
                got.append(data)

    reader = threading.Thread(target=read)
    reader.start()
    for start in range(0, len(whole), 9999):
        upload.append(whole[start : start + 9999])
    assert reader.is_alive()  # it cannot know that this was all
    upload.finish()
    reader.join(10)
    assert b"".join(got) == whole


def test_seeking_to_the_end_waits_for_the_end(tmp_path: Path) -> None:
    upload = Upload(tmp_path / "film")
    upload.append(b"abc")
    sizes: list[int] = []
    file = upload.source.open()
    seeker = threading.Thread(target=lambda: sizes.append(file.seek(0, io.SEEK_END)))
    seeker.start()
    seeker.join(0.2)
    assert seeker.is_alive()
    upload.append(b"def")
    upload.finish()
    seeker.join(10)
    assert sizes == [6]
    file.seek(4)
    assert file.read(100) == b"ef"
    assert file.read(100) == b""
    file.close()


def test_cancelling_frees_waiting_readers(tmp_path: Path) -> None:
    upload = Upload(tmp_path / "film")
    faults: list[BaseException] = []

    def read() -> None:
        try:
            with upload.source.open() as file:
                file.read(1)
        except Cancelled as error:
            faults.append(error)

    reader = threading.Thread(target=read)
    reader.start()
    upload.abandon()
    reader.join(10)
    assert len(faults) == 1


def test_what_is_sent_rebuilds_the_file_rewritten_headers_included(tmp_path: Path) -> None:
    runs: list[Run] = []
    with SentFile(tmp_path / "coloured", runs.append) as file:
        file.write(b"size=????" + bytes(MESSAGE_SIZE * 2))
        file.seek(5)
        file.write(b"1234")
        file.seek(0, io.SEEK_END)
        file.write(b"end")
        size, digest = file.digest()
    rebuilt = bytearray(size)
    for run in runs:
        assert len(run.data) <= MESSAGE_SIZE
        rebuilt[run.offset : run.offset + len(run.data)] = run.data
    assert rebuilt == (tmp_path / "coloured").read_bytes()
    assert rebuilt.startswith(b"size=1234") and rebuilt.endswith(b"end")
    assert len(digest) == 32
