"""Where a CPU's colorizer is best run: in each worker, or in one process that fills batches for all of them.

    python -m benchmarks.inference FILM [--rounds 3]

All ways take turns, each in a pool that is warm; what counts are their ratios in one run.
"""

import argparse
import hashlib
import io
import statistics
import time
from dataclasses import dataclass
from pathlib import Path

from kinochrome_server.inference.batches import Batching
from kinochrome_server.inference.host import Inference, Options
from kinochrome_server.pipeline import Settings, colorize
from kinochrome_server.pool import WorkerPool, usable_cores
from kinochrome_server.sources import FileSource


@dataclass(frozen=True)
class Way:
    """How films are painted."""

    batch: int = 0
    """Of the inference process; 0: the workers paint."""
    threads: int = 1
    workers: int = usable_cores()

    def __str__(self) -> str:
        where = f"one process, batches of {self.batch}, {self.threads} threads" if self.batch else "in each worker"
        return f"{self.workers} workers, {where}"

    def pool(self, fills: list[int]) -> WorkerPool:
        """`fills`: gets the frames of each batch of the inference process."""
        if not self.batch:
            return WorkerPool(self.workers)
        options = Options(batching=Batching(self.batch), threads=self.threads)
        inference = Inference(options, on_batch=lambda frames, room: fills.append(frames))
        return WorkerPool(self.workers, gathers={"cpu"}, inference=inference)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("film", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    cores = usable_cores()
    ways = [Way(), Way(4), Way(8), Way(8, cores), Way(8, cores, cores + 1), Way(16, cores, 2 * cores)]
    fills: dict[Way, list[int]] = {way: [] for way in ways}
    times: dict[Way, list[float]] = {way: [] for way in ways}
    digests = set()
    for round in range(given.rounds):
        for way in ways:
            with way.pool(fills[way]) as pool:
                for measured in (False, True):  # the first starts the processes
                    begun, sink = time.perf_counter(), io.BytesIO()
                    colorize(FileSource(given.film), sink, Settings(engine="cpu"), pool=pool)
                    if measured:
                        times[way].append(time.perf_counter() - begun)
                digests.add(hashlib.sha256(sink.getvalue()).hexdigest())
            print(f"round {round + 1}: {way}: {times[way][-1]:.2f} s", flush=True)
    print("| way | s | as long as in each worker | frames a batch |\n|---|---|---|---|")
    for way in ways:
        ratio = statistics.median(mine / usual for mine, usual in zip(times[way], times[ways[0]], strict=True))
        fill = f"{statistics.mean(fills[way]):.1f}" if fills[way] else ""
        print(f"| {way} | {statistics.median(times[way]):.2f} | {ratio:.2f} | {fill} |")
    print(f"{len(digests)} different results")


if __name__ == "__main__":
    main()
