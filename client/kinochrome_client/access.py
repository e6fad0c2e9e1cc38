"""How a server is reached and who calls: its address, TLS, the bearer token."""

import contextlib
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import grpc

from kinochrome_proto.errors import BadSettings

_OPTIONS: list[tuple[str, int]] = [
    ("grpc.max_receive_message_length", 4 << 20),
    ("grpc.keepalive_time_ms", 30_000),  # a film waits long in a server's queue: tell a dead line from a slow one
    ("grpc.keepalive_timeout_ms", 15_000),
    # By default gRPC waits up to two minutes before it looks for a lost server again; `Patience` does the waiting.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    # As long as one attempt to connect may take.
    ("grpc.min_reconnect_backoff_ms", 10_000),
]


@dataclass(frozen=True)
class Access:
    """Where a server is, and how to show who one is. Connections to other machines are always TLS."""

    server: str
    """HOST:PORT."""
    token: str | None = field(default=None, repr=False)
    """What the server's tokens file knows the caller by."""
    tls_ca: Path | None = None
    """PEM certificates that the server's is checked against; by default those of the well-known authorities."""
    cert: Path | None = None
    """PEM certificate (with its chain) that the client shows, where the server asks for one."""
    key: Path | None = None
    """The certificate's private key, PEM."""
    tls_name: str = ""
    """Name that the server's certificate is for, where that is not the address's."""

    def __post_init__(self) -> None:
        host, _, port = self.server.rpartition(":")
        if not host or not port.isdecimal() or not 0 < int(port) < 65536 or "/" in host:
            raise BadSettings(f"a server is named HOST:PORT, not {self.server!r}")
        if (self.cert is None) != (self.key is None):
            raise BadSettings("a client's certificate and its key go together: give both or neither")
        if self.token is not None and (not self.token or not self.token.isascii() or not self.token.isprintable()):
            raise BadSettings("a token is one line of printable ASCII characters, and not empty")

    @property
    def secure(self) -> bool:
        """Whether the connection is TLS. A token never goes to another machine without."""
        return (
            self.tls_ca is not None
            or self.cert is not None
            or bool(self.tls_name)
            or not _is_loopback(self.server.rpartition(":")[0])
        )

    @property
    def metadata(self) -> Sequence[tuple[str, str]]:
        """What every call carries. By hand: with an interceptor grpc.aio leaks streams that are cancelled."""
        return [("authorization", f"Bearer {self.token}")] if self.token else []

    def channel(self) -> grpc.Channel:
        """A new channel, for threads. Raises BadSettings when a PEM file cannot be read."""
        if self.secure:
            return grpc.secure_channel(self.server, self._credentials(), options=self._options)
        return grpc.insecure_channel(self.server, options=_OPTIONS)

    def aio_channel(self) -> grpc.aio.Channel:
        """A new channel, for the running event loop. Raises BadSettings when a PEM file cannot be read."""
        if self.secure:
            return grpc.aio.secure_channel(self.server, self._credentials(), options=self._options)
        return grpc.aio.insecure_channel(self.server, options=_OPTIONS)

    @property
    def _options(self) -> list[tuple[str, str | int]]:
        return [*_OPTIONS, *([("grpc.ssl_target_name_override", self.tls_name)] if self.tls_name else [])]

    def _credentials(self) -> grpc.ChannelCredentials:
        return grpc.ssl_channel_credentials(_pem(self.tls_ca), _pem(self.key), _pem(self.cert))


def _pem(file: Path | None) -> bytes | None:
    if file is None:
        return None
    try:
        content = file.read_bytes()
    except OSError as error:
        raise BadSettings(f"{file} cannot be read: {error.strerror}") from None
    if b"-----BEGIN " not in content:
        raise BadSettings(f"{file} is no PEM file: it should hold a line -----BEGIN ...-----")
    return content


def _is_loopback(host: str) -> bool:
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    return host.lower() == "localhost"
