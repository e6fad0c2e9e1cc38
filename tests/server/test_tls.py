"""TLS: who is let in by certificates, files that cannot be used, certificates renewed under a running server."""

import os
import socket
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from kinochrome_client.access import Access
from kinochrome_proto.errors import BadSettings
from kinochrome_proto.kinochrome.v1 import colorizer_pb2 as wire
from kinochrome_proto.kinochrome.v1 import colorizer_pb2_grpc as wire_grpc
from kinochrome_server import front, metrics, tls
from kinochrome_server.callers import Interceptor
from tests.server import serving, small_service
from tests.server.certificates import DAY, Authority, Pair

HOUR = timedelta(hours=1)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "pki")


def files(pair: Pair, client_ca: Path | None = None) -> tls.Files:
    return tls.Files(pair.cert, pair.key, client_ca)


def who(address: str, ca: Path, pair: Pair | None = None) -> str:
    access = Access(address, tls_ca=ca, cert=pair.cert if pair else None, key=pair.key if pair else None)
    with access.channel() as channel:
        stub = wire_grpc.ColorizerServiceStub(channel)
        return stub.GetServerInfo(wire.GetServerInfoRequest(), timeout=5).version


def refused(do: Callable[[], object]) -> Any:
    """The code of a call that never reached a server."""
    with pytest.raises(grpc.RpcError) as caught:
        do()
    failure: Any = caught.value
    assert failure.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
    return failure


@pytest.fixture
def mutual(authority: Authority) -> Iterator[str]:
    """A server that wants certificates of the authority."""
    credentials = tls.credentials(files(authority.pair("server"), authority.cert))
    with small_service.running(Interceptor(certificates=True), credentials) as address:
        yield address


def test_a_client_that_knows_the_authority_gets_in(authority: Authority) -> None:
    with small_service.running(Interceptor(), tls.credentials(files(authority.pair("server")))) as address:
        assert who(address, authority.cert) == "local"


def test_a_client_of_another_authority_and_one_without_tls_do_not(authority: Authority, tmp_path: Path) -> None:
    other = Authority(tmp_path / "other")
    with small_service.running(Interceptor(), tls.credentials(files(authority.pair("server")))) as address:
        refused(lambda: who(address, other.cert))
        with grpc.insecure_channel(address) as channel:
            stub = wire_grpc.ColorizerServiceStub(channel)
            refused(lambda: stub.GetServerInfo(wire.GetServerInfoRequest(), timeout=5))


def test_under_mutual_tls_the_owner_is_the_certificates_subject(mutual: str, authority: Authority) -> None:
    assert who(mutual, authority.cert, authority.pair("alice")) == "CN=alice"
    assert who(mutual, authority.cert, authority.pair("bob", unit="studio")) == "OU=studio,CN=bob"


def test_a_missing_a_foreign_and_an_expired_client_certificate_are_refused(
    mutual: str, authority: Authority, tmp_path: Path
) -> None:
    refused(lambda: who(mutual, authority.cert))
    refused(lambda: who(mutual, authority.cert, Authority(tmp_path / "other").pair("alice")))
    refused(lambda: who(mutual, authority.cert, authority.pair("old", since=-2 * DAY, until=-HOUR)))
    refused(lambda: who(mutual, authority.cert, authority.pair("early", since=HOUR)))
    assert who(mutual, authority.cert, authority.pair("alice")) == "CN=alice"  # it serves on


def test_a_client_refuses_an_expired_server(authority: Authority) -> None:
    pair = authority.pair("server", since=-2 * DAY, until=-HOUR)  # which `tls.credentials` would not take
    credentials = grpc.ssl_server_credentials([(pair.key.read_bytes(), pair.cert.read_bytes())])
    with small_service.running(Interceptor(), credentials) as address:
        failure = refused(lambda: who(address, authority.cert))
        assert (
            "certificate has expired" in failure.details().lower() or "CERTIFICATE_VERIFY_FAILED" in failure.details()
        )


def handshake(address: str, newest: ssl.TLSVersion, oldest: ssl.TLSVersion) -> str | None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version, context.maximum_version = oldest, newest
    context.set_alpn_protocols(["h2"])
    host, _, port = address.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=10) as line, context.wrap_socket(line) as secured:
        return secured.version()


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
def test_tls_begins_at_1_2(authority: Authority) -> None:
    with small_service.running(Interceptor(), tls.credentials(files(authority.pair("server")))) as address:
        assert handshake(address, ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_2) == "TLSv1.2"
        assert handshake(address, ssl.TLSVersion.TLSv1_3, ssl.TLSVersion.TLSv1_2) == "TLSv1.3"
        with pytest.raises((ssl.SSLError, ConnectionError)):
            handshake(address, ssl.TLSVersion.TLSv1_1, ssl.TLSVersion.TLSv1)


def test_renewed_files_count_from_the_next_connection_on(
    authority: Authority, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The certificate, its key and the clients' authority are all of another authority afterwards."""
    pair = authority.pair("server")
    authorities = tmp_path / "clients.pem"
    authorities.write_bytes(authority.cert.read_bytes())
    credentials = tls.credentials(files(pair, authorities))
    with small_service.running(Interceptor(certificates=True), credentials) as address:
        alice = authority.pair("alice")
        assert who(address, authority.cert, alice) == "CN=alice"
        new = Authority(tmp_path / "new")
        fresh = new.pair("server", until=90 * DAY)
        os.replace(fresh.cert, pair.cert)
        assert who(address, authority.cert, alice) == "CN=alice"  # between the two: the ones before
        assert "is not the key of" in caplog.text
        os.replace(fresh.key, pair.key)
        authorities.write_bytes(new.cert.read_bytes())
        assert who(address, new.cert, new.pair("bob")) == "CN=bob"
        refused(lambda: who(address, new.cert, alice))
        refused(lambda: who(address, authority.cert, alice))


def test_when_the_certificate_expires_is_among_the_figures(authority: Authority) -> None:
    tls.credentials(files(authority.pair("server", until=30 * DAY)))
    expiry = metrics.REGISTRY.get_sample_value("kinochrome_certificate_expiry_timestamp_seconds")
    assert expiry is not None and abs(expiry - time.time() - 30 * 86400) < 60


def test_a_key_that_everybody_may_read_and_a_certificate_that_ends_soon_are_warned_of(
    authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    pair = authority.pair("server", until=3 * DAY)
    pair.key.chmod(0o644)
    tls.credentials(files(pair))
    assert "can be read by everybody" in caplog.text and "expires in 3.0 days" in caplog.text


def faulty(authority: Authority, folder: Path) -> dict[str, tuple[tls.Files, str]]:
    good, other = authority.pair("server"), authority.pair("other")
    locked = folder / "locked.key"
    key = load_pem_private_key(good.key.read_bytes(), None)
    locked.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"word")))
    expired = authority.pair("expired", since=-2 * DAY, until=-HOUR)
    early = authority.pair("early", since=HOUR)
    text = folder / "text"
    text.write_text("to be or not to be")
    return {
        "no certificate": (tls.Files(folder / "no", good.key), "--tls-cert .*no cannot be read: No such file"),
        "no key": (tls.Files(good.cert, folder / "no"), "--tls-key .*no cannot be read: No such file"),
        "no authority": (files(good, folder / "no"), "--tls-client-ca .*no cannot be read"),
        "folder": (tls.Files(folder, good.key), "--tls-cert .* cannot be read: Is a directory"),
        "text as certificate": (tls.Files(text, good.key), "--tls-cert .*text is no certificate in PEM format"),
        "text as key": (tls.Files(good.cert, text), "--tls-key .*text is no private key in PEM format"),
        "text as authority": (files(good, text), "--tls-client-ca .*text is no certificate"),
        "certificate as key": (tls.Files(good.cert, good.cert), "is no private key in PEM format"),
        "mismatch": (tls.Files(good.cert, other.key), "other.key is not the key of --tls-cert .*server.pem"),
        "passphrase": (tls.Files(good.cert, locked), "has a passphrase, which nobody could enter"),
        "expired": (files(expired), r"--tls-cert .*expired.pem expired on 20\d\d-.* UTC: renew it"),
        "early": (files(early), r"--tls-cert .*early.pem is valid only from 20\d\d-.* UTC on"),
        "expired authority": (files(good, expired.cert), "--tls-client-ca .* expired on"),
    }


@pytest.mark.parametrize(
    "name",
    [
        "no certificate",
        "no key",
        "no authority",
        "folder",
        "text as certificate",
        "text as key",
        "text as authority",
        "certificate as key",
        "mismatch",
        "passphrase",
        "expired",
        "early",
        "expired authority",
    ],
)
def test_files_that_cannot_be_used_are_refused_in_one_line(authority: Authority, tmp_path: Path, name: str) -> None:
    given, words = faulty(authority, tmp_path)[name]
    with pytest.raises(BadSettings, match=words) as caught:
        tls.credentials(given)
    assert "\n" not in str(caught.value)


def test_half_of_tls_is_none() -> None:
    assert tls.Files.given(None, None, None) is None
    for given, missing in (
        ((Path("c"), None, None), "--tls-key"),
        ((None, Path("k"), None), "--tls-cert"),
        ((None, None, Path("a")), "--tls-cert"),
    ):
        with pytest.raises(BadSettings, match=f"{missing} is missing"):
            tls.Files.given(*given)


@pytest.mark.parametrize(
    ("listen", "encrypted", "known", "words"),
    [
        ("127.0.0.1:50551", False, False, ""),
        ("localhost:0", False, False, ""),
        ("[::1]:1", False, False, ""),
        ("127.8.8.8:1", False, False, ""),
        ("0.0.0.0:50551", True, True, ""),
        ("0.0.0.0:50551", False, True, "is not a loopback address: without TLS only this machine is served"),
        ("[::]:50551", False, False, "is not a loopback address"),
        ("films.example.org:1", False, False, "is not a loopback address"),
        ("localhost.example.org:1", False, False, "is not a loopback address"),
        ("0.0.0.0:50551", True, False, "would serve whoever comes: give --tokens or --tls-client-ca"),
        ("127.0.0.1", False, False, "takes HOST:PORT"),
        (":50551", True, True, "takes HOST:PORT"),
        ("127.0.0.1:x", False, False, "takes HOST:PORT"),
        ("127.0.0.1:65536", False, False, "with a port of 0 to 65535"),
    ],
)
def test_addresses(listen: str, encrypted: bool, known: bool, words: str) -> None:
    if not words:
        return front.check_address(listen, encrypted=encrypted, known=known)
    with pytest.raises(BadSettings, match=words):
        front.check_address(listen, encrypted=encrypted, known=known)


def test_reflection_tells_the_wire_where_it_is_on_and_nothing_where_it_is_not() -> None:
    from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

    def services(address: str) -> list[str]:
        with grpc.insecure_channel(address) as channel:
            stub = reflection_pb2_grpc.ServerReflectionStub(channel)
            asked = iter([reflection_pb2.ServerReflectionRequest(list_services="")])
            (answer,) = stub.ServerReflectionInfo(asked, timeout=10)
            return [service.name for service in answer.list_services_response.service]

    with small_service.running(Interceptor(), reflection=True) as address:
        assert "kinochrome.v1.ColorizerService" in services(address)
    with small_service.running(Interceptor()) as address, pytest.raises(grpc.RpcError) as caught:
        services(address)
    failure: Any = caught.value
    assert failure.code() == grpc.StatusCode.UNIMPLEMENTED


def test_running_as_root_is_warned_of(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    front.warn_of_root()
    assert not caplog.text
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    front.warn_of_root()
    assert "running as root" in caplog.text


def health(address: str, *options: str) -> "subprocess.CompletedProcess[str]":
    command = [str(serving.KINOCHROME), "health", "--server", address, *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def test_the_health_verb_asks_a_server_with_tls(authority: Authority) -> None:
    pair = authority.pair("server")
    with small_service.running(Interceptor(), tls.credentials(files(pair))) as address:
        ready = health(address, "--tls-ca", str(authority.cert))
        named = health(address, "--tls-ca", str(authority.cert), "--tls-name", "films.example.org")
        plain = health(address, "--timeout", "2")
    assert (ready.returncode, ready.stdout) == (0, f"{address}: serving\n")
    assert named.returncode == 1  # the certificate is for another name
    assert plain.returncode == 1 and "does not answer" in plain.stderr and plain.stderr.count("\n") == 1
