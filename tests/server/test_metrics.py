"""The figures: served apart, readable by Prometheus, and counting what happened."""

import http.client
import re
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from prometheus_client.parser import text_string_to_metric_families

from kinochrome_client.access import Access
from kinochrome_proto.errors import BadSettings
from kinochrome_proto.kinochrome.v1 import colorizer_pb2 as wire
from kinochrome_proto.kinochrome.v1 import colorizer_pb2_grpc as wire_grpc
from kinochrome_server import metrics, tokens
from kinochrome_server.callers import Interceptor
from kinochrome_server.tokens import Tokens
from tests.server import small_service

MANUAL = Path(__file__).parents[2] / "docs" / "operating.md"


def scraped(address: str) -> dict[str, float]:
    """Every sample, by its name with labels, as Prometheus' own parser reads it."""
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    return {
        sample.name + ("{" + ",".join(f"{key}={value}" for key, value in sorted(sample.labels.items())) + "}")
        if sample.labels
        else sample.name: sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


@pytest.fixture
def address() -> Iterator[str]:
    with metrics.served("127.0.0.1:0") as address:
        yield address


def test_what_is_counted_is_scraped(address: str) -> None:
    before = scraped(address)
    metrics.frames_coloured(48)
    metrics.frames_coloured(-8)
    for frames in (16, 16, 4):
        metrics.batch(frames, 16)
    metrics.stage("encode", 0.5)
    metrics.bytes_in(1000)
    metrics.bytes_out(2000)
    metrics.job_ended("DONE")
    metrics.job_ended("FAILED", "BAD_FILM")
    metrics.worker_died()
    metrics.spool(5, 100)
    after = scraped(address)

    def grew(name: str) -> float:
        return after[name] - before.get(name, 0)

    assert grew("kinochrome_frames_total") == 48
    assert (grew("kinochrome_batches_total"), grew("kinochrome_batch_frames_total")) == (3, 36)
    assert grew("kinochrome_batch_fill_sum") == 2.25 and grew("kinochrome_batch_fill_bucket{le=0.25}") == 1
    assert grew("kinochrome_stage_seconds_sum{stage=encode}") == 0.5
    assert (grew("kinochrome_received_bytes_total"), grew("kinochrome_sent_bytes_total")) == (1000, 2000)
    assert grew("kinochrome_jobs_ended_total{state=DONE}") == 1
    assert grew("kinochrome_failures_total{reason=BAD_FILM}") == 1
    assert grew("kinochrome_worker_deaths_total") == 1
    assert (after["kinochrome_spool_bytes"], after["kinochrome_spool_limit_bytes"]) == (5, 100)


def test_a_state_without_jobs_says_so(address: str) -> None:
    metrics.jobs({"QUEUED": 3, "RUNNING": 1})
    metrics.jobs({"RUNNING": 2})
    found = scraped(address)
    assert found["kinochrome_jobs{state=QUEUED}"] == 0 and found["kinochrome_jobs{state=RUNNING}"] == 2
    assert found["kinochrome_queue_jobs"] == 0


def test_calls_are_counted_by_their_code(address: str, tmp_path: Path) -> None:
    token = tokens.add(tmp_path / "tokens", "alice")
    before = scraped(address)
    with small_service.running(Interceptor(Tokens(tmp_path / "tokens"))) as server:
        with grpc.insecure_channel(server) as channel:
            stub: Any = wire_grpc.ColorizerServiceStub(channel)
            metadata = Access(server, token=token).metadata
            for _ in range(3):
                stub.GetServerInfo(wire.GetServerInfoRequest(), metadata=metadata)
            for given in (metadata, ()):
                with pytest.raises(grpc.RpcError):
                    stub.GetJob(wire.GetJobRequest(job_id="x"), metadata=given)
            watching = stub.WatchJob(wire.WatchJobRequest(), metadata=metadata)
            next(watching)
            watching.cancel()
        name = "kinochrome_calls_total{code=%s,method=%s}"
        cancelled = name % ("CANCELLED", "WatchJob")
        for _ in range(100):
            after = scraped(address)
            if after.get(cancelled, 0) > before.get(cancelled, 0):
                break
            time.sleep(0.05)
    for code, method, count in (("OK", "GetServerInfo", 3), ("NOT_FOUND", "GetJob", 1), ("CANCELLED", "WatchJob", 1)):
        key = name % (code, method)
        assert after[key] - before.get(key, 0) == count
    assert after["kinochrome_callers_turned_away_total{why=no token}"] >= 1


def test_the_process_is_among_the_figures(address: str) -> None:
    found = scraped(address)
    assert found["process_resident_memory_bytes"] > 1e6 and found["process_open_fds"] > 0


def test_every_figure_is_in_the_manual_and_nothing_else() -> None:
    told = set(re.findall(r"^\| `(kinochrome_\w+)", MANUAL.read_text(), re.MULTILINE))
    families = {family.name + ("_total" if family.type == "counter" else "") for family in metrics.REGISTRY.collect()}
    assert told == {name for name in families if name.startswith("kinochrome_")}


def test_nothing_tells_of_an_owner_a_job_or_a_film() -> None:
    labels = {key for family in metrics.REGISTRY.collect() for sample in family.samples for key in sample.labels}
    assert labels <= {"version", "engine", "stage", "state", "reason", "method", "code", "why", "le"}


@pytest.mark.parametrize("listen", ["127.0.0.1", "127.0.0.1:99999", ":9464", "127.0.0.1:x"])
def test_a_bad_address_is_refused(listen: str) -> None:
    with pytest.raises(BadSettings, match="--metrics takes HOST:PORT"), metrics.served(listen):
        pass


def test_an_address_in_use_is_refused(address: str) -> None:
    with pytest.raises(BadSettings, match="in use"), metrics.served(address):
        pass


def test_no_address_serves_nothing() -> None:
    with metrics.served("") as address:
        assert address == ""


def test_afterwards_the_port_is_free(address: str) -> None:
    with metrics.served("127.0.0.1:0") as once:
        scraped(once)
    with pytest.raises((ConnectionError, urllib.error.URLError)):
        scraped(once)
    with metrics.served(once) as again:
        assert again == once and scraped(again)


def test_readers_that_say_nothing_keep_nobody_waiting_and_are_let_go(
    address: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(metrics, "ASK_S", 0.3)
    with metrics.served("127.0.0.1:0") as patient:
        host, _, port = patient.rpartition(":")
        silent = [socket.create_connection((host, int(port)), timeout=10) for _ in range(20)]
        assert scraped(patient)
        for one in silent:
            assert one.recv(1) == b""  # closed by the server
            one.close()
    assert "Traceback" not in capfd.readouterr().err


def test_other_paths_and_methods_do_no_harm(address: str) -> None:
    for method, path in (
        ("POST", "/metrics"),
        ("GET", "/../../etc/passwd"),
        ("OPTIONS", "*"),
        ("GET", "/metrics?name[]=x"),
    ):
        line = http.client.HTTPConnection(address, timeout=10)
        line.request(method, path)
        answer = line.getresponse()
        assert answer.status < 500 and b"root:" not in answer.read()
        line.close()
    assert scraped(address)
