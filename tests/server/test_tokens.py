"""Bearer tokens: who is let in, under which name, and that a revoked one is out at once."""

import os
import statistics
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from kinochrome_client.access import Access
from kinochrome_client.faults import fault
from kinochrome_proto.errors import BadSettings, NotAllowed
from kinochrome_proto.kinochrome.v1 import colorizer_pb2 as wire
from kinochrome_proto.kinochrome.v1 import colorizer_pb2_grpc as wire_grpc
from kinochrome_server import tokens
from kinochrome_server.callers import Interceptor
from kinochrome_server.tokens import Tokens
from tests.server import serving, small_service


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "tokens"


def revoke(file: Path, name: str) -> None:
    file.write_text("".join(line for line in file.read_text().splitlines(True) if not line.startswith(f"{name}:")))


def test_a_token_stands_for_its_owner(file: Path) -> None:
    alice, bob = tokens.add(file, "alice"), tokens.add(file, "bob")
    again = tokens.add(file, "alice")  # one owner may have several, to change them without a gap
    known = Tokens(file)
    for token, name in ((alice, "alice"), (bob, "bob"), (again, "alice")):
        found = known.find(token)
        assert found is not None and found.name == name
    assert len({alice, bob, again}) == 3 and all(len(token) == 46 for token in (alice, bob, again))
    for wrong in ("", "kc_", alice[:-1], alice + "x", alice.upper(), "\udcff", "x" * 100_000):
        assert known.find(wrong) is None


def test_the_file_holds_no_token_and_is_its_owners_alone(file: Path) -> None:
    token = tokens.add(file, "alice")
    assert token not in file.read_text() and token.removeprefix(tokens.PREFIX) not in file.read_text()
    assert file.stat().st_mode & 0o777 == 0o600


def test_a_revoked_token_is_out_at_once_and_a_new_one_in(file: Path) -> None:
    alice, bob = tokens.add(file, "alice"), tokens.add(file, "bob")
    known = Tokens(file)
    revoke(file, "alice")
    assert known.find(alice) is None and known.find(bob) is not None
    carol = tokens.add(file, "carol")
    assert known.find(carol) is not None
    file.write_text("")
    assert known.entries() == ()


def test_a_slip_of_the_pen_keeps_nobody_in(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    alice, bob = tokens.add(file, "alice"), tokens.add(file, "bob")
    known = Tokens(file)
    revoke(file, "alice")
    file.write_text("alicia 123\n" + file.read_text())
    assert known.find(alice) is None and known.find(bob) is not None
    assert "line 1: a line is NAME:SHA-256" in caplog.text


def test_a_file_that_is_gone_for_a_moment_changes_nothing(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    alice = tokens.add(file, "alice")
    known = Tokens(file)
    file.rename(file.with_suffix(".away"))
    assert known.find(alice) is not None and known.find(alice) is not None
    assert caplog.text.count("cannot be read again") == 1
    file.with_suffix(".away").rename(file)
    revoke(file, "alice")
    assert known.find(alice) is None


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("alice", "line 1: a line is NAME:SHA-256"),
        ("# those\n\nalice:secret\n", "line 3: what follows alice: is no SHA-256"),
        ("Alice Smith:" + 64 * "0", "line 1: a line is NAME:SHA-256"),
        (b"\x00\xff" * 50, "line 1: a line is"),
        ("x" * (tokens.MOST_BYTES + 1), "larger than 1 MiB"),
    ],
)
def test_a_file_of_something_else_is_refused(file: Path, content: str | bytes, words: str) -> None:
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    file.chmod(0o600)
    with pytest.raises(BadSettings, match=words):
        Tokens(file)


def test_a_file_that_others_may_write_is_refused(file: Path) -> None:
    tokens.add(file, "alice")
    file.chmod(0o620)
    with pytest.raises(BadSettings, match="can be written by others"):
        Tokens(file)
    with pytest.raises(BadSettings, match="can be written by others"):
        tokens.add(file, "bob")


def test_a_file_that_is_not_there_is_refused_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(BadSettings, match="No such file or directory: make one with `kinochrome token NAME`"):
        Tokens(tmp_path / "nowhere")


def test_finding_a_token_takes_as_long_wherever_it_differs(file: Path) -> None:
    """No proof of constant time, but a search that stops at the first fit would be seen: it is many times faster."""
    all_of_them = [tokens.new() for _ in range(2000)]
    file.touch(0o600)
    file.write_text("".join(tokens.line("alice", token) + "\n" for token in all_of_them))
    known = Tokens(file)

    def takes(token: str) -> float:
        times = []
        for _ in range(15):
            began = time.perf_counter()
            known.find(token)
            times.append(time.perf_counter() - began)
        return statistics.median(times)

    first, last, wrong = takes(all_of_them[0]), takes(all_of_them[-1]), takes(tokens.new())
    assert max(first, last, wrong) < 3 * min(first, last, wrong)


def test_the_verb_makes_tokens(tmp_path: Path) -> None:
    def token(*arguments: str) -> "subprocess.CompletedProcess[str]":
        command = [str(serving.KINOCHROME), "token", *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=tmp_path)

    made = token("alice", "--tokens", "tokens")
    found = Tokens(tmp_path / "tokens").find(made.stdout.strip())
    assert made.returncode == 0 and found is not None and found.name == "alice"
    printed = token("bob").stdout.split()
    (tmp_path / "tokens").write_text(printed[-1] + "\n")
    fresh = next(word for word in printed if word.startswith(tokens.PREFIX))
    found = Tokens(tmp_path / "tokens").find(fresh)
    assert found is not None and found.name == "bob"
    refused = token("Bob Smith")
    assert refused.returncode == 1 and "cannot name an owner" in refused.stderr and refused.stderr.count("\n") == 1


@pytest.fixture
def guarded(file: Path) -> Iterator[tuple[str, str]]:
    """A small service that wants tokens: its address, and a token of alice."""
    alice = tokens.add(file, "alice")
    with small_service.running(Interceptor(Tokens(file))) as address:
        yield address, alice


def info(address: str, *metadata: tuple[str, str]) -> str:
    with grpc.insecure_channel(address) as channel:
        stub: Any = wire_grpc.ColorizerServiceStub(channel)
        return str(stub.GetServerInfo(wire.GetServerInfoRequest(), timeout=10, metadata=metadata).version)


def test_the_owner_is_the_tokens_name(guarded: tuple[str, str]) -> None:
    address, alice = guarded
    assert info(address, *Access(address, token=alice).metadata) == "alice"
    assert info(address, ("authorization", f"bearer  {alice}")) == "alice"


@pytest.mark.parametrize(
    ("metadata", "words"),
    [
        ([], "wants a token"),
        ([("authorization", "")], "wants a token"),
        ([("authorization", "Basic YWxpY2U6")], "wants a token"),
        ([("authorization", "Bearer " + tokens.new())], "does not know this token"),
        ([("authorization", "Bearer " + "x" * 4000)], "does not know this token"),
    ],
)
def test_no_token_and_a_wrong_one_are_unauthenticated(
    guarded: tuple[str, str], metadata: list[tuple[str, str]], words: str
) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        info(guarded[0], *metadata)
    failure: Any = caught.value
    assert failure.code() == grpc.StatusCode.UNAUTHENTICATED
    said = fault(guarded[0], failure).error
    assert isinstance(said, NotAllowed) and words in str(said)


def test_streams_too_need_a_token_before_a_message_is_read(guarded: tuple[str, str]) -> None:
    with grpc.insecure_channel(guarded[0]) as channel:
        stub: Any = wire_grpc.ColorizerServiceStub(channel)
        for call in (
            stub.UploadFilm(iter([wire.UploadFilmRequest(data=b"film")]), timeout=10),
            stub.WatchJob(wire.WatchJobRequest(), timeout=10),
        ):
            with pytest.raises(grpc.RpcError) as caught:
                list(call)
            failure: Any = caught.value
            assert failure.code() == grpc.StatusCode.UNAUTHENTICATED
        raw = channel.unary_unary("/kinochrome.v1.ColorizerService/GetJob")  # type: ignore[call-arg]
        with pytest.raises(grpc.RpcError) as caught:
            raw(b"\xff no message at all", timeout=10)
        failure = caught.value
        assert failure.code() == grpc.StatusCode.UNAUTHENTICATED


def test_probes_need_no_token(guarded: tuple[str, str]) -> None:
    with grpc.insecure_channel(guarded[0]) as channel:
        answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=10)
    assert answer.status == health_pb2.HealthCheckResponse.SERVING


def test_a_running_call_ends_when_its_token_is_revoked(guarded: tuple[str, str], file: Path) -> None:
    address, alice = guarded
    bob = tokens.add(file, "bob")
    with grpc.insecure_channel(address) as channel:
        stub: Any = wire_grpc.ColorizerServiceStub(channel)
        calls = [
            stub.WatchJob(wire.WatchJobRequest(), timeout=30, metadata=Access(address, token=token).metadata)
            for token in (alice, bob)
        ]
        assert [next(call).job.id for call in calls] == ["alice", "bob"]
        revoke(file, "alice")
        with pytest.raises(grpc.RpcError) as caught:
            next(calls[0])
        failure: Any = caught.value
        assert failure.code() == grpc.StatusCode.UNAUTHENTICATED and "revoked" in failure.details()
        assert calls[1].is_active()
        calls[1].cancel()
    assert info(address, *Access(address, token=bob).metadata) == "bob"


def test_errors_and_messages_that_are_none_are_told_with_their_code(guarded: tuple[str, str]) -> None:
    address, alice = guarded
    metadata = Access(address, token=alice).metadata
    with grpc.insecure_channel(address) as channel:
        stub: Any = wire_grpc.ColorizerServiceStub(channel)
        with pytest.raises(grpc.RpcError) as caught:
            stub.GetJob(wire.GetJobRequest(job_id="x"), metadata=metadata)
        failure: Any = caught.value
        assert failure.code() == grpc.StatusCode.NOT_FOUND
        kinds: dict[str, Any] = {"GetJob": channel.unary_unary, "WatchJob": channel.unary_stream}
        for name, kind in kinds.items():
            raw = kind(f"/kinochrome.v1.ColorizerService/{name}")
            with pytest.raises(grpc.RpcError) as caught:
                list(raw(b"\xff\xff", metadata=metadata, timeout=10))
            failure = caught.value
            assert failure.code() == grpc.StatusCode.INVALID_ARGUMENT
        stream: Any = channel.stream_stream("/kinochrome.v1.ColorizerService/UploadFilm")  # type: ignore[call-arg]
        with pytest.raises(grpc.RpcError) as caught:
            list(stream(iter([b"", b"\xff\xff"]), metadata=metadata, timeout=10))
        failure = caught.value
        assert failure.code() == grpc.StatusCode.INVALID_ARGUMENT and "UploadFilm" in failure.details()


def test_without_tokens_everybody_is_local() -> None:
    with small_service.running(Interceptor()) as address:
        assert info(address) == "local"
        assert info(address, ("authorization", "Bearer whatever")) == "local"


def test_whoever_may_not_read_the_file_cannot_serve_with_it(file: Path) -> None:
    tokens.add(file, "alice")
    file.chmod(0)
    if os.geteuid() == 0:
        pytest.skip("root reads everything")
    with pytest.raises(BadSettings, match="Permission denied"):
        Tokens(file)
