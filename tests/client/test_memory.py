"""Memory does not depend on a film's length."""

import os
import subprocess
import time
import uuid
from pathlib import Path

import pytest

from tests import films
from tests.client.test_resume import processes
from tests.films import Kind
from tests.server.serving import KINOCHROME


def peak(film: Path, out: Path) -> tuple[int, int]:
    """Largest resident sizes, in KiB: of the command's process, and of its largest worker."""
    mark = uuid.uuid4().hex
    environment = {**os.environ, "KINOCHROME_TEST": mark}
    largest: dict[int, int] = {}
    with subprocess.Popen([KINOCHROME, "colorize", film, "-o", out], env=environment, stderr=subprocess.PIPE) as run:
        while run.poll() is None:
            for pid in processes(mark):
                try:
                    status = Path(f"/proc/{pid}/status").read_text()
                except OSError:
                    continue
                high = [line for line in status.splitlines() if line.startswith("VmHWM")]
                if high:
                    largest[pid] = int(high[0].split()[1])
            time.sleep(0.05)
        assert run.returncode == 0
        main = largest.pop(run.pid)
    return main, max(largest.values())


@pytest.mark.slow
@pytest.mark.parametrize("gop", [48, 10_000], ids=["many segments", "one keyframe"])
def test_a_film_ten_times_as_long_takes_as_much_memory(gop: int, tmp_path: Path) -> None:
    peaks = []
    for frames in (200, 2000):
        kind = Kind(
            f"{frames}.mkv", size=(160, 120), frames=frames, gop=gop, audio="aac", options={"sc_threshold": "0"}
        )
        peaks.append(peak(films.make(tmp_path, kind), tmp_path / f"out{frames}.mkv"))
    (short_main, short_worker), (long_main, long_worker) = peaks
    print(f"peak RSS in KiB: main {short_main} and {long_main}, worker {short_worker} and {long_worker}")
    assert long_main < 1.1 * short_main
    assert long_worker < 1.1 * short_worker
