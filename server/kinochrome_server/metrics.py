"""What the server counts, for Prometheus; docs/operating.md explains each name.

Functions here may be called from any thread, and cost a few microseconds. Nothing here names an owner, a job or a film:
whoever may read the figures learns nothing about anybody.
"""

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    start_http_server,
)

from kinochrome_proto.errors import BadSettings

log = logging.getLogger(__name__)

REGISTRY = CollectorRegistry(auto_describe=True)
"""Of this process alone: nothing that a library registers for itself gets in."""
ProcessCollector(registry=REGISTRY)
disable_created_metrics()  # type: ignore[no-untyped-call]  # twice the series, which hardly anybody reads

STAGES_S = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100)
"""Buckets for what takes from a hundredth of a second to minutes."""
ASK_S = 10.0
"""Time that a reader of the figures gets to say what it wants: each holds a thread."""

_info = Gauge("kinochrome_info", "1, with what serves.", ["version", "engine"], registry=REGISTRY)
_ready = Gauge(
    "kinochrome_ready", "1 once a batch has run on the engine, 0 while the server drains.", registry=REGISTRY
)
_frames = Counter("kinochrome_frames", "Frames coloured.", registry=REGISTRY)
_batches = Counter("kinochrome_batches", "Batches that went through a colorizer.", registry=REGISTRY)
_batch_frames = Counter("kinochrome_batch_frames", "Frames in those batches.", registry=REGISTRY)
_fill = Histogram(
    "kinochrome_batch_fill",
    "Frames of a batch by those that it has room for.",
    buckets=(0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875, 1),
    registry=REGISTRY,
)
_stages = Histogram(
    "kinochrome_stage_seconds", "Time that a stage took for a segment.", ["stage"], buckets=STAGES_S, registry=REGISTRY
)
_tasks = Gauge("kinochrome_tasks_waiting", "Segments that wait for a worker.", registry=REGISTRY)
_deaths = Counter("kinochrome_worker_deaths", "Workers that died in mid-segment or were ended.", registry=REGISTRY)
_bytes_in = Counter("kinochrome_received_bytes", "Bytes of films received.", registry=REGISTRY)
_bytes_out = Counter("kinochrome_sent_bytes", "Bytes of coloured films sent.", registry=REGISTRY)
_jobs = Gauge("kinochrome_jobs", "Jobs in the spool.", ["state"], registry=REGISTRY)
_ended = Counter("kinochrome_jobs_ended", "Jobs that came to an end.", ["state"], registry=REGISTRY)
_failures = Counter("kinochrome_failures", "Jobs that failed.", ["reason"], registry=REGISTRY)
_queue = Gauge("kinochrome_queue_jobs", "Committed jobs that wait for a place.", registry=REGISTRY)
_queue_s = Histogram(
    "kinochrome_queue_seconds",
    "Time that a committed job waited for its place.",
    buckets=(0.1, 1, 10, 60, 600, 3600, 36000),
    registry=REGISTRY,
)
_spool = Gauge("kinochrome_spool_bytes", "Bytes in the spool.", registry=REGISTRY)
_spool_limit = Gauge("kinochrome_spool_limit_bytes", "Bytes that the spool may hold.", registry=REGISTRY)
_calls = Counter("kinochrome_calls", "Calls that ended.", ["method", "code"], registry=REGISTRY)
_turned_away = Counter("kinochrome_callers_turned_away", "Calls of callers not known.", ["why"], registry=REGISTRY)
_expiry = Gauge(
    "kinochrome_certificate_expiry_timestamp_seconds", "When the server's certificate expires.", registry=REGISTRY
)


def serving(engine: str) -> None:
    """The server is ready, with this engine."""
    _info.labels(version("kinochrome"), engine).set(1)
    _ready.set(1)


def draining() -> None:
    """The server takes no more."""
    _ready.set(0)


def frames_coloured(count: int) -> None:
    """More frames are coloured. Those taken back by a worker's second try are not uncounted."""
    if count > 0:
        _frames.inc(count)


def batch(frames: int, room: int) -> None:
    """A batch of so many frames, 1 to `room`, went through a colorizer."""
    _batches.inc()
    _batch_frames.inc(frames)
    _fill.observe(frames / room)


def stage(name: str, seconds: float) -> None:
    """A stage, such as "decode", "colour" or "encode", took so long for a segment."""
    _stages.labels(name).observe(seconds)


def tasks_waiting(ask: Callable[[], int]) -> None:
    """How to find out how many segments wait for a worker; asked whenever somebody reads the figures."""
    _tasks.set_function(ask)


def worker_died() -> None:
    """A worker died in mid-segment, or had to be ended."""
    _deaths.inc()


def bytes_in(count: int) -> None:
    """More bytes of a film were received."""
    _bytes_in.inc(count)


def bytes_out(count: int) -> None:
    """More bytes of a coloured film were sent."""
    _bytes_out.inc(count)


def jobs(by_state: Mapping[str, int]) -> None:
    """How many jobs there are in each state now, "QUEUED" and so on; states not named have none."""
    for state in {*by_state, *(sample.labels["state"] for metric in _jobs.collect() for sample in metric.samples)}:
        _jobs.labels(state).set(by_state.get(state, 0))
    _queue.set(by_state.get("QUEUED", 0))


def job_ended(state: str, reason: str = "") -> None:
    """A job came to an end: "DONE", "CANCELLED", or "FAILED" for a `reason` of errors.py."""
    _ended.labels(state).inc()
    if reason:
        _failures.labels(reason).inc()


def waited(seconds: float) -> None:
    """A job that waited so long for its place has got it."""
    _queue_s.observe(seconds)


def spool(used: int, limit: int) -> None:
    """Bytes in the spool now, and those it may hold."""
    _spool.set(used)
    _spool_limit.set(limit)


def call_ended(method: str, code: str) -> None:
    """A call of a method of the service ended with a status code, by name."""
    _calls.labels(method, code).inc()


def turned_away(why: str) -> None:
    """A caller was not let in: "no token", "wrong token", "certificate"."""
    _turned_away.labels(why).inc()


def certificate_expires(timestamp_s: float) -> None:
    """When the server's certificate expires, in seconds since 1970."""
    _expiry.set(timestamp_s)


def _note_fault(request: object, address: object) -> None:
    log.debug("a reader of the figures at %s was let go", address, exc_info=True)


@contextmanager
def served(listen: str) -> Iterator[str]:
    """Serve the figures at http://HOST:PORT/metrics for the length of a `with`; yields the address.

    Args:
        listen: HOST:PORT; port 0 takes a free one; "" serves nothing. There is no encryption and no token.

    Raises BadSettings when the address cannot be had.
    """
    if not listen:
        yield ""
        return
    host, _, port = listen.rpartition(":")
    host = host.strip("[]")
    if not host or not port.isdecimal() or int(port) > 65535:
        raise BadSettings(f"--metrics takes HOST:PORT with a port of 0 to 65535, not {listen!r}")
    try:
        server, thread = start_http_server(int(port), host, REGISTRY)
    except OSError as error:
        raise BadSettings(f"--metrics {listen}: {error.strerror or 'the address is not of this machine'}") from None
    server.handle_error = _note_fault  # type: ignore[method-assign,assignment]  # which would print a traceback
    server.RequestHandlerClass.timeout = ASK_S  # type: ignore[attr-defined]  # of the handler that does the waiting
    try:
        yield f"{listen.rpartition(':')[0]}:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
