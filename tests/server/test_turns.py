"""Whose turn it is."""

import threading
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kinochrome_server.turns import NOBODY, Shares, Turn, Turns


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def turns(clock: Clock) -> Turns[str]:
    return Turns(clock)


def serve(turns: Turns[str], clock: Clock, count: int, seconds: float = 1.0) -> list[str]:
    """Give out so many, one after the other, each of which takes so long."""
    served = []
    for _ in range(count):
        taken = turns.take()
        assert taken is not None
        item, given = taken
        served.append(item)
        clock.now += seconds
        turns.done(given)
    return served


def test_what_is_one_jobs_goes_in_order(turns: Turns[str], clock: Clock) -> None:
    for name in "abcde":
        turns.put(name, NOBODY)
    assert serve(turns, clock, 5) == list("abcde")


def test_two_jobs_take_turns_however_much_one_of_them_sends(turns: Turns[str], clock: Clock) -> None:
    for number in range(20):
        turns.put(f"long {number}", Turn("long"))
    assert serve(turns, clock, 5) == [f"long {number}" for number in range(5)]
    for number in range(5):
        turns.put(f"short {number}", Turn("short"))
    assert Counter(name.split()[0] for name in serve(turns, clock, 10)) == {"long": 5, "short": 5}


def test_it_is_time_that_is_shared_not_the_number_of_tasks(turns: Turns[str], clock: Clock) -> None:
    for _ in range(60):
        turns.put("slow", Turn("slow"))
        turns.put("fast", Turn("fast"))
    had = Counter[str]()
    for _ in range(60):
        taken = turns.take()
        assert taken is not None
        took = 3.0 if taken[0] == "slow" else 1.0
        had[taken[0]] += round(took)
        clock.now += took
        turns.done(taken[1])
    assert abs(had["slow"] - had["fast"]) <= 4


def test_weights(turns: Turns[str], clock: Clock) -> None:
    for _ in range(90):
        turns.put("heavy", Turn("heavy", 3))
        turns.put("light", Turn("light", 1))
    counted = Counter(serve(turns, clock, 80))
    assert abs(counted["heavy"] - 60) <= 3
    with pytest.raises(ValueError):
        Turn("none", 0)


def test_a_new_job_gets_nothing_back_for_the_time_before_it_came(turns: Turns[str], clock: Clock) -> None:
    for _ in range(200):
        turns.put("old", Turn("old"))
    serve(turns, clock, 100)
    for _ in range(50):
        turns.put("new", Turn("new"))
    counted = Counter(serve(turns, clock, 40))
    assert abs(counted["new"] - 20) <= 1


def test_one_that_pauses_neither_gains_nor_loses_by_it(turns: Turns[str], clock: Clock) -> None:
    for _ in range(300):
        turns.put("steady", Turn("steady"))
    for _ in range(10):
        turns.put("pausing", Turn("pausing"))
    serve(turns, clock, 60)  # the pausing one's are all done on the way
    for _ in range(40):
        turns.put("pausing", Turn("pausing"))
    assert abs(Counter(serve(turns, clock, 40))["pausing"] - 20) <= 1


def test_what_is_being_done_counts(turns: Turns[str], clock: Clock) -> None:
    for _ in range(3):
        turns.put("a", Turn("a"))
    turns.put("b", Turn("b"))
    first, second = turns.take(), turns.take()
    assert first and second and (first[0], second[0]) == ("a", "b")  # both at once, though nobody has had anything yet
    assert (turns.running, turns.waiting, turns.unfinished) == (2, 2, 4)
    clock.now += 100
    turns.done(second[1])
    clock.now += 1
    turns.put("b", Turn("b"))
    third = turns.take()
    assert third and third[0] == "b"  # the other's has taken longer, and is not done
    for taken in (first, third):
        turns.done(taken[1])


def test_what_waits_in_vain_is_taken_out(turns: Turns[str], clock: Clock) -> None:
    for name in ("keep 1", "drop 1", "keep 2", "drop 2"):
        turns.put(name, NOBODY)
    turns.put("drop 3", Turn("other"))
    assert turns.sweep(lambda name: name.startswith("drop")) == ["drop 1", "drop 2", "drop 3"]
    assert serve(turns, clock, 2) == ["keep 1", "keep 2"]
    assert turns.unfinished == 0


def test_closing_wakes_those_who_wait(turns: Turns[str]) -> None:
    ended: list[object] = []
    waiter = threading.Thread(target=lambda: ended.append(turns.take()))
    waiter.start()
    assert turns.close() == []
    waiter.join(5)
    assert ended == [None]
    assert not turns.put("late", NOBODY)


def test_closing_gives_back_what_waits(turns: Turns[str]) -> None:
    turns.put("a", NOBODY)
    assert turns.close() == ["a"]
    assert turns.take() is None


@given(
    st.lists(
        st.tuples(st.sampled_from("abcd"), st.integers(1, 5), st.floats(0.1, 5), st.integers(0, 3)),
        min_size=1,
        max_size=60,
    )
)
def test_nothing_is_lost_or_done_twice(script: list[tuple[str, int, float, int]]) -> None:
    clock = Clock()
    turns: Turns[tuple[str, int]] = Turns(clock)
    put, got = [], []
    for number, (of, weight, seconds, served) in enumerate(script):
        turns.put((of, number), Turn(of, weight))
        put.append((of, number))
        for _ in range(min(served, turns.waiting)):
            taken = turns.take()
            assert taken is not None
            got.append(taken[0])
            clock.now += seconds
            turns.done(taken[1])
    while turns.waiting:
        taken = turns.take()
        assert taken is not None
        got.append(taken[0])
        turns.done(taken[1])
    assert sorted(got) == sorted(put)
    for of in "abcd":
        own = [number for name, number in got if name == of]
        assert own == sorted(own)


def test_accounts_of_jobs_long_gone_are_not_kept() -> None:
    shares = Shares()
    shares.come("stays")
    for number in range(1000):
        shares.come(f"job {number}")
        shares.charge(f"job {number}", 1.0)
        shares.charge("stays", 1.0)
        shares.go(f"job {number}")
    assert len(shares._had) < 10
