"""What workers and the inference process say to each other: a packet each (SOCK_SEQPACKET), so never a part of one.

A worker sends a `Request`. It gets an `Answer` for each, in any order; `ALIVE` now and then, while one waits.
"""

import json
import struct
from dataclasses import dataclass
from typing import Any

MOST = 64
"""Pictures of a request, at most."""
LONGEST_SIDE = 1 << 14
LARGEST = 1 << 13
"""Bytes of a packet."""
PAINTED, FAULT, ALIVE = 0, 1, 2
_REQUEST, _ANSWER = struct.Struct("<BHHH"), struct.Struct("<BB")


@dataclass(frozen=True)
class Request:
    """Pictures to be painted, which lie in a slot; the slot is the inference process's until it answers."""

    slot: int
    count: int
    height: int
    width: int

    def packed(self) -> bytes:
        return _REQUEST.pack(self.slot, self.count, self.height, self.width)

    @classmethod
    def unpacked(cls, packet: bytes) -> "Request":
        """Raises ValueError; sizes are not checked."""
        try:
            return cls(*_REQUEST.unpack(packet))
        except struct.error:
            raise ValueError(f"a request of {len(packet)} bytes") from None


@dataclass(frozen=True)
class Answer:
    """What has become of a slot's pictures."""

    kind: int
    slot: int = 0
    fault: dict[str, Any] | None = None
    """Of a FAULT, as plain JSON values: "reason" and "text" of a KinochromeError, or "memory"."""

    def packed(self) -> bytes:
        text = json.dumps(self.fault).encode() if self.fault else b""
        return _ANSWER.pack(self.kind, self.slot) + text

    @classmethod
    def unpacked(cls, packet: bytes) -> "Answer":
        kind, slot = _ANSWER.unpack_from(packet)
        text = packet[_ANSWER.size :]
        return cls(kind, slot, json.loads(text) if text else None)
