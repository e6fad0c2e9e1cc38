"""What a failed call stands for."""

import grpc
import pytest

from kinochrome_client.faults import fault


class Failed(grpc.RpcError):
    """A call that ended like this, with no words of a server's."""

    def __init__(self, code: grpc.StatusCode, details: str) -> None:
        self._code, self._details = code, details

    def code(self) -> grpc.StatusCode:
        return self._code

    def details(self) -> str:
        return self._details

    def trailing_metadata(self) -> tuple[()]:
        return ()


@pytest.mark.parametrize(
    ("code", "details", "again", "strange"),
    [
        (grpc.StatusCode.UNAVAILABLE, "Socket closed", True, False),
        # The line went down under a stream, and gRPC has no better words; a server that is away is no fault of its own.
        (grpc.StatusCode.INTERNAL, "Internal error from Core", True, False),
        (grpc.StatusCode.INTERNAL, "something else", True, True),
        (grpc.StatusCode.UNIMPLEMENTED, "unknown service", False, False),
        (grpc.StatusCode.UNAUTHENTICATED, "who are you", False, False),
    ],
)
def test_what_is_tried_again_and_for_how_long(code: grpc.StatusCode, details: str, again: bool, strange: bool) -> None:
    found = fault("127.0.0.1:1", Failed(code, details))
    assert (found.again, found.strange) == (again, strange)
