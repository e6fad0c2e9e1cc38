"""What failed calls stand for, and how long to go on trying."""

import asyncio
import random
import re
import time
from dataclasses import dataclass
from typing import cast

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from kinochrome_proto import errors

FIRST_CONTACT_S = 3.0
"""How long a server is looked for that has never answered: who mistypes an address should not wait for minutes."""
LONGEST_PAUSE_S = 10.0
"""Between two tries."""
STRIKES = 8
"""Failures in a row that a broken line does not explain, and after which trying again is no use."""

MENDED_BY_SENDING_AGAIN = (errors.DamagedOnTheWay, errors.WrongOffset)

_LINE = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED}
_STRANGE = {
    # gRPC's words for streams that were torn in odd places, or a server that fell over.
    grpc.StatusCode.ABORTED,
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.DATA_LOSS,
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.UNKNOWN,
}
_TORN_HERE = "Internal error from Core"
"""What gRPC's Python says, under code INTERNAL, of a stream whose line went down under it; no server says it."""
_NOT_TRUSTED = ("CERTIFICATE_VERIFY_FAILED", "certificate signature failure", "Hostname Verification Check failed")
_HUNG_UP = re.compile(r"failed to connect to all addresses.*: Socket closed$")
_NO_TLS_THERE = "WRONG_VERSION_NUMBER"
_CERTIFICATE_REFUSED = ("CERTIFICATE_REQUIRED", "ALERT_BAD_CERTIFICATE", "CERTIFICATE_EXPIRED", "UNKNOWN_CA")


@dataclass(frozen=True)
class Fault:
    """A call that failed."""

    error: errors.KinochromeError
    again: bool = False
    """Whether trying again may help."""
    strange: bool = False
    """Whether the line is not to blame: then trying again helps a few times or never."""
    answered: bool = True
    """Whether it was the server that said so."""
    pause_s: float = 0.0
    """How long the server asks to wait."""


def fault(server: str, error: grpc.RpcError) -> Fault:
    """What a failed call to `server` stands for."""
    code, details = error.code(), error.details() or ""
    reason, pause_s = None, 0.0
    try:
        status = rpc_status.from_call(cast(grpc.Call, error))
    except ValueError:  # a status that contradicts itself
        status = None
    for detail in status.details if status else []:
        info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
        if detail.Unpack(info) and info.domain == "kinochrome":
            reason = info.reason
        elif detail.Unpack(retry):
            pause_s = retry.retry_delay.ToTimedelta().total_seconds()
    if reason is not None:
        stated = errors.BY_REASON.get(reason, errors.ServerFailed)(details)
        sendable = isinstance(stated, MENDED_BY_SENDING_AGAIN)
        return Fault(stated, code in _LINE or pause_s > 0 or sendable, strange=sendable, pause_s=pause_s)
    if code in _LINE:
        return _no_line(server, details)
    if code == grpc.StatusCode.UNAUTHENTICATED or code == grpc.StatusCode.PERMISSION_DENIED:
        return Fault(errors.NotAllowed(f"server {server} does not let you in: {details or 'it does not say why'}"))
    if code == grpc.StatusCode.UNIMPLEMENTED:
        return Fault(errors.ServerFailed(f"{server} is no Kinochrome server of this version: {details}"))
    failed = errors.ServerFailed(f"server {server} broke off: {code.name.lower()}, {details}")
    return Fault(failed, code in _STRANGE, strange=details != _TORN_HERE, answered=False)


def _no_line(server: str, details: str) -> Fault:
    if any(words in details for words in _NOT_TRUSTED):
        return Fault(
            errors.ServerUnreachable(
                f"the certificate of {server} is not trusted, has expired or is another host's: see --tls-ca"
            ),
            answered=False,
        )
    if _NO_TLS_THERE in details:
        return Fault(errors.ServerUnreachable(f"the server at {server} does not speak TLS"), answered=False)
    if any(words in details for words in _CERTIFICATE_REFUSED):
        return Fault(
            errors.NotAllowed(f"server {server} refuses the client's certificate: see --tls-cert"), answered=False
        )
    if _HUNG_UP.search(details):
        # It ends the handshake without a word: it may also have been stopped just then, so it is tried again.
        odd = f"{server} hangs up at once: does it want TLS (--tls-ca), or a certificate (--tls-cert, --tls-key)?"
        return Fault(errors.ServerUnreachable(odd), again=True, answered=False)
    absent = errors.ServerUnreachable(f"no server answers at {server}: start one with `kinochrome serve`")
    return Fault(absent, again=True, answered=False)


class Patience:
    """How long one goes on trying while nothing moves: a time that begins anew whenever something has."""

    def __init__(self, limit_s: float) -> None:
        self.limit_s = limit_s
        self._failing_since: float | None = None
        self._failures = self._strikes = 0

    def moved(self) -> None:
        """Something came through."""
        self._failing_since, self._failures, self._strikes = None, 0, 0

    async def bear(self, fault: Fault) -> None:
        """Wait before the next try. Raises the fault's error when it is of no use, or patience is at its end."""
        now = time.monotonic()
        if self._failing_since is None:
            self._failing_since = now
        self._failures += 1
        self._strikes += fault.strange
        left_s = self.limit_s - (now - self._failing_since)
        if not fault.again or self._strikes >= STRIKES or left_s <= 0:
            raise fault.error
        pause_s = random.uniform(0.5, 1.0) * min(LONGEST_PAUSE_S, 0.1 * 2**self._failures)
        await asyncio.sleep(min(max(pause_s, fault.pause_s), left_s))
