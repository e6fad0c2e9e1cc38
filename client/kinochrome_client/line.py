"""The line to one server: calls that are made again when the line breaks, within bounds."""

import copy
from collections.abc import Awaitable, Callable
from typing import Any, Protocol, TypeVar

import grpc

from kinochrome_proto import errors
from kinochrome_proto.kinochrome.v1 import colorizer_pb2_grpc as wire_grpc

from .access import Access
from .faults import FIRST_CONTACT_S, MENDED_BY_SENDING_AGAIN, Fault, Patience, fault

ANSWER_S = 30.0
"""How long a server may take over an answer that asks nothing of it but to look."""

Answer = TypeVar("Answer", covariant=True)


class _Call(Protocol[Answer]):
    def __call__(self, request: Any, /, *, timeout: float | None = None, metadata: Any = None) -> Awaitable[Answer]: ...


class Line:
    """Calls to one server, by whom `access` says. Of one event loop: the one that runs when it is made."""

    def __init__(self, access: Access, patience_s: float) -> None:
        """Raises BadSettings when what `access` names cannot be read."""
        self.access, self.server = access, access.server
        self._patience_s, self._met = patience_s, False
        self._channel = access.aio_channel()
        self.stub = wire_grpc.ColorizerServiceStub(self._channel)
        self._trouble = ""
        self._on_trouble: Callable[[str], None] = lambda trouble: None

    def told(self, on_trouble: Callable[[str], None]) -> "Line":
        """The same line for one activity, which wants to know why nothing moves; "" says that all is well again."""
        line = copy.copy(self)
        line._on_trouble = on_trouble
        return line

    async def close(self) -> None:
        await self._channel.close(None)

    @property
    def met(self) -> bool:
        """Whether the server has ever answered."""
        return self._met

    def meet(self) -> None:
        """It is known that there is a server, though it may be away: it is waited for with all patience."""
        self._met = True

    def patience(self) -> Patience:
        """For one activity. While the server has never answered it is short."""
        return Patience(self._patience_s if self._met else min(FIRST_CONTACT_S, self._patience_s))

    def well(self, patience: Patience) -> None:
        """Something came through."""
        self._met, patience.limit_s = True, self._patience_s
        patience.moved()
        self._tell("")

    async def bear(self, failed: grpc.RpcError | Fault, patience: Patience) -> Fault:
        """Wait before the next try, and return what had gone wrong.

        Raises the error that the failure stands for when trying again is of no use, or patience is at its end.
        """
        found = failed if isinstance(failed, Fault) else fault(self.server, failed)
        if found.answered:
            self._met, patience.limit_s = True, self._patience_s
        if found.again:
            self._tell(str(found.error) if found.answered else f"no answer from {self.server}")
        await patience.bear(found)
        return found

    async def ask(self, call: _Call[Answer], request: Any, *, timeout_s: float = ANSWER_S) -> Answer:
        """One question, one answer; asked again while the line fails. All of the service may be asked twice.

        Raises the error that the server states, or ServerUnreachable.
        """
        patience = self.patience()
        while True:
            try:
                answer = await call(request, timeout=timeout_s, metadata=self.access.metadata)
            except grpc.RpcError as error:
                failed = fault(self.server, error)
                if isinstance(failed.error, MENDED_BY_SENDING_AGAIN):
                    raise failed.error from None  # a question is not what was sent
                await self.bear(failed, patience)
            else:
                self.well(patience)
                return answer

    def _tell(self, trouble: str) -> None:
        if trouble != self._trouble:
            self._trouble = trouble
            self._on_trouble(trouble)


def torn(words: str) -> Fault:
    """A stream that ended, or said something, otherwise than agreed."""
    return Fault(errors.ServerFailed(words), again=True, strange=True)


def damaged(words: str) -> Fault:
    """Bytes whose checksum is wrong: they are asked for again."""
    return Fault(errors.DamagedOnTheWay(words), again=True, strange=True)
