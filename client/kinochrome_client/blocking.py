"""The client for programs without asyncio: the same, on an event loop in a thread of its own."""

import asyncio
import contextlib
import queue
import threading
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator
from concurrent.futures import Future
from types import TracebackType
from typing import Any, TypeVar

from kinochrome_proto.kinochrome.v1 import colorizer_pb2 as wire

from .client import PATIENCE_S, AsyncClient, OnProgress, OnWarning, StrPath, ignore
from .jobs import Coloured, Job

Result = TypeVar("Result")
Argument = TypeVar("Argument")


class Client:
    """A server's client. Use as a context manager, or call `close` at the end. Threads may share it.

    Whatever breaks, the line, the server, this process, is carried on: within a call by itself, after a kill by the
    same call again. What is needed for that lies beside the output, in OUT.kinochrome, until the film is whole.

    Arguments, results and errors are those of `AsyncClient`. What a call is given to call, it calls in its own thread;
    an exception from there ends it. Ctrl-C ends a call as KeyboardInterrupt: the job goes on at the server.
    """

    def __init__(
        self,
        server: str,
        *,
        token: str | None = None,
        tls_ca: StrPath | None = None,
        cert: StrPath | None = None,
        key: StrPath | None = None,
        tls_name: str = "",
        patience_s: float = PATIENCE_S,
    ) -> None:
        """See `AsyncClient`."""
        self._client = AsyncClient(
            server, token=token, tls_ca=tls_ca, cert=cert, key=key, tls_name=tls_name, patience_s=patience_s
        )
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="kinochrome client", daemon=True)
        self._thread.start()

    def __enter__(self) -> "Client":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the connection. The client is of no use afterwards."""
        if not self._loop.is_closed():
            with contextlib.suppress(Exception):
                self._wait(self._client.close())
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
            self._loop.run_until_complete(self._loop.shutdown_default_executor())
            self._loop.close()

    @property
    def server(self) -> str:
        """HOST:PORT."""
        return self._client.server

    def colorize(
        self,
        film: StrPath,
        out: StrPath,
        *,
        settings: wire.Settings | None = None,
        priority: int = 0,
        overwrite: bool = False,
        restart: bool = False,
        on_progress: OnProgress = ignore,
        on_warning: OnWarning = ignore,
    ) -> Coloured:
        """Colour a film on the server. See `AsyncClient.colorize`."""
        here = _Here()
        return self._wait(
            self._client.colorize(
                film,
                out,
                settings=settings,
                priority=priority,
                overwrite=overwrite,
                restart=restart,
                on_progress=here.calling(on_progress),
                on_warning=here.calling(on_warning),
            ),
            here,
        )

    def resume(
        self,
        job_id: str,
        *,
        overwrite: bool = False,
        on_progress: OnProgress = ignore,
        on_warning: OnWarning = ignore,
    ) -> Coloured:
        """Carry on an interrupted job that was begun on this machine. See `AsyncClient.resume`."""
        here = _Here()
        progress, warning = here.calling(on_progress), here.calling(on_warning)
        return self._wait(
            self._client.resume(job_id, overwrite=overwrite, on_progress=progress, on_warning=warning), here
        )

    def fetch(
        self,
        job_id: str,
        out: StrPath,
        *,
        overwrite: bool = False,
        delete: bool = False,
        on_progress: OnProgress = ignore,
        on_warning: OnWarning = ignore,
    ) -> Coloured:
        """Fetch a job's coloured film, waiting for it if need be. See `AsyncClient.fetch`."""
        here = _Here()
        progress, warning = here.calling(on_progress), here.calling(on_warning)
        return self._wait(
            self._client.fetch(
                job_id, out, overwrite=overwrite, delete=delete, on_progress=progress, on_warning=warning
            ),
            here,
        )

    def jobs(self) -> list[Job]:
        """The caller's jobs on the server, newest first. See `AsyncClient.jobs`."""
        return self._wait(self._client.jobs())

    def job(self, job_id: str) -> Job:
        """How a job stands. See `AsyncClient.job`."""
        return self._wait(self._client.job(job_id))

    def watch(self, job_id: str) -> Iterator[Job]:
        """How a job stands now, and whenever that changes, until it has ended. See `AsyncClient.watch`."""
        changes = self._client.watch(job_id)
        try:
            while (job := self._wait(_next(changes))) is not None:
                yield job
        finally:
            self._wait(_end(changes))

    def cancel(self, job_id: str) -> Job:
        """Stop a job. See `AsyncClient.cancel`."""
        return self._wait(self._client.cancel(job_id))

    def delete(self, job_id: str) -> None:
        """Remove a job and all its bytes from the server. See `AsyncClient.delete`."""
        self._wait(self._client.delete(job_id))

    def server_info(self) -> wire.GetServerInfoResponse:
        """What the server can do, and with what. See `AsyncClient.server_info`."""
        return self._wait(self._client.server_info())

    def _wait(self, work: Coroutine[Any, Any, Result], here: "_Here | None" = None) -> Result:
        """Run something on the loop, and in this thread what it asks for."""
        here = here or _Here()
        started: Future[asyncio.Task[Result]] = Future()
        ended = threading.Event()

        def end(_: object) -> None:
            ended.set()
            here.stop()

        def start() -> None:
            task = self._loop.create_task(work)
            task.add_done_callback(end)
            started.set_result(task)

        self._loop.call_soon_threadsafe(start)
        try:
            here.call()
        except BaseException:  # Ctrl-C, or of what was called: what runs comes to an orderly end first
            self._loop.call_soon_threadsafe(started.result().cancel)
            ended.wait()
            if not started.result().cancelled():
                started.result().exception()  # it failed as well, or was done already: the interruption counts
            raise
        return started.result().result()


class _Here:
    """Calls that are asked for on the loop and made in the thread that waits."""

    def __init__(self) -> None:
        self._calls: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()

    def calling(self, function: Callable[[Argument], None]) -> Callable[[Argument], None]:
        """A function for the loop that has `function` called in the thread that waits."""
        return lambda argument: self._calls.put(lambda: function(argument))

    def stop(self) -> None:
        self._calls.put(None)

    def call(self) -> None:
        """Make the calls that are asked for, until `stop`."""
        while (call := self._calls.get()) is not None:
            call()


async def _next(changes: AsyncGenerator[Job, None]) -> Job | None:
    return await anext(changes, None)


async def _end(changes: AsyncGenerator[Job, None]) -> None:
    await changes.aclose()
