"""A line to a server that a test can cut, stall and slow."""

import asyncio
import itertools
import random
import socket
import struct
import threading
from collections.abc import Coroutine, Iterable, Iterator
from types import TracebackType
from typing import Any, TypeVar

BLOCK = 16 * 1024  # bytes passed on at a time

Result = TypeVar("Result")


class Proxy:
    """Passes TCP connections on to a server, faults included. Use as a context manager; it runs in its own thread.

    A cut connection is either reset or ended politely, by chance: gRPC tells the two apart.
    """

    def __init__(self, target: str, *, seed: int = 0) -> None:
        """`target` is HOST:PORT of the server; `seed` chooses what is left to chance."""
        self.target = target
        """Where new connections go; may be changed when the server has moved."""
        self.connections = self.cuts = self.passed = 0
        """Connections made, connections cut, bytes passed on."""
        self._chance = random.Random(seed)
        self._cut_after: Iterator[int] = iter(())
        self._refusing = False
        self._bytes_per_s: float | None = None
        self._open: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._lines: set[_Line] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self.address = ""
        """Where clients connect to."""

    def __enter__(self) -> "Proxy":
        self._thread.start()
        self._server = self._there(self._listen())
        self._flowing = asyncio.Event()
        self._flowing.set()
        self.address = f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._there(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def cut(self) -> int:
        """Cut all connections now; return how many there were."""
        return self._there(self._cut_all())

    def cut_after(self, counts: Iterable[int]) -> None:
        """Cut each new connection once so many bytes, both ways together, have passed; none when there are no more."""
        self._cut_after = iter(counts)

    def stall(self) -> None:
        """Nothing passes, and nothing ends, until `flow`."""
        self._there(self._set_flowing(False))

    def flow(self) -> None:
        """Bytes pass again, those that were held first."""
        self._there(self._set_flowing(True))

    def freeze(self) -> int:
        """Nothing ever passes again on the connections there are, and they do not end; return how many there are."""
        return self._there(self._freeze())

    def slow(self, bytes_per_s: float | None) -> None:
        """At most so many bytes a second, each way of each connection; None for all there is."""
        self._bytes_per_s = bytes_per_s

    def refuse(self, refusing: bool = True) -> None:
        """Whether new connections are ended at once."""
        self._refusing = refusing

    def _there(self, work: Coroutine[Any, Any, Result]) -> Result:
        """Run something on the loop."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(20)

    async def _listen(self) -> asyncio.Server:
        return await asyncio.start_server(self._accept, "127.0.0.1", 0)

    async def _close(self) -> None:
        self._server.close()
        await self._cut_all()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _set_flowing(self, flowing: bool) -> None:
        if flowing:
            self._flowing.set()
        else:
            self._flowing.clear()

    async def _freeze(self) -> int:
        for line in self._lines:
            line.frozen = True
        return len(self._lines)

    async def _cut_all(self) -> int:
        count = len(self._open) // 2
        for writer in list(self._open):
            self._end(writer, reset=self._chance.random() < 0.5)
        self.cuts += count
        return count

    def _end(self, writer: asyncio.StreamWriter, *, reset: bool) -> None:
        if reset and (held := writer.get_extra_info("socket")) is not None:
            held.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()
        self._open.discard(writer)

    async def _accept(self, from_client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            await self._pass(from_client, to_client)
        except asyncio.CancelledError:
            pass
        finally:
            self._tasks.discard(task)

    async def _pass(self, from_client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        self.connections += 1
        host, _, port = self.target.rpartition(":")
        try:
            if self._refusing:
                raise ConnectionRefusedError
            from_server, to_server = await asyncio.open_connection(host, int(port))
        except OSError:
            self._end(to_client, reset=True)
            return
        line = _Line(next(self._cut_after, None))
        self._lines.add(line)
        ends = (to_client, to_server)
        self._open.update(ends)
        ways = [
            asyncio.ensure_future(self._pump(from_client, to_server, line)),
            asyncio.ensure_future(self._pump(from_server, to_client, line)),
        ]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            if line.spent:
                self.cuts += 1
                await asyncio.sleep(0)
        finally:
            self._lines.discard(line)
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            for writer in ends:
                self._end(writer, reset=line.spent and self._chance.random() < 0.5)

    async def _pump(self, source: asyncio.StreamReader, target: asyncio.StreamWriter, line: "_Line") -> None:
        """One way, until it ends or the line is cut."""
        while data := await source.read(BLOCK):
            await self._flowing.wait()
            if self._bytes_per_s is not None:
                await asyncio.sleep(len(data) / self._bytes_per_s)
            if line.frozen:
                await asyncio.Event().wait()
            data = line.take(data)
            self.passed += len(data)
            target.write(data)
            await target.drain()
            if line.spent:
                return


class _Line:
    """A connection, and what may still pass on it."""

    def __init__(self, left: int | None) -> None:
        self._left = left
        self.frozen = False

    @property
    def spent(self) -> bool:
        return self._left == 0

    def take(self, data: bytes) -> bytes:
        if self._left is not None:
            data = data[: self._left]
            self._left -= len(data)
        return data


def lengths(seed: int, shortest: int, longest: int) -> Iterator[int]:
    """Bytes after which lines are cut, without end; short ones are as likely as long ones, order by order."""
    chance = random.Random(seed)
    for _ in itertools.count():
        yield round(shortest * (longest / shortest) ** chance.random())
