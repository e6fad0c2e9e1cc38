"""The server's front door: which addresses it may listen on, what it lets strangers see, as whom it runs."""

import contextlib
import ipaddress
import logging
import os
from typing import Any

from kinochrome_proto.errors import BadSettings

log = logging.getLogger(__name__)


def check_address(listen: str, *, encrypted: bool, known: bool) -> None:
    """Check an address to serve films on.

    Args:
        listen: HOST:PORT.
        encrypted: whether there is TLS.
        known: whether callers have to say who they are, by tokens or client certificates.

    Raises BadSettings where it is none, and where what it lets in from other machines would not be safe.
    """
    host, port = _parts(listen)
    if not port.isdecimal() or int(port) > 65535 or not host:
        raise BadSettings(f"--listen takes HOST:PORT with a port of 0 to 65535, not {listen!r}")
    if is_loopback(host):
        return
    if not encrypted:
        raise BadSettings(
            f"--listen {listen} is not a loopback address: without TLS only this machine is served; "
            "give --tls-cert and --tls-key"
        )
    if not known:
        raise BadSettings(f"--listen {listen} would serve whoever comes: give --tokens or --tls-client-ca")


def is_loopback(host: str) -> bool:
    """Whether a host is this machine and reached from nowhere else."""
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    return host == "localhost"


def reflect(server: Any, *services: str) -> None:
    """Let callers who are let in ask the server for its .proto; see `grpcurl list`."""
    from grpc_reflection.v1alpha import reflection

    reflection.enable_server_reflection((*services, reflection.SERVICE_NAME), server)


def warn_of_root() -> None:
    """A decoder that is taken over as root has the machine."""
    if os.geteuid() == 0:
        log.warning("running as root: films come from strangers, and decoders have faults; serve as a user of its own")


def _parts(listen: str) -> tuple[str, str]:
    host, _, port = listen.rpartition(":")
    return host, port
