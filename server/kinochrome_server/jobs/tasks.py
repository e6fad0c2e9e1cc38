"""What runs beside the calls: tasks that go on to their end, and threads for what blocks."""

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

THREADS = 16

ResultT = TypeVar("ResultT")


class Tasks:
    """Tasks and threads of a server. Made, used and ended on the event loop."""

    def __init__(self) -> None:
        self._running: set[asyncio.Task[Any]] = set()
        self._threads = ThreadPoolExecutor(THREADS, "bytes")

    def spawn(self, work: Coroutine[Any, Any, ResultT]) -> "asyncio.Task[ResultT]":
        """Begin it; it is held on to until it ends."""
        task = asyncio.create_task(work)
        self._running.add(task)
        task.add_done_callback(self._forget)
        return task

    async def unbroken(self, work: Coroutine[Any, Any, ResultT]) -> ResultT:
        """Its result; it goes on to its end though whoever waits for it is cancelled."""
        return await asyncio.shield(self.spawn(work))

    async def in_thread(self, do: Callable[..., ResultT], *values: Any) -> ResultT:
        """The result of what blocks."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, do, *values)

    async def end(self) -> None:
        """Wait until all has come to its end."""
        while running := self._running - {asyncio.current_task()}:
            await asyncio.wait(running)
        self._threads.shutdown()

    def _forget(self, task: "asyncio.Task[Any]") -> None:
        self._running.discard(task)
        if not task.cancelled():
            task.exception()  # asked for, so that one nobody waits for any more is no complaint
