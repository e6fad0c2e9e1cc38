"""Traces: a span for a job, one for each of its stages, sent to a collector; nothing at all unless configured."""

import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest

from kinochrome_client import Client
from kinochrome_proto.errors import BadFilm, BadSettings
from kinochrome_server import about, tracing
from tests import films
from tests.films import Kind
from tests.server import serving

pytest.importorskip("opentelemetry.sdk", reason="needs kinochrome[otel]")

from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc


class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    def __init__(self) -> None:
        self.spans: list[Any] = []
        self.resource: dict[str, str] = {}

    def Export(self, request: Any, context: Any) -> Any:
        for group in request.resource_spans:
            self.resource = {one.key: one.value.string_value for one in group.resource.attributes}
            self.spans += [span for scope in group.scope_spans for span in scope.spans]
        return trace_service_pb2.ExportTraceServiceResponse()


@pytest.fixture
def collector() -> Iterator[tuple[str, Collector]]:
    server, collector = grpc.server(ThreadPoolExecutor(2)), Collector()
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(collector, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"http://127.0.0.1:{port}", collector
    server.stop(0).wait()


def told(span: Any) -> dict[str, Any]:
    return {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in span.attributes}


def test_a_job_and_its_stages_reach_the_collector(collector: tuple[str, Collector]) -> None:
    endpoint, found = collector

    def work(stage: str) -> None:
        with about.about("0a1b"):
            tracing.stage(stage, 0.25)
        tracing.stage(stage, 99)  # of no job

    end = tracing.configure(endpoint)
    try:
        with tracing.job("0a1b", "alice", bytes=1000) as trace:
            with ThreadPoolExecutor(2) as threads:  # stages end in the workers' threads
                list(threads.map(work, ["decode", "encode"]))
            trace.note(frames=24)
        with pytest.raises(BadFilm), tracing.job("0c2d", "bob"):
            raise BadFilm("film.mp4 is empty")
    finally:
        end()
    spans = {(span.name, told(span).get("kinochrome.job")): span for span in found.spans}
    job, failed = spans["job", "0a1b"], spans["job", "0c2d"]
    assert told(job) == {
        "kinochrome.job": "0a1b",
        "kinochrome.owner": "alice",
        "kinochrome.bytes": 1000,
        "kinochrome.frames": 24,
    }
    for name in ("decode", "encode"):
        stage = spans[name, None]
        assert (stage.parent_span_id, stage.trace_id) == (job.span_id, job.trace_id)
        assert stage.end_time_unix_nano - stage.start_time_unix_nano == 250_000_000
    assert len(found.spans) == 4
    assert failed.trace_id != job.trace_id and failed.status.message == "film.mp4 is empty"
    assert found.resource["service.name"] == "kinochrome"


def test_a_film_that_a_server_colours_is_a_trace(collector: tuple[str, Collector], tmp_path: Path) -> None:
    endpoint, found = collector
    film = films.make(tmp_path, Kind("film.mkv", frames=60, gop=20, options={"sc_threshold": "0"}))
    with serving.running(tmp_path, "--traces", endpoint) as server, Client(server.address) as client:
        job_id = client.colorize(film, tmp_path / "out.mkv").job_id
        server.stop()  # sends what it has
    (job,) = (span for span in found.spans if span.name == "job")
    said = told(job)
    assert (said["kinochrome.job"], said["kinochrome.owner"], said["kinochrome.frames"]) == (job_id, "local", 60)
    assert said["kinochrome.engine"].startswith("cpu")
    stages = [span for span in found.spans if span.parent_span_id == job.span_id]
    assert {span.name for span in stages} == {"decode", "colour", "encode"}
    assert all(span.end_time_unix_nano >= span.start_time_unix_nano >= job.start_time_unix_nano for span in stages)


def test_unless_configured_nothing_is_loaded_or_sent() -> None:
    program = (
        "import sys; from kinochrome_server import tracing\n"
        "end = tracing.configure('')\n"
        "with tracing.job('0a1b', 'alice') as trace: trace.stage('decode', 1); trace.note(frames=1)\n"
        "end(); sys.exit(any(name.startswith('opentelemetry') for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", program], timeout=60).returncode == 0


def test_a_collector_that_is_not_there_keeps_nobody_waiting(caplog: pytest.LogCaptureFixture) -> None:
    end = tracing.configure("http://127.0.0.1:9")
    with tracing.job("0a1b", "alice") as trace:
        for _ in range(5000):  # more than the queue holds
            trace.stage("decode", 0.1)
    end()


@pytest.mark.parametrize("endpoint", ["127.0.0.1:4317", "ftp://127.0.0.1:4317"])
def test_an_endpoint_that_is_none_is_refused(endpoint: str) -> None:
    with pytest.raises(BadSettings, match="--traces takes http://HOST:PORT"):
        tracing.configure(endpoint)
