"""Everything goes wrong, and nothing is lost: a service under faults.

    python -m tests.faults --faults 100 --seed 1

A real server, clients that are real `kinochrome colorize --server` processes, and a line between them. While the
clients colour a set of films over and over, faults come at random places: the line is cut, stalls, slows or refuses;
server, worker processes and clients are killed (SIGKILL), the server is asked to stop (SIGTERM), the disk under the
spool is full for a while. A server that is gone is started again on its spool; a client that is gone is run again with
the same arguments, and so is one that gave up with an error that is no fault of its film's.

Every film must come out byte for byte as it does in an undisturbed run in one process, and every bad one be refused for
what is bad about it. In the end no process, no file of a job and no job may be left. The figures are printed as JSON;
the exit code is 1 when anything of that does not hold.

The spool lies on a small file system in memory, which is filled up where a full disk is asked for; where one cannot be
mounted (that takes root), there are no full disks, and the figures say so.
"""

import argparse
import contextlib
import hashlib
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests import films
from tests.films import Kind
from tests.proxy import Proxy

KINOCHROME = Path(sys.executable).with_name("kinochrome")
SPOOL_MB = 96
"""Size of the file system that the spool lies on."""
PAUSE_S = (0.3, 1.5)
"""Between one fault and the next."""
BALLAST_S = (0.5, 2.0)
"""How long the disk is full, the line stalls or is slow."""
FILM_S = 300.0
"""A film that has not come out after so long is stuck."""
CLIENTS = 3
CUT, NO_FILM = r"cut|breaks off|ends|damaged|short", r"no film|not a film|known|read"
"""Words of the lines with which the bad films are refused."""
MARK = "KINOCHROME_FAULTS"
"""Environment variable by which the processes of one run are found again."""


@dataclass(frozen=True)
class Subject:
    """A film, and what must become of it."""

    film: Path
    sha256: str
    """Of the coloured film; empty for one that must be refused."""
    fault: str = ""
    """Words of the one line with which it must be refused."""


@dataclass
class Tally:
    """What happened."""

    faults: Counter[str] = field(default_factory=Counter)
    coloured: int = 0
    refused: int = 0
    runs: int = 0
    """Clients started: each film takes one, and one more for each time that it broke off."""
    wrong: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    seconds: float = 0.0
    longest_s: float = 0.0
    """From a film's first client to its end."""

    @property
    def good(self) -> bool:
        return not self.wrong and not self.left

    def plain(self) -> dict[str, object]:
        """For JSON."""
        return {
            "faults": sum(self.faults.values()),
            "by kind": dict(sorted(self.faults.items())),
            "films coloured, byte for byte": self.coloured,
            "bad films refused": self.refused,
            "clients started": self.runs,
            "seconds": round(self.seconds, 1),
            "longest film, seconds": round(self.longest_s, 1),
            "wrong": self.wrong,
            "left behind": self.left,
        }


def subjects(folder: Path) -> list[Subject]:
    """Films of several kinds, with what an undisturbed run makes of them."""
    kinds = [
        Kind("streamed.mp4", frames=150, gop=25, audio="aac", faststart=True),
        Kind("index-last.mp4", frames=120, gop=20, audio="aac"),
        Kind("matroska.mkv", frames=100, gop=10, audio="flac", subtitle="srt", chapters=True),
        Kind("one-keyframe.mp4", frames=90, gop=250),
        Kind("large.mkv", frames=60, gop=15, size=(640, 480)),
    ]
    found = []
    for kind in kinds:
        film = films.make(folder, kind)
        coloured = folder / f"undisturbed{film.suffix}"
        subprocess.run([str(KINOCHROME), "colorize", str(film), "-o", str(coloured)], check=True, capture_output=True)
        found.append(Subject(film, hashlib.sha256(coloured.read_bytes()).hexdigest()))
        coloured.unlink()
    cut = folder / "cut.mp4"
    whole = found[0].film.read_bytes()
    cut.write_bytes(whole[: len(whole) // 2])
    text = folder / "text.mp4"
    text.write_bytes(b"This is no film.\n" * 1000)
    return [
        *found,
        Subject(cut, "", r"cut|breaks off|ends|damaged|short"),
        Subject(text, "", r"no film|not a film|known|read"),
    ]


class Disk:
    """A small file system for the spool, which can be full."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.folder = folder
        mount = ["mount", "-t", "tmpfs", "-o", f"size={SPOOL_MB}m,mode=0700", "kinochrome-faults", str(folder)]
        self.mounted = (
            os.geteuid() == 0
            and shutil.which("mount") is not None
            and subprocess.run(mount, capture_output=True, check=False).returncode == 0
        )
        self._ballast = folder / "ballast"

    def fill(self) -> None:
        """No byte more fits."""
        with self._ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(bytes(1 << 16))

    def empty(self) -> None:
        """It has room again."""
        self._ballast.unlink(missing_ok=True)

    def close(self) -> None:
        if self.mounted:
            subprocess.run(["umount", "-l", str(self.folder)], check=False)


class Service:
    """A server that is started again, at the same address and on the same spool, whenever it is gone."""

    def __init__(self, spool: Path, log: Path, environment: dict[str, str]) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.address = f"127.0.0.1:{free.getsockname()[1]}"
        self._command = [str(KINOCHROME), "serve", "--listen", self.address, "--spool", str(spool), "--drain", "5s"]
        self._log, self._environment = log.open("ab"), environment
        self._lock = threading.Lock()
        self._wanted = True
        self._process = self._start()
        self._keeper = threading.Thread(target=self._keep, name="service")
        self._keeper.start()

    def signal(self, number: signal.Signals) -> None:
        with self._lock:
            if self._process.poll() is None:
                self._process.send_signal(number)

    def kill_worker(self, chance: random.Random) -> bool:
        """Kill one of the processes that work for the server, if there is one."""
        workers = descendants(self._process.pid)
        if not workers:
            return False
        with contextlib.suppress(ProcessLookupError):
            os.kill(chance.choice(workers), signal.SIGKILL)
        return True

    def stop(self) -> int:
        """Ask it to stop for good; give its exit code."""
        with self._lock:
            self._wanted = False
            if self._process.poll() is None:
                self._process.send_signal(signal.SIGTERM)
        code = self._process.wait(60)
        self._keeper.join()
        self._log.close()
        return code

    def _start(self) -> "subprocess.Popen[bytes]":
        return subprocess.Popen(
            self._command, stdout=self._log, stderr=self._log, stdin=subprocess.DEVNULL, env=self._environment
        )

    def _keep(self) -> None:
        while True:
            self._process.wait()
            with self._lock:
                if not self._wanted:
                    return
                self._process = self._start()
            time.sleep(0.1)  # one that cannot start at all, for the disk is full, is not to be started all the time


class Faults:
    """Does to a service what seed and chance say."""

    def __init__(self, chance: random.Random, service: Service, proxy: Proxy, disk: Disk, tally: Tally) -> None:
        self._chance, self._service, self._proxy, self._disk, self._tally = chance, service, proxy, disk, tally
        self.clients: set[subprocess.Popen[str]] = set()
        """Those running, for one of them to be killed."""
        self._kinds: dict[str, Callable[[], bool]] = {
            "line cut": lambda: self._proxy.cut() > 0,
            "line stalled": lambda: self._for_a_while(self._proxy.stall, self._proxy.flow),
            "line slow": lambda: self._for_a_while(lambda: self._proxy.slow(50_000), lambda: self._proxy.slow(None)),
            "line refused": lambda: self._for_a_while(self._refuse, lambda: self._proxy.refuse(False)),
            "server killed": lambda: self._to_service(signal.SIGKILL),
            "server stopped": lambda: self._to_service(signal.SIGTERM),
            "worker killed": lambda: self._service.kill_worker(self._chance),
            "client killed": self._kill_client,
        }
        if disk.mounted:
            self._kinds["disk full"] = lambda: self._for_a_while(disk.fill, disk.empty)

    def run(self, count: int, ended: threading.Event) -> None:
        """So many faults, unless all is over before."""
        done = 0
        while done < count and not ended.wait(self._chance.uniform(*PAUSE_S)):
            kind = self._chance.choice(sorted(self._kinds))
            if self._kinds[kind]():
                self._tally.faults[kind] += 1
                done += 1

    def _for_a_while(self, begin: Callable[[], object], end: Callable[[], object]) -> bool:
        begin()
        time.sleep(self._chance.uniform(*BALLAST_S))
        end()
        return True

    def _refuse(self) -> None:
        self._proxy.refuse()
        self._proxy.cut()

    def _to_service(self, number: signal.Signals) -> bool:
        self._service.signal(number)
        return True

    def _kill_client(self) -> bool:
        running = [client for client in list(self.clients) if client.poll() is None]
        if running:
            self._chance.choice(running).kill()
        return bool(running)


class Customer:
    """Has films coloured, one after another, and does not give up."""

    def __init__(self, folder: Path, server: str, environment: dict[str, str], faults: Faults, tally: Tally) -> None:
        folder.mkdir()
        self._folder, self._server, self._environment = folder, server, environment
        self._faults, self._tally = faults, tally

    def have_coloured(self, subject: Subject) -> None:
        """Until it is there, or refused."""
        out = self._folder / subject.film.name
        command = [str(KINOCHROME), "colorize", str(subject.film), "-o", str(out), "--server", self._server]
        started = time.monotonic()
        said = ""
        while time.monotonic() - started < FILM_S:
            with subprocess.Popen(
                command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=self._environment
            ) as client:
                self._faults.clients.add(client)
                self._tally.runs += 1
                try:
                    said = client.communicate(timeout=FILM_S)[1]
                except subprocess.TimeoutExpired:
                    client.kill()
                finally:
                    self._faults.clients.discard(client)
            lines = [line for line in re.split(r"[\r\n]+", said) if line.strip()]
            said = lines[-1] if lines else ""
            if client.returncode == 0:
                self._check(subject, out)
                break
            if client.returncode == 1 and subject.fault and re.search(subject.fault, said):
                self._tally.refused += 1
                break
            if client.returncode not in (1, -signal.SIGKILL):
                self._tally.wrong.append(f"{subject.film.name}: exit code {client.returncode}: {said}")
                break
            if "Traceback" in "\n".join(lines):
                self._tally.wrong.append(f"{subject.film.name}: a traceback: {said}")
                break
            if client.returncode == 1 and not subject.fault and blames_the_film(said):
                self._tally.wrong.append(f"{subject.film.name} was refused, and nothing is wrong with it: {said}")
                break
            time.sleep(0.1)
        else:
            self._tally.wrong.append(f"{subject.film.name}: stuck for {FILM_S:.0f} s; at last: {said}")
        self._tally.longest_s = max(self._tally.longest_s, time.monotonic() - started)

    def _check(self, subject: Subject, out: Path) -> None:
        if not subject.sha256:
            self._tally.wrong.append(f"{subject.film.name} was coloured, though it is bad")
        elif hashlib.sha256(out.read_bytes()).hexdigest() != subject.sha256:
            self._tally.wrong.append(f"{subject.film.name}: coloured otherwise than undisturbed")
        else:
            self._tally.coloured += 1
        out.unlink()

    def left(self) -> list[str]:
        return sorted(str(path.relative_to(self._folder.parent)) for path in self._folder.iterdir())


def blames_the_film(said: str) -> bool:
    """Whether a client's last line says that the film is at fault."""
    return re.search(r"damaged film|no video|cannot be decoded|crashed its worker", said) is not None


def run(count: int, seed: int, folder: Path, *, clients: int = CLIENTS) -> Tally:
    """So many faults on a service in `folder`, with films to be coloured all the while."""
    tally, started = Tally(), time.monotonic()
    mark = f"{os.getpid()}-{seed}-{time.time_ns()}"
    environment = {**os.environ, MARK: mark, "XDG_STATE_HOME": str(folder / "state")}
    (folder / "films").mkdir(parents=True)
    wanted = subjects(folder / "films")
    disk = Disk(folder / "disk")
    try:
        spool = disk.folder / "spool"
        service = Service(spool, folder / "server.log", environment)
        ended = threading.Event()
        try:
            with Proxy(service.address, seed=seed) as proxy:
                faults = Faults(random.Random(seed), service, proxy, disk, tally)
                injector = threading.Thread(target=faults.run, args=(count, ended), name="faults")
                customers = [
                    Customer(folder / f"customer-{number}", proxy.address, environment, faults, tally)
                    for number in range(clients)
                ]
                threads = [
                    threading.Thread(target=_keep_busy, args=(customer, wanted, seed + number, injector, tally))
                    for number, customer in enumerate(customers)
                ]
                injector.start()
                for thread in threads:
                    thread.start()
                for thread in threads:
                    thread.join()
                ended.set()
                injector.join()
                tally.left += [f"job {line}" for line in _jobs(proxy.address, environment)]
        finally:
            code = service.stop()
        if code:
            tally.wrong.append(f"the server's exit code is {code}")
        tally.left += [f"file {path.relative_to(spool)}" for path in sorted((spool / "jobs").rglob("*"))]
        tally.left += [f"file {name}" for customer in customers for name in customer.left()]
        tally.left += [f"process {line}" for line in _processes(mark)]
    finally:
        disk.close()
    tally.seconds = time.monotonic() - started
    return tally


def _keep_busy(
    customer: Customer, wanted: Sequence[Subject], seed: int, injector: threading.Thread, tally: Tally
) -> None:
    """Films in another order each time, as long as there are faults."""
    chance = random.Random(seed)
    while True:
        for subject in chance.sample(wanted, len(wanted)):
            customer.have_coloured(subject)
            if not injector.is_alive() or tally.wrong:
                return


def _jobs(server: str, environment: dict[str, str]) -> list[str]:
    """Jobs that the server still has; those of clients that were killed before they knew of theirs go by themselves."""
    listed = subprocess.run(
        [str(KINOCHROME), "jobs", "list", "--server", server, "--json"],
        capture_output=True,
        text=True,
        env=environment,
        timeout=60,
        check=False,
    )
    if listed.returncode:
        return [f"unknown: {listed.stderr.strip()}"]
    return [f"{job.get('id')}: {job.get('state')}" for job in json.loads(listed.stdout)]


def descendants(pid: int) -> list[int]:
    """Processes that this one started, and those that they did."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with contextlib.suppress(OSError, ValueError):
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
    found, fresh = list[int](), {pid}
    while fresh:
        fresh = {child for child, parent in parents.items() if parent in fresh}
        found += fresh
    return sorted(found)


def _processes(mark: str) -> list[str]:
    """Of this run, those that have not ended; they get a moment."""
    for _ in range(50):
        found = list(_marked(mark))
        if not found:
            break
        time.sleep(0.1)
    return found


def _marked(mark: str) -> Iterator[str]:
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal() and int(entry.name) != os.getpid():
            with contextlib.suppress(OSError):
                if f"{MARK}={mark}".encode() in (entry / "environ").read_bytes():
                    yield f"{entry.name} {(entry / 'cmdline').read_bytes().replace(bytes(1), b' ').decode()[:120]}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faults", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--clients", type=int, default=CLIENTS, help="films on their way at once")
    parser.add_argument(
        "--folder", type=Path, help="where to work; kept, with the server's log. Default: a passing one"
    )
    args = parser.parse_args()
    with contextlib.ExitStack() as stack:
        if args.folder:
            args.folder.mkdir(parents=True)
        folder = args.folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        tally = run(args.faults, args.seed, folder, clients=args.clients)
    print(json.dumps(tally.plain(), indent=2))
    sys.exit(not tally.good)


if __name__ == "__main__":
    main()
