"""Errors as they go over the wire: google.rpc.Status with ErrorInfo, and BadRequest or RetryInfo where they help."""

import errno
import math
import sqlite3
from typing import Any, NoReturn

from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message import Message
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status

from kinochrome_proto import errors

from .durable import DISK_FULL

DOMAIN = "kinochrome"
CODES: dict[type[errors.KinochromeError], int] = {
    errors.BadFilm: code_pb2.INVALID_ARGUMENT,
    errors.BadSettings: code_pb2.INVALID_ARGUMENT,
    errors.UnknownColorizer: code_pb2.NOT_FOUND,
    errors.BadColorizer: code_pb2.FAILED_PRECONDITION,
    errors.Unusable: code_pb2.FAILED_PRECONDITION,
    errors.Cancelled: code_pb2.CANCELLED,
    errors.NotAllowed: code_pb2.UNAUTHENTICATED,
    errors.NoSuchJob: code_pb2.NOT_FOUND,
    errors.WrongOffset: code_pb2.FAILED_PRECONDITION,
    errors.DamagedOnTheWay: code_pb2.DATA_LOSS,
    errors.QuotaReached: code_pb2.RESOURCE_EXHAUSTED,
    errors.ServerFull: code_pb2.RESOURCE_EXHAUSTED,
    errors.ServerUnreachable: code_pb2.UNAVAILABLE,  # one that is being stopped
    errors.ServerFailed: code_pb2.INTERNAL,
}
FULL_RETRY_S = 60.0
"""After a full disk: somebody has to make room, or films have to be fetched."""


def status_of(error: errors.KinochromeError) -> status_pb2.Status:
    """The error with all that is known of it."""
    details: list[Message] = [error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN)]
    if error.field:
        violation = error_details_pb2.BadRequest.FieldViolation(field=error.field, description=str(error))
        details.append(error_details_pb2.BadRequest(field_violations=[violation]))
    if error.retry_s is not None:
        nanos, seconds = math.modf(error.retry_s)
        delay = duration_pb2.Duration(seconds=int(seconds), nanos=int(nanos * 1e9))
        details.append(error_details_pb2.RetryInfo(retry_delay=delay))
    packed = []
    for detail in details:
        packed.append(any_pb2.Any())
        packed[-1].Pack(detail)
    return status_pb2.Status(code=CODES.get(type(error), code_pb2.INTERNAL), message=str(error), details=packed)


async def refuse(context: Any, error: errors.KinochromeError) -> NoReturn:
    """End a call with the error."""
    rich = rpc_status.to_status(status_of(error))
    await context.abort(rich.code, rich.details, rich.trailing_metadata)
    raise AssertionError("abort returned")


def in_our_words(fault: BaseException) -> errors.KinochromeError:
    """An error for people, whatever happened; what is nobody's business but the log's stays out of it."""
    if isinstance(fault, errors.KinochromeError):
        return fault
    if is_disk_full(fault):
        return errors.ServerFull("the server's disk is full: try again later").retried_in(FULL_RETRY_S)
    if isinstance(fault, OSError):
        return errors.ServerFailed(f"the server cannot store the film: {fault.strerror or 'its log says why'}")
    return errors.ServerFailed("the server failed at this call; its log says why")


def is_disk_full(fault: BaseException) -> bool:
    """Whether this mends itself once there is room on the disk."""
    if isinstance(fault, sqlite3.Error):
        return fault.sqlite_errorcode & 0xFF == sqlite3.SQLITE_FULL or (
            fault.sqlite_errorcode & 0xFF == sqlite3.SQLITE_IOERR and "full" in str(fault)
        )
    return isinstance(fault, OSError) and fault.errno in (*DISK_FULL, errno.EFBIG)
