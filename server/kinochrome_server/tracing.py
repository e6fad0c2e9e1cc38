"""OpenTelemetry traces: a span for each job, and under it one for each stage of each segment. Off unless configured.

with tracing.job(id, owner) as trace:       # in the thread that runs the job
    ...
tracing.stage("encode", seconds)            # in any thread that works for a job (`about`), when the stage has ended
"""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from typing import Any

from kinochrome_proto.errors import BadSettings

from . import about

SEND_S = 3
"""Time that a collector gets to take spans; then they are lost: a server that stops must not wait for it."""
Value = str | int | float | bool

_tracer: Any = None
_traces: "dict[str, Trace]" = {}
"""Of jobs that run."""


class Trace:
    """A job's span, as far as there is one."""

    def __init__(self, span: Any = None) -> None:
        self._span = span

    def note(self, **attributes: Value) -> None:
        """Say more of the job: its film's size, its frames, its engine."""
        if self._span is not None:
            self._span.set_attributes({f"kinochrome.{name}": value for name, value in attributes.items()})

    def stage(self, name: str, seconds: float) -> None:
        """A stage that has just ended took so long."""
        if self._span is None:
            return
        from opentelemetry import trace

        ended = time.time_ns()
        span = _tracer.start_span(
            name,
            context=trace.set_span_in_context(self._span),
            start_time=ended - int(seconds * 1e9),
        )
        span.end(ended)


def configure(endpoint: str) -> Callable[[], None]:
    """Send traces by OTLP over gRPC from here on, in batches from a thread of their own; "" sends none.

    Args:
        endpoint: http://HOST:PORT, or https:// where the collector has TLS. Its OTEL_* variables are heeded.

    Returns what sends the rest and ends it. Raises BadSettings where the packages for it are not installed.
    """
    global _tracer
    if not endpoint:
        return lambda: None
    if not endpoint.startswith(("http://", "https://")):
        raise BadSettings(f"--traces takes http://HOST:PORT or https://HOST:PORT, not {endpoint!r}")
    try:
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError:
        raise BadSettings("--traces needs OpenTelemetry: pip install 'kinochrome[otel]'") from None
    resource = Resource.create({"service.name": "kinochrome", "service.version": version("kinochrome")})
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    exporter = OTLPSpanExporter(endpoint=endpoint, insecure=endpoint.startswith("http://"), timeout=SEND_S)
    provider.add_span_processor(BatchSpanProcessor(exporter))
    _tracer = provider.get_tracer("kinochrome")

    def end() -> None:
        global _tracer
        _tracer = None
        sending = threading.Thread(target=provider.shutdown, daemon=True)
        sending.start()
        sending.join(SEND_S)
        if sending.is_alive():
            exporter.shutdown()  # ends what still tries
            sending.join(SEND_S)

    return end


@contextlib.contextmanager
def job(job_id: str, owner: str, **attributes: Value) -> Iterator[Trace]:
    """The span of a job's run. What ends it by an exception is noted on it."""
    if _tracer is None:
        yield Trace()
        return
    from opentelemetry.trace import Status, StatusCode

    span = _tracer.start_span("job")
    trace = _traces[job_id] = Trace(span)
    trace.note(job=job_id, owner=owner, **attributes)
    try:
        yield trace
    except BaseException as error:
        span.set_status(Status(StatusCode.ERROR, str(error)))
        span.record_exception(error)
        raise
    finally:
        _traces.pop(job_id, None)
        span.end()


def stage(name: str, seconds: float) -> None:
    """A stage of the job that this thread works for has just ended, and took so long."""
    if trace := _traces.get(about.job.get()):
        trace.stage(name, seconds)
