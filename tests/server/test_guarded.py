"""What a server that serves strangers says of itself, and when it does not serve at all."""

import json
import os
import subprocess
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from kinochrome_client import Client
from kinochrome_client.access import Access
from kinochrome_proto.errors import NoSuchJob
from kinochrome_proto.kinochrome.v1 import colorizer_pb2 as wire
from kinochrome_server import tokens
from tests import films
from tests.films import Kind
from tests.server import serving
from tests.server.certificates import DAY, Authority
from tests.server.guarded import Guarded, code_of

UNAUTHENTICATED = grpc.StatusCode.UNAUTHENTICATED


def test_the_log_is_json_and_names_jobs_and_owners(guarded: Guarded, tmp_path: Path) -> None:
    film = films.make(tmp_path, Kind("film.mkv", frames=8))
    with Client(guarded.address, token=guarded.tokens["bob"]) as client:
        job_id = client.colorize(film, tmp_path / "out.mkv").job_id
    for _ in range(100):
        records = list(map(json.loads, guarded.server.said))  # every line
        if any(record.get("job") == job_id for record in records):
            break
        time.sleep(0.05)
    of_job = [record for record in records if record.get("job") == job_id]
    assert of_job and {record["owner"] for record in of_job} == {"bob"}
    assert all(record["level"] in ("info", "warning") for record in of_job)


def test_no_token_is_ever_logged(guarded: Guarded) -> None:
    """Neither one that lets in nor one that does not, though both calls are logged."""
    wrong = guarded.tokens["bob"] + "x"
    with grpc.insecure_channel(guarded.address) as channel:
        stub = guarded.stub(channel)
        job = stub.CreateJob(wire.CreateJobRequest(request_id="b" * 32), metadata=guarded.metadata("bob")).job
        stub.DeleteJob(wire.DeleteJobRequest(job_id=job.id), metadata=guarded.metadata("bob"))
        metadata = Access(guarded.address, token=wrong).metadata
        assert code_of(lambda: stub.ListJobs(wire.ListJobsRequest(), metadata=metadata))[0] == UNAUTHENTICATED
    for _ in range(100):
        log = "".join(guarded.server.said)
        if "token" in log and job.id in log:
            break
        time.sleep(0.05)
    assert "token" in log and job.id in log
    assert not any(token in log or token.removeprefix("kc_") in log for token in guarded.tokens.values())


def test_the_figures_count_a_film(guarded: Guarded, tmp_path: Path) -> None:
    film = films.make(tmp_path, Kind("film.mkv", frames=60))
    bad = tmp_path / "bad.mkv"
    bad.write_bytes(b"to be or not to be\n" * 1000)
    before = guarded.scraped()
    with Client(guarded.address, token=guarded.tokens["bob"]) as client:
        client.colorize(film, tmp_path / "out.mkv")
        with pytest.raises(Exception, match="is not a film"):
            client.colorize(bad, tmp_path / "bad.out.mkv")

    def grown(*name: str) -> float:
        return guarded.scraped().get(name, 0.0) - before.get(name, 0.0)

    for name, least, most in (
        (("kinochrome_frames_total",), 60, 60),
        (("kinochrome_batch_frames_total",), 60, 200),  # a segment paints its neighbours' frames too
        (("kinochrome_batches_total",), 4, 100),
        (("kinochrome_received_bytes_total",), film.stat().st_size, film.stat().st_size + bad.stat().st_size),
        (("kinochrome_sent_bytes_total",), (tmp_path / "out.mkv").stat().st_size, 1 << 24),
        (("kinochrome_jobs_ended_total", "DONE"), 1, 1),
        (("kinochrome_jobs_ended_total", "FAILED"), 1, 1),
        (("kinochrome_failures_total", "BAD_FILM"), 1, 1),
        (("kinochrome_calls_total", "OK", "CreateJob"), 2, 2),
    ):
        assert least <= grown(*name) <= most, (name, grown(*name))
    for stage in ("decode", "colour", "encode"):
        assert grown("kinochrome_stage_seconds_count", stage) >= 1
    after = guarded.scraped()
    assert after["kinochrome_ready",] == 1 and after["kinochrome_spool_limit_bytes",] == 100 << 30
    assert after["kinochrome_batch_fill_count",] == after["kinochrome_batches_total",]


def test_running_as_root_is_warned_of(guarded: Guarded) -> None:
    assert any("running as root" in line for line in guarded.server.said) == (os.geteuid() == 0)


def services(address: str, metadata: Any = ()) -> list[str]:
    with grpc.insecure_channel(address) as channel:
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        asked = iter([reflection_pb2.ServerReflectionRequest(list_services="")])
        (answer,) = stub.ServerReflectionInfo(asked, timeout=10, metadata=metadata)
        return [service.name for service in answer.list_services_response.service]


def test_reflection_is_off(guarded: Guarded) -> None:
    code, _ = code_of(lambda: services(guarded.address, guarded.metadata("alice")))
    assert code == grpc.StatusCode.UNIMPLEMENTED


def test_with_tls_mutual_and_tokens_a_film_comes_through_and_others_do_not(tmp_path: Path) -> None:
    authority, other = Authority(tmp_path / "pki"), Authority(tmp_path / "other", "stranger")
    server_pair, alice = authority.pair("server"), authority.pair("alice")
    token = tokens.add(tmp_path / "tokens", "alice")
    (tmp_path / "token").write_text(token + "\n")
    film = films.make(tmp_path, Kind("film.mkv", frames=8))
    options = ["--tls-cert", server_pair.cert, "--tls-key", server_pair.key, "--tls-client-ca", authority.cert]
    options += ["--tokens", tmp_path / "tokens", "--reflection"]
    with serving.running(tmp_path, *map(str, options)) as server:

        def colorize(*given: object) -> "subprocess.CompletedProcess[str]":
            verb = [serving.KINOCHROME, "colorize", film, "-o", tmp_path / "out.mkv", "--server", server.address]
            command = [*map(str, [*verb, "--patience", "1", *given])]
            return subprocess.run(command, capture_output=True, text=True, timeout=120)

        ca = ["--tls-ca", authority.cert]
        shown = ["--tls-cert", alice.cert, "--tls-key", alice.key]
        expired = authority.pair("old", since=-2 * DAY, until=-timedelta(hours=1))
        foreign = other.pair("alice")
        for given, words in (
            ([], "hangs up at once: does it want TLS"),
            ([*ca], "hangs up at once: does it want TLS"),
            (["--tls-ca", other.cert, *shown], "is not trusted, has expired or is another host's: see --tls-ca"),
            ([*ca, *shown, "--tls-name", "films.example.org"], "is not trusted, has expired or is another host's"),
            ([*ca, "--tls-cert", expired.cert, "--tls-key", expired.key], "or a certificate (--tls-cert, --tls-key)?"),
            ([*ca, "--tls-cert", foreign.cert, "--tls-key", foreign.key], "or a certificate (--tls-cert, --tls-key)?"),
            ([*ca, *shown], "wants a token"),
        ):
            refused = colorize(*given)
            assert refused.returncode == 1 and words in refused.stderr, (given, refused.stderr)
            assert refused.stderr.strip().count("\n") == 0
        done = colorize(*ca, *shown, "--token-file", tmp_path / "token")
        assert done.returncode == 0, done.stderr
        assert (tmp_path / "out.mkv").stat().st_size > 0
        with (
            Client(server.address, token=token, tls_ca=authority.cert, cert=alice.cert, key=alice.key) as client,
            pytest.raises(NoSuchJob),
        ):
            client.cancel("0" * 32)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--listen", "0.0.0.0:0"], "without TLS only this machine is served"),
        (["--listen", "0.0.0.0:0", "{tls}"], "would serve whoever comes: give --tokens or --tls-client-ca"),
        (["--tls-cert", "{cert}"], "--tls-key is missing"),
        (["--tls-cert", "{expired}", "--tls-key", "{expired key}"], "expired on"),
        (["--tokens", "nowhere"], "--tokens nowhere: No such file"),
        (["--metrics", "nowhere"], "--metrics takes HOST:PORT"),
        (["--traces", "nowhere"], "--traces takes http://HOST:PORT"),
        (["--log-format", "xml"], "--log-format takes text or json"),
    ],
)
def test_a_server_that_would_not_be_safe_is_refused_in_one_line(options: list[str], words: str, tmp_path: Path) -> None:
    authority = Authority(tmp_path / "pki")
    pair, expired = authority.pair("server"), authority.pair("old", since=-2 * DAY, until=-timedelta(hours=1))
    places = {"{cert}": pair.cert, "{key}": pair.key, "{expired}": expired.cert, "{expired key}": expired.key}
    given: list[str] = []
    for option in options:
        tls = ["--tls-cert", str(pair.cert), "--tls-key", str(pair.key)]
        given += tls if option == "{tls}" else [str(places.get(option, option))]
    command = [str(serving.KINOCHROME), "serve", "--listen", "127.0.0.1:0", "--spool", str(tmp_path / "spool"), *given]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=tmp_path)
    assert done.returncode == 1
    assert words in done.stderr and done.stderr.count("\n") == 1, done.stderr
