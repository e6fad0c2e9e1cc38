"""A service in this process that does next to nothing, behind the real front door."""

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any, cast

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1._async import HealthServicer

from kinochrome_proto.errors import NoSuchJob
from kinochrome_proto.kinochrome.v1 import colorizer_pb2 as wire
from kinochrome_proto.kinochrome.v1 import colorizer_pb2_grpc as wire_grpc
from kinochrome_server import callers, front


class SmallService(wire_grpc.ColorizerServiceServicer):
    """Tells callers who they are."""

    async def GetServerInfo(self, request: Any, context: Any) -> wire.GetServerInfoResponse:
        return wire.GetServerInfoResponse(version=callers.owner.get())

    async def GetJob(self, request: wire.GetJobRequest, context: Any) -> wire.GetJobResponse:
        raise NoSuchJob(f"there is no job {request.job_id!r}")

    async def WatchJob(self, request: wire.WatchJobRequest, context: Any) -> AsyncIterator[wire.WatchJobResponse]:
        """The owner's name, then nothing for a long time."""
        yield wire.WatchJobResponse(job=wire.Job(id=callers.owner.get()))
        await asyncio.sleep(60)

    async def UploadFilm(
        self, requests: AsyncIterator[wire.UploadFilmRequest], context: Any
    ) -> AsyncIterator[wire.UploadFilmResponse]:
        size = 0
        async for request in requests:
            size += len(request.data)
            yield wire.UploadFilmResponse(uploaded=size)


@contextmanager
def running(
    interceptor: callers.Interceptor, credentials: grpc.ServerCredentials | None = None, *, reflection: bool = False
) -> Iterator[str]:
    """Serve on a free loopback port from a thread; yields the address."""
    address: list[str] = []
    ready, stop = threading.Event(), asyncio.Event()
    loop = asyncio.new_event_loop()

    async def serve() -> None:
        server = grpc.aio.server(interceptors=[interceptor])
        wire_grpc.add_ColorizerServiceServicer_to_server(cast(Any, SmallService)(), server)
        health = HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(health, server)
        await health.set("", health_pb2.HealthCheckResponse.SERVING)
        if reflection:
            front.reflect(server, "kinochrome.v1.ColorizerService")
        if credentials:
            port = server.add_secure_port("127.0.0.1:0", credentials)
        else:
            port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        address.append(f"127.0.0.1:{port}")
        ready.set()
        await stop.wait()
        await server.stop(0)

    def run() -> None:
        with asyncio.Runner(loop_factory=lambda: loop) as runner:
            runner.run(serve())

    thread = threading.Thread(target=run)
    thread.start()
    try:
        assert ready.wait(20)
        yield address[0]
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(20)
        assert not thread.is_alive()
