"""Built engines are kept whole, for one user, and built once."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from kinochrome_proto.errors import Unusable
from kinochrome_server.engines import engine_cache
from kinochrome_server.engines.engine_cache import EngineCache, Stale

PARTS = {"colorizer": "a" * 64, "gpu": "NVIDIA H100", "shapes": "luma 1x1x256x256"}


class Builder:
    """Builds what `read` reads, and counts."""

    def __init__(self, content: bytes = b"engine") -> None:
        self.builds, self._content = 0, content

    def __call__(self, folder: Path) -> None:
        assert not list(folder.iterdir())
        self.builds += 1
        (folder / "built").write_bytes(self._content)


def read(folder: Path) -> bytes:
    return (folder / "built").read_bytes()


@pytest.fixture
def cache(tmp_path: Path) -> EngineCache:
    return EngineCache(tmp_path / "cache", "made")


@pytest.fixture(autouse=True)
def _umask() -> Iterator[None]:
    before = os.umask(0)  # the most careless
    yield
    os.umask(before)


def test_an_engine_is_built_once(cache: EngineCache) -> None:
    build = Builder()
    assert [cache.load(PARTS, build, read) for _ in range(3)] == [b"engine"] * 3
    assert EngineCache(cache.folder, "made").load(dict(reversed(PARTS.items())), build, read) == b"engine"
    assert build.builds == 1


@pytest.mark.parametrize("part", PARTS)
def test_anything_it_depends_on_makes_another(cache: EngineCache, part: str) -> None:
    cache.load(PARTS, Builder(), read)
    other = Builder(b"other")
    assert cache.load({**PARTS, part: "b"}, other, read) == b"other"
    assert cache.load({key: value for key, value in PARTS.items() if key != part}, other, read) == b"other"
    assert other.builds == 2
    assert cache.load(PARTS, other, read) == b"engine"


def test_another_format_of_the_cache_makes_another(cache: EngineCache, monkeypatch: pytest.MonkeyPatch) -> None:
    cache.load(PARTS, Builder(), read)
    monkeypatch.setattr(engine_cache, "FORMAT", engine_cache.FORMAT + 1)
    assert cache.load(PARTS, Builder(b"new"), read) == b"new"


def test_an_entry_says_what_it_is_of(cache: EngineCache) -> None:
    cache.load(PARTS, Builder(), read)
    (record,) = cache.folder.glob("*/entry.json")
    assert json.loads(record.read_text())["parts"] == PARTS


@pytest.mark.parametrize("fault", ["changed", "cut", "gone", "record cut", "record of another", "record no object"])
def test_a_damaged_engine_is_built_anew_with_a_word(
    cache: EngineCache, fault: str, caplog: pytest.LogCaptureFixture
) -> None:
    cache.load(PARTS, Builder(), read)
    (built,) = cache.folder.glob("*/built")
    record = built.with_name("entry.json")
    match fault:
        case "changed":
            built.write_bytes(b"enginf")
        case "cut":
            built.write_bytes(b"")
        case "gone":
            built.unlink()
        case "record cut":
            record.write_bytes(record.read_bytes()[:-5])
        case "record of another":
            record.write_text(record.read_text().replace("H100", "H200"))
        case "record no object":
            record.write_text("[]")
    again = Builder()
    assert cache.load(PARTS, again, read) == b"engine"
    assert again.builds == 1
    assert "built anew" in caplog.text
    assert str(built.parent) in caplog.text


def test_a_whole_engine_that_does_not_load_is_built_anew_once(
    cache: EngineCache, caplog: pytest.LogCaptureFixture
) -> None:
    cache.load(PARTS, Builder(b"old"), read)

    def choosy(folder: Path) -> bytes:
        if (content := read(folder)) != b"new":
            raise Stale("is of another driver")
        return content

    assert cache.load(PARTS, Builder(b"new"), choosy) == b"new"
    assert "is of another driver: it is built anew" in caplog.text
    never = Builder(b"never")
    with pytest.raises(Unusable, match=r"the engine just built in .* is of another driver"):
        cache.load({**PARTS, "gpu": "another"}, never, choosy)
    assert never.builds == 1


def test_an_engine_is_on_the_disk_before_it_has_its_name(cache: EngineCache, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    fsync, rename = os.fsync, os.rename

    def synced(descriptor: int) -> None:
        order.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")).name)
        fsync(descriptor)

    def renamed(source: Path, target: Path) -> None:
        assert order == ["built", "entry.json", source.name] or order == ["entry.json", "built", source.name]
        order.append("renamed")
        rename(source, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "rename", renamed)
    cache.load(PARTS, Builder(), read)
    assert order[-2:] == ["renamed", cache.folder.name]


def test_a_build_that_fails_leaves_nothing(cache: EngineCache) -> None:
    def breaks(folder: Path) -> None:
        (folder / "built").write_bytes(b"half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cache.load(PARTS, breaks, read)
    assert [file.name for file in cache.folder.iterdir() if not file.name.endswith(".lock")] == []
    assert cache.load(PARTS, Builder(), read) == b"engine"


def test_what_a_killed_process_left_is_swept(cache: EngineCache) -> None:
    killed = (
        "import os, sys; from pathlib import Path; from kinochrome_server.engines.engine_cache import EngineCache\n"
        "def build(folder): (folder / 'built').write_bytes(b'half'); os.kill(os.getpid(), 9)\n"
        f"EngineCache(Path(sys.argv[1]), 'made').load({PARTS!r}, build, None)"
    )
    assert subprocess.run([sys.executable, "-c", killed, str(cache.folder)]).returncode == -9
    assert list(cache.folder.glob(".*")), "it died in the middle"
    assert cache.load(PARTS, Builder(), read) == b"engine", "its lock died with it"
    assert not list(cache.folder.glob(".*"))


def test_several_processes_at_once_build_one(cache: EngineCache) -> None:
    racer = (
        "import sys, time; from pathlib import Path\n"
        "from kinochrome_server.engines.engine_cache import EngineCache\n"
        "def build(folder):\n"
        "    with (folder / 'built').open('wb') as file:\n"
        "        for _ in range(20): file.write(b'x' * 1000); file.flush(); time.sleep(0.01)\n"
        "    print('built')\n"
        f"whole = EngineCache(Path(sys.argv[1]), 'made').load({PARTS!r}, build, lambda f: (f / 'built').read_bytes())\n"
        "assert len(whole) == 20000"
    )
    command = [sys.executable, "-c", racer, str(cache.folder)]
    racers = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    said = [process.communicate(timeout=60)[0] for process in racers]
    assert [process.returncode for process in racers] == [0, 0, 0]
    assert sorted(said) == ["", "", "built\n"]


def test_one_that_builds_for_ever_is_not_waited_for_for_ever(
    cache: EngineCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_cache, "PATIENCE_S", 0.3)
    building, done = threading.Event(), threading.Event()

    def slow(folder: Path) -> None:
        building.set()
        done.wait(30)
        Builder()(folder)

    thread = threading.Thread(target=cache.load, args=(PARTS, slow, read))
    thread.start()
    assert building.wait(30)
    try:
        with pytest.raises(Unusable, match=r"--engine made: another process has held .*\.lock for 0 minutes: end it"):
            cache.load(PARTS, Builder(), read)
        assert cache.load({**PARTS, "gpu": "another"}, Builder(), read) == b"engine", "others need not wait"
    finally:
        done.set()
        thread.join()
    assert cache.load(PARTS, Builder(b"never"), read) == b"engine"


def test_only_the_user_can_read_or_write_there(cache: EngineCache) -> None:
    cache.load(PARTS, Builder(), read)
    assert cache.folder.stat().st_mode & 0o777 == 0o700
    for folder in (entry for entry in cache.folder.iterdir() if entry.is_dir()):
        assert folder.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("mode", [0o720, 0o702, 0o777])
def test_a_folder_that_others_can_write_to_is_refused(tmp_path: Path, mode: int) -> None:
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(mode)
    with pytest.raises(Unusable, match=f"others can write to {tmp_path}/open, .*: chmod go-w {tmp_path}/open"):
        EngineCache(tmp_path / "open", "made")
    (tmp_path / "open").chmod(0o755)
    EngineCache(tmp_path / "open", "made")


def test_a_folder_that_others_can_replace_is_refused(tmp_path: Path) -> None:
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared").chmod(0o777)
    with pytest.raises(Unusable, match=rf"others can replace {tmp_path}/shared/own through {tmp_path}/shared"):
        EngineCache(tmp_path / "shared" / "own", "made")
    (tmp_path / "shared").chmod(0o1777)  # as /tmp is
    EngineCache(tmp_path / "shared" / "own", "made")


def test_a_folder_of_another_user_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    me = os.geteuid()
    (tmp_path / "own").mkdir(mode=0o700)
    monkeypatch.setattr(os, "geteuid", lambda: me + 1)
    with pytest.raises(Unusable, match="belongs to another user"):
        EngineCache(tmp_path / "own", "made")


def test_a_link_is_judged_by_what_it_leads_to(tmp_path: Path) -> None:
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    (tmp_path / "link").symlink_to(tmp_path / "open")
    with pytest.raises(Unusable, match="others can write"):
        EngineCache(tmp_path / "link", "made")


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(
        Unusable, match=r"cannot be kept: .*/file/cache: Not a directory: set XDG_CACHE_HOME to a folder of your own"
    ):
        EngineCache(tmp_path / "file" / "cache", "made")


def test_it_lies_in_the_users_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert EngineCache(None, "made").folder == tmp_path / "xdg" / "kinochrome" / "engines"
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")  # to be ignored, says the standard
    assert EngineCache(None, "made").folder == tmp_path / ".cache" / "kinochrome" / "engines"
    assert (tmp_path / ".cache").stat().st_mode & 0o777 == 0o700, "with all that had to be made above it"


def test_timings_are_kept_whole_or_not_at_all(cache: EngineCache) -> None:
    assert cache.timings(PARTS) == b""
    cache.keep_timings(PARTS, b"first")
    cache.keep_timings(PARTS, b"second\nline")
    assert cache.timings(PARTS) == b"second\nline"
    assert cache.timings({**PARTS, "gpu": "another"}) == b""
    (file,) = cache.folder.glob("*.timings")
    assert file.stat().st_mode & 0o777 == 0o600
    file.write_bytes(file.read_bytes()[:-1])
    assert cache.timings(PARTS) == b""
