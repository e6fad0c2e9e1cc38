"""Confinement of processes that handle bytes from strangers: no network, no other programs, bounded, few files.

`python -m kinochrome_server.sandbox TERMS MODULE ARGUMENT...` confines the process and runs the module in it, before
anything else is imported and any thread is started: what holds then holds for all of it, for good. With `--told` it
says what holds on this system, as JSON.

Each means stands alone, and what the system does not have is left out, and told:
- seccomp, through libseccomp: no sockets, no other programs, no other processes and no hold on those that are there;
- where that is missing, a network namespace of its own;
- Landlock: writes, and reads, only beneath the folders that are named, and no TCP;
- resource limits; no core dumps; no privileges to be gained.
"""

import contextlib
import ctypes
import ctypes.util
import errno
import json
import os
import resource
import runpy
import struct
import subprocess
import sys
import sysconfig
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

ADDRESS_SPACE = 16 << 30
"""Bytes: several times what a worker needs for 8K film. Who asks for more gets MemoryError, not the system's killer."""
FILE_SIZE = 1 << 40
"""Bytes of a file: more than any film's longest segment, losslessly encoded."""
OPEN_FILES = 512
PROCESSES = 512
"""More of this user's than there are already; only where seccomp does not forbid them altogether."""
SYSTEM_READS = ("/usr", "/lib", "/lib64", "/bin", "/etc/ld.so.cache", "/etc/localtime", "/proc", "/sys", "/dev")
"""What Python and libraries read, besides their own folders."""


@dataclass(frozen=True)
class Terms:
    """What a process may do."""

    address_space: int | None = ADDRESS_SPACE
    """Bytes; None: as much as it likes."""
    file_size: int = FILE_SIZE
    """Bytes of any file it writes."""
    reads: tuple[str, ...] | None = None
    """Folders and files that it may read besides the system's and Python's; None: all."""
    writes: tuple[str, ...] | None = None
    """Folders that it may write in; None: all."""
    spawns: bool = False
    """Whether it may start programs and speak to others on this machine, as drivers of GPUs do."""

    @classmethod
    def of_worker(cls, reads: Sequence[Path] | None = None, writes: Sequence[Path] | None = None) -> "Terms":
        """For workers that may read, and write, only there; None: anywhere. They read where they write, too."""
        wanted = None if reads is None else tuple(str(path.resolve()) for path in (*reads, *(writes or ())))
        return cls(reads=wanted, writes=None if writes is None else tuple(str(path.resolve()) for path in writes))

    @classmethod
    def of_driver(cls) -> "Terms":
        """For the process that runs a device: drivers map all memory, and write where they like."""
        return cls(address_space=None, spawns=True)


WORKER = Terms()
"""Of workers that may read and write anywhere."""


@dataclass(frozen=True)
class Held:
    """What holds of a process's terms on this system."""

    network: str = ""
    """What keeps it off the network: "seccomp", "namespace"; empty where nothing does."""
    processes: bool = False
    """Whether it is kept from starting others and from reaching into them."""
    files: bool = False
    """Whether it is held to the folders that were named."""
    missing: tuple[str, ...] = field(default=())
    """What this system lacks, in words."""

    def words(self) -> str:
        """In one line."""
        held = [
            f"no network ({self.network})" if self.network else "",
            "no other processes" if self.processes else "",
            "only their own folders (Landlock)" if self.files else "",
            "resource limits",
        ]
        return ", ".join(filter(None, held)) + (f"; missing: {'; '.join(self.missing)}" if self.missing else "")


def command(terms: Terms, module: str, *arguments: str) -> list[str]:
    """The command line that runs a module on these terms."""
    return [sys.executable, "-m", __name__, json.dumps(asdict(terms)), module, *arguments]


def told() -> Held:
    """What would hold of a worker's terms here, tried in a process of its own."""
    ran = subprocess.run([sys.executable, "-m", __name__, "--told"], capture_output=True, text=True, timeout=60)
    return held_from(json.loads(ran.stdout))


def held_from(plain: Mapping[str, Any]) -> Held:
    """From `asdict`, which a worker may have made up. Raises ValueError."""
    missing = plain.get("missing", ())
    if not isinstance(missing, list | tuple):
        raise ValueError("what is missing is no list")
    return Held(
        network=str(plain.get("network", ""))[:20],
        processes=plain.get("processes") is True,
        files=plain.get("files") is True,
        missing=tuple(str(words)[:200] for words in missing[:10]),
    )


def confine(terms: Terms) -> Held:
    """Bring this process, which must have no second thread, under its terms. There is no way back."""
    held = Held()
    _forbid_privileges()
    _limit(terms)
    try:
        # Before Landlock: to find libseccomp, programs are run.
        _filter_calls(terms)
        held = replace(held, network="seccomp", processes=not terms.spawns)
    except (ImportError, RuntimeError, OSError) as error:
        held = replace(held, missing=(*held.missing, f"seccomp ({error})"))
        try:
            _leave_network()
            held = replace(held, network="namespace")
        except OSError as refused:
            held = replace(held, missing=(*held.missing, f"a network namespace ({refused.strerror})"))
        if not terms.spawns:
            _limit_processes()
    try:
        if terms.reads is not None or terms.writes is not None:
            _hold_to_folders(terms)
            held = replace(held, files=True)
    except OSError as error:
        held = replace(held, missing=(*held.missing, f"Landlock ({error.strerror or error})"))
    return held


# Resource limits


def _limit(terms: Terms) -> None:
    _lower(resource.RLIMIT_CORE, 0)
    _lower(resource.RLIMIT_FSIZE, terms.file_size)
    if terms.address_space is not None:
        _lower(resource.RLIMIT_AS, terms.address_space)
        _lower(resource.RLIMIT_NOFILE, OPEN_FILES)


def _limit_processes() -> None:
    """Counted over all that this user runs; the kernel does not hold root to it."""
    _lower(resource.RLIMIT_NPROC, _tasks_of_this_user() + PROCESSES)


def _lower(limit: int, value: int) -> None:
    _, hard = resource.getrlimit(limit)
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(limit, (value, value))


def _tasks_of_this_user() -> int:
    count = 0
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdecimal() and entry.stat().st_uid == os.getuid():
                count += sum(1 for _ in (entry / "task").iterdir())
    return count


# System calls

_libc = ctypes.CDLL(None, use_errno=True)
_PR_SET_NO_NEW_PRIVS = 38
_CLONE_NEWNET, _CLONE_NEWUSER, _CLONE_THREAD = 0x40000000, 0x10000000, 0x00010000
_AF_UNIX = 1
# With io_uring a process can do without the calls that are forbidden here.
_NEVER = [
    "io_uring_setup",
    "io_uring_enter",
    "io_uring_register",
    "ptrace",
    "process_vm_readv",
    "process_vm_writev",
    "pidfd_getfd",
    "kcmp",
    "process_madvise",
    "bpf",
    "perf_event_open",
    "userfaultfd",
    "keyctl",
    "add_key",
    "request_key",
    "mount",
    "umount2",
    "pivot_root",
    "chroot",
    "unshare",
    "setns",
    "move_mount",
    "open_tree",
    "fsopen",
    "fsconfig",
    "fsmount",
    "fspick",
    "mount_setattr",
    "init_module",
    "finit_module",
    "delete_module",
    "kexec_load",
    "kexec_file_load",
    "open_by_handle_at",
    "name_to_handle_at",
    "swapon",
    "swapoff",
    "reboot",
    "acct",
    "quotactl",
    "settimeofday",
    "clock_settime",
    "adjtimex",
    "clock_adjtime",
    "sethostname",
    "setdomainname",
    "iopl",
    "ioperm",
    "syslog",
]
_SOCKETS = [
    "socket",
    "connect",
    "bind",
    "listen",
    "accept",
    "accept4",
    "sendmmsg",
]
_PROCESSES = [
    "fork",
    "vfork",
    "execve",
    "execveat",
    "pidfd_send_signal",
    "rt_sigqueueinfo",
    "rt_tgsigqueueinfo",
    "tkill",
    "setrlimit",
]


def _forbid_privileges() -> None:
    """Neither setuid programs nor file capabilities give any from here on; Landlock and seccomp ask for it."""
    if _libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "no_new_privs is refused")


def _filter_calls(terms: Terms) -> None:
    """Raises ImportError, RuntimeError where libseccomp is missing, OSError where the kernel refuses."""
    import pyseccomp  # looks for libseccomp, which a system may lack

    calls = pyseccomp.SyscallFilter(pyseccomp.ALLOW)
    refused = pyseccomp.ERRNO(errno.EPERM)

    def refuse(names: Iterable[str], *conditions: Any) -> None:
        for name in names:
            # One that libseccomp does not know is one that it is too old for, or that this processor has not.
            with contextlib.suppress(ValueError, OSError):
                calls.add_rule(refused, name, *conditions)

    refuse(_NEVER)
    if terms.spawns:
        calls.add_rule(refused, "socket", pyseccomp.Arg(0, pyseccomp.NE, _AF_UNIX))
    else:
        refuse(_SOCKETS)
        refuse(_PROCESSES)
        calls.add_rule(refused, "clone", pyseccomp.Arg(0, pyseccomp.MASKED_EQ, _CLONE_THREAD, 0))
        # Its flags lie in memory, out of the filter's sight: told that there is no such call, libc takes `clone`.
        calls.add_rule(pyseccomp.ERRNO(errno.ENOSYS), "clone3")
        own = pyseccomp.Arg(0, pyseccomp.NE, os.getpid())
        refuse(["kill", "tgkill"], own)
        refuse(["prlimit64"], pyseccomp.Arg(2, pyseccomp.NE, 0))
    calls.load()


def _leave_network() -> None:
    """Raises OSError where the kernel refuses."""
    # Root needs no user namespace for it; others may have one where the system lets them.
    if _libc.unshare(_CLONE_NEWNET) and _libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


# Landlock: <linux/landlock.h>; the numbers of its calls are the same on all processors

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_VERSION_FLAG, _PATH_BENEATH = 1, 1
_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_CHANGE_FOLDER = sum(1 << bit for bit in range(4, 13))  # remove and make entries of all kinds
_REFER, _TRUNCATE, _IOCTL_DEV = 1 << 13, 1 << 14, 1 << 15
_OF_FILES = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | _IOCTL_DEV
_NET_TCP, _SCOPES = 0b11, 0b11  # bind and connect; abstract sockets and signals beyond the process's own


def _hold_to_folders(terms: Terms) -> None:
    """Raises OSError where the kernel has no Landlock."""
    version = _call(_CREATE_RULESET, None, 0, _VERSION_FLAG)
    write = _WRITE_FILE | _CHANGE_FOLDER | (_REFER if version >= 2 else 0) | (_TRUNCATE if version >= 3 else 0)
    read = _READ_FILE | _READ_DIR
    handled = (write if terms.writes is not None else 0) | (read if terms.reads is not None else 0)
    if not terms.spawns:
        handled |= _EXECUTE
    attributes = struct.pack("=QQQ", handled, _NET_TCP, _SCOPES if not terms.spawns else 0)
    size = 8 if version < 4 or terms.spawns else 16 if version < 6 else 24
    rules = _call(_CREATE_RULESET, attributes, size, 0)
    try:
        for path, access in _rules(terms, read, write):
            _allow(rules, path, access & handled)
        _call(_RESTRICT_SELF, rules, 0)
    finally:
        os.close(rules)


def _rules(terms: Terms, read: int, write: int) -> Iterator[tuple[str, int]]:
    yield "/dev/null", write | read
    for path in terms.writes or ():
        yield path, write
    if terms.reads is not None:
        # An editable install lies where sys.path says.
        pythons = (sys.prefix, sys.base_prefix, sysconfig.get_path("stdlib"), *sys.path)
        for path in (*SYSTEM_READS, *filter(None, pythons), *terms.reads):
            yield path, read


def _allow(rules: int, path: str, access: int) -> None:
    try:
        found = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return  # what is not there needs no leave
    try:
        if not Path(path).is_dir():
            access &= _OF_FILES
        if access:
            _call(_ADD_RULE, rules, _PATH_BENEATH, struct.pack("=Qi", access, found), 0)
    finally:
        os.close(found)


def _call(number: int, *arguments: Any) -> int:
    given = [ctypes.c_long(value) if isinstance(value, int) else value for value in arguments]
    result: int = _libc.syscall(ctypes.c_long(number), *given)
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


HELD: Held | None = None
"""What holds of this process, once it is confined."""


def _terms(plain: dict[str, Any]) -> Terms:
    """From `asdict`, through JSON."""
    folders = {name: plain[name] and tuple(plain[name]) for name in ("reads", "writes")}
    return Terms(**{**plain, **folders})


def main() -> None:
    if sys.argv[1] == "--told":
        here = os.getcwd()
        print(json.dumps(asdict(confine(Terms(reads=(here,), writes=(here,))))))
        return
    held = confine(_terms(json.loads(sys.argv[1])))
    # The module imports this one under its own name: there it finds what holds.
    import kinochrome_server.sandbox as known

    known.HELD = held
    sys.argv = sys.argv[2:]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
