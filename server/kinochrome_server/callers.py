"""Who calls: every call of the service passes here first, and is let in under its owner's name or not at all.

    server = grpc.aio.server(interceptors=[callers.Interceptor(tokens, certificates=True)])

Handlers, and whatever they call in the same task, read `callers.owner.get()`.
"""

import asyncio
import contextlib
import inspect
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any, cast

import grpc
from google.protobuf.message import DecodeError

from kinochrome_proto import errors

from . import metrics
from .about import LOCAL, owner
from .refusals import refuse
from .tokens import Entry, Tokens

OPEN_TO_ALL = "/grpc.health.v1.Health/"
"""Probes know no tokens, and learn nothing but whether the server is ready."""
RECHECK_S = 1.0
"""How often running calls are held against the tokens: a revoked one ends those that still run under it."""

__all__ = ["LOCAL", "OPEN_TO_ALL", "RECHECK_S", "Interceptor", "owner"]

log = logging.getLogger(__name__)


class Interceptor(grpc.aio.ServerInterceptor):  # type: ignore[type-arg]  # generic in its stubs alone
    """Lets calls in, or ends them with UNAUTHENTICATED before a byte of their messages is looked at.

    It also reads the messages: one that is none of the service's ends in INVALID_ARGUMENT. Handlers that stream get
    them from their request iterator, never from `context.read()`.
    """

    def __init__(self, tokens: Tokens | None = None, *, certificates: bool = False) -> None:
        """`tokens`: callers need one of them. `certificates`: TLS has made sure of a certificate of the client CA.

        With both a caller needs both, and the token says who it is.
        """
        self._tokens, self._certificates = tokens, certificates
        self._running: dict[asyncio.Task[Any], _Running] = {}
        self._rechecking: asyncio.Task[None] | None = None

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        handler = await continuation(handler_call_details)
        method = handler_call_details.method
        if handler is None or method.startswith(OPEN_TO_ALL):
            return handler
        metadata = dict(handler_call_details.invocation_metadata)
        return _Handler(handler, method.rpartition("/")[2], self._guarded(metadata))

    def _guarded(self, metadata: dict[str, Any]) -> "Callable[[Any], contextlib.AbstractAsyncContextManager[None]]":
        @contextlib.asynccontextmanager
        async def guard(context: Any) -> AsyncIterator[None]:
            try:
                name, entry = self._who(context, metadata)
            except errors.NotAllowed as fault:
                log.info("a caller from %s was turned away: %s", context.peer(), fault)
                await refuse(context, fault)
            owner.set(name)
            if entry is None:
                yield
                return
            task = cast("asyncio.Task[Any]", asyncio.current_task())
            self._running[task] = _Running(context, entry)
            if self._rechecking is None or self._rechecking.done():
                self._rechecking = asyncio.create_task(self._recheck())
            try:
                yield
            finally:
                del self._running[task]

        return guard

    def _who(self, context: Any, metadata: dict[str, Any]) -> tuple[str, Entry | None]:
        subject = _subject(context) if self._certificates else ""
        if self._certificates and not subject:
            metrics.turned_away("certificate")
            raise errors.NotAllowed("a client certificate with a subject is needed: give --tls-cert and --tls-key")
        if self._tokens is None:
            return subject or LOCAL, None
        scheme, _, token = str(metadata.get("authorization", "")).partition(" ")
        if scheme.lower() != "bearer" or not token:
            metrics.turned_away("no token")
            raise errors.NotAllowed("this server wants a token: give --token-file, or set KINOCHROME_TOKEN")
        entry = self._tokens.find(token.strip())
        if entry is None:
            metrics.turned_away("wrong token")
            raise errors.NotAllowed("the server does not know this token: ask its operator for one that is valid")
        return entry.name, entry

    async def _recheck(self) -> None:
        """End calls whose token has been revoked meanwhile; lives as long as there are calls."""
        while self._running:
            await asyncio.sleep(RECHECK_S)
            valid = self._tokens.entries() if self._tokens else ()
            for task, running in list(self._running.items()):
                if running.entry in valid:
                    continue
                log.info("a call of %s was ended: its token has been revoked", running.entry.name)
                with contextlib.suppress(Exception):  # the call may have ended by itself just now
                    await refuse(running.context, errors.NotAllowed("the token has been revoked"))
                task.cancel()


@dataclass(frozen=True)
class _Running:
    context: Any
    entry: Entry


class _Handler(grpc.RpcMethodHandler):  # type: ignore[type-arg]  # generic in its stubs alone
    """A method behind its guard; as gRPC wants it, with the one of four functions that fits the method."""

    def __init__(
        self, inner: Any, name: str, guard: Callable[[Any], contextlib.AbstractAsyncContextManager[None]]
    ) -> None:
        self.request_streaming, self.response_streaming = inner.request_streaming, inner.response_streaming
        self.request_deserializer, self.response_serializer = None, inner.response_serializer  # read once let in
        self.unary_unary = self.unary_stream = self.stream_unary = self.stream_stream = None
        parse: Callable[[bytes], Any] = inner.request_deserializer

        def read(given: Any) -> Any:
            return _parsed_all(given, parse, name) if inner.request_streaming else _parsed(given, parse, name)

        place = ("stream" if inner.request_streaming else "unary") + (
            "_stream" if inner.response_streaming else "_unary"
        )
        do = getattr(inner, place)

        async def answered(given: Any, context: Any) -> Any:
            async with guard(context), _counted(name, context):
                return await do(read(given), context)

        async def answers(given: Any, context: Any) -> AsyncIterator[Any]:
            async with guard(context), _counted(name, context), contextlib.aclosing(do(read(given), context)) as stream:
                async for response in stream:
                    yield response

        setattr(self, place, answers if inspect.isasyncgenfunction(do) else answered)


@contextlib.asynccontextmanager
async def _counted(name: str, context: Any) -> AsyncIterator[None]:
    """Counts the call by its code, and turns an error for people into its status."""
    code = grpc.StatusCode.OK
    try:
        try:
            yield
        except errors.KinochromeError as fault:
            await refuse(context, fault)
    except (asyncio.CancelledError, GeneratorExit):  # the second where gRPC was writing when the client left
        code = grpc.StatusCode.CANCELLED
        raise
    except grpc.aio.AbortError:
        code = _BY_NUMBER.get(context.code(), grpc.StatusCode.UNKNOWN)
        raise
    except BaseException:
        code = grpc.StatusCode.UNKNOWN
        raise
    finally:
        metrics.call_ended(name, code.name)


_BY_NUMBER = {status.value[0]: status for status in grpc.StatusCode} | {status: status for status in grpc.StatusCode}


def _parsed(data: bytes, parse: Callable[[bytes], Any], name: str) -> Any:
    try:
        return parse(data)
    except DecodeError:
        raise errors.BadSettings(f"a message to {name} is none of kinochrome.v1: does the client fit?") from None


async def _parsed_all(messages: AsyncIterator[bytes], parse: Callable[[bytes], Any], name: str) -> AsyncIterator[Any]:
    async for data in messages:
        yield _parsed(data, parse, name)


def _subject(context: Any) -> str:
    """The client certificate's subject, such as "CN=alice,O=studio"; "" without one."""
    said = context.auth_context()
    for key in ("x509_subject", "x509_common_name"):
        for value in said.get(key, ()):
            if value:
                return str(value.decode(errors="replace"))
    return ""
