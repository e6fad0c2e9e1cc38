"""Messages between a process and a worker that may be anything."""

import os
import socket
import threading
import time
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kinochrome_server.lines import Garbled, Line


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    one, other = socket.socketpair()
    with one, other:
        yield one, other


@given(st.lists(st.binary(max_size=3000), max_size=20))
def test_messages_arrive_whole_and_in_order(messages: list[bytes]) -> None:
    one, other = socket.socketpair()
    with one, other:
        for message in messages:
            Line(one).send(message)
        line = Line(other)
        assert [line.receive(1) for _ in messages] == messages
        assert line.receive(0) is None


def test_a_message_larger_than_the_sockets_buffer(ends: tuple[socket.socket, socket.socket]) -> None:
    message = os.urandom(5 << 20)
    sender = threading.Thread(target=lambda: Line(ends[0]).send(message))
    sender.start()
    assert Line(ends[1]).receive(10) == message
    sender.join(5)


def test_one_who_does_not_read_holds_nobody_up(ends: tuple[socket.socket, socket.socket]) -> None:
    class Enough(Exception):
        pass

    def check() -> None:
        raise Enough

    with pytest.raises(Enough):
        Line(ends[0]).send(bytes(5 << 20), check)


def test_one_who_trickles_holds_nobody_up(ends: tuple[socket.socket, socket.socket]) -> None:
    ended = threading.Event()

    def trickle() -> None:
        ends[1].sendall(b"\x00\x00\xff\xff")
        while not ended.wait(0.01):
            ends[1].sendall(b"x")

    thread = threading.Thread(target=trickle)
    thread.start()
    begun = time.monotonic()
    assert Line(ends[0]).receive(0.2) is None
    assert time.monotonic() - begun < 2
    ended.set()
    thread.join(5)


def test_an_absurd_length_is_refused_before_it_takes_memory(ends: tuple[socket.socket, socket.socket]) -> None:
    ends[0].sendall(b"\xff\xff\xff\xff")
    with pytest.raises(Garbled, match="announced"):
        Line(ends[1]).receive(1)
    with pytest.raises(ValueError, match="10 at most"):
        Line(ends[0], largest=10).send(bytes(11))


def test_the_end_is_told(ends: tuple[socket.socket, socket.socket]) -> None:
    Line(ends[0]).send(b"last")
    ends[0].close()
    line = Line(ends[1])
    assert line.receive(1) == b"last"
    with pytest.raises(EOFError):
        line.receive(1)
