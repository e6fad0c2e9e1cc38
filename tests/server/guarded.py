"""A server that knows its callers, and calls to it."""

import urllib.request
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import google_crc32c
import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from prometheus_client.parser import text_string_to_metric_families

from kinochrome_client.access import Access
from kinochrome_proto.kinochrome.v1 import colorizer_pb2 as wire
from kinochrome_proto.kinochrome.v1 import colorizer_pb2_grpc as wire_grpc
from tests.server import serving

SERVICE = wire.DESCRIPTOR.services_by_name["ColorizerService"]
METHODS = {method.name: method for method in SERVICE.methods}
IDLE_S = 2
OF_A_JOB = ("GetJob", "CommitFilm", "WatchJob", "DownloadFilm", "CancelJob", "UploadFilm")


@dataclass(frozen=True)
class Guarded:
    """A server with tokens."""

    server: serving.Server
    file: Path
    tokens: dict[str, str]
    figures: str
    """Address of its metrics."""

    @property
    def address(self) -> str:
        return self.server.address

    def metadata(self, owner: str) -> Any:
        return Access(self.address, token=self.tokens[owner]).metadata

    def stub(self, channel: grpc.Channel) -> Any:
        return wire_grpc.ColorizerServiceStub(channel)

    def jobs_on_disk(self) -> list[str]:
        return sorted(entry.name for entry in (self.server.spool / "jobs").iterdir())

    def is_well(self) -> bool:
        with grpc.insecure_channel(self.address) as channel:
            answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=10)
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)

    def scraped(self) -> dict[tuple[str, ...], float]:
        """Samples by name and values of their labels."""
        with urllib.request.urlopen(f"http://{self.figures}/metrics", timeout=10) as answer:
            families = text_string_to_metric_families(answer.read().decode())
            return {(one.name, *one.labels.values()): one.value for family in families for one in family.samples}


def code_of(call: Callable[[], Any]) -> tuple[grpc.StatusCode, str]:
    """Of a call, or of a stream read to its end."""
    try:
        answer = call()
        if hasattr(answer, "__next__"):
            for _ in answer:
                pass
    except grpc.RpcError as error:
        failure: Any = error
        return failure.code(), failure.details()
    return grpc.StatusCode.OK, ""


def piece(job_id: str, data: bytes = b"film", offset: int = 0) -> wire.UploadFilmRequest:
    return wire.UploadFilmRequest(job_id=job_id, offset=offset, data=data, crc32c=google_crc32c.value(data))


def about_job(stub: Any, method: str, job_id: str, metadata: Any) -> Callable[[], Any]:
    request = piece(job_id) if method == "UploadFilm" else getattr(wire, f"{method}Request")(job_id=job_id)
    given = iter([request]) if method == "UploadFilm" else request
    return lambda: getattr(stub, method)(given, timeout=20, metadata=metadata)


def raw(channel: grpc.Channel, method: str) -> Callable[[Iterable[bytes], Any], Any]:
    """A call of a method with bytes in the place of messages."""
    about = METHODS[method]
    place = f"{'stream' if about.client_streaming else 'unary'}_{'stream' if about.server_streaming else 'unary'}"
    call = getattr(channel, place)(f"/{SERVICE.full_name}/{method}")

    def do(messages: Iterable[bytes], metadata: Any) -> Any:
        given = iter(list(messages)) if about.client_streaming else next(iter(messages))
        return call(given, metadata=metadata, timeout=30)

    return do
