"""Results that come later than their frames."""

from hypothesis import given
from hypothesis import strategies as st

from kinochrome_server.delayed import delayed


@given(st.lists(st.integers()), st.integers(0, 5))
def test_each_frame_meets_its_own_result(frames: list[int], delay: int) -> None:
    held: list[int] = []

    def push(frame: int) -> list[int]:
        held.append(2 * frame)
        return [held.pop(0)] if len(held) > delay else []

    assert list(delayed(frames, push, lambda: held)) == [(frame, 2 * frame) for frame in frames]
