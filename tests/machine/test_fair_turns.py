import threading
import time

import numpy as np
import pytest

from mri2qmap.machine import fair_turns
from mri2qmap.machine.cancellation import Cancellation
from mri2qmap.machine.fair_turns import _MOST_OWNERS, FairTurns


class Waiter(threading.Thread):
    """Takes a turn in a thread of its own."""

    def __init__(self, turns, owner, order, seconds=0.0, cancellation=None):
        super().__init__(daemon=True)
        self.turns, self.owner, self.order, self.seconds = turns, owner, order, seconds
        self.cancellation = cancellation or Cancellation()
        self.error = None
        waiting = len(turns._waiting)
        self.start()
        while len(turns._waiting) == waiting and self.is_alive():
            time.sleep(0.001)

    def run(self):
        try:
            with self.cancellation.active(), self.turns.turn(self.owner, self.seconds):
                self.order.append(self.owner)
        except RuntimeError as error:
            self.error = error


class Clock:
    """Stands in for the module `time`; a turn takes as long as is said."""

    def __init__(self):
        self.now = 1000.0

    def monotonic(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    found = Clock()
    monkeypatch.setattr(fair_turns, "time", found)
    return found


def order_of(*waiting, first="a", used=1.0):
    """The order in which owners have their turns, after one of `first` with some work."""
    turns, order = FairTurns(), []
    with turns.turn(first, used):
        waiters = [Waiter(turns, owner, order, seconds) for owner, seconds in waiting]
    for waiter in waiters:
        waiter.join(10)
    return "".join(order)


def test_an_owner_with_many_threads_does_not_delay_another(clock):
    assert order_of(("a", 0), ("a", 0), ("a", 0), ("b", 0)) == "baaa"


def test_short_work_goes_before_that_of_many_other_owners(clock):
    long = [(owner, 1.7) for owner in "cdefgh"]
    assert order_of(*long, ("b", 0.2), first="z")[0] == "b"


def test_short_work_of_who_had_long_turns_waits_for_others(clock):
    assert order_of(("a", 0.1), ("b", 0.5), used=2.0) == "ba"
    assert order_of(("a", 0.1), ("b", 0.5), used=0.2) == "ab"


def test_turns_are_forgotten_with_time(clock):
    turns = FairTurns()
    with turns.turn("a", 10):
        pass
    assert turns._recently("a", clock.now) == pytest.approx(10)
    assert turns._recently("a", clock.now + 60) == pytest.approx(10 * np.exp(-2))
    assert turns._recently("b", clock.now) == 0


def test_long_work_goes_on_in_the_end(clock):
    turns, order = FairTurns(), []
    with turns.turn("z"):
        waiters = [Waiter(turns, "a", order, 5.0)]
        clock.now += 6000
        waiters.append(Waiter(turns, "b", order, 0.1))
    for waiter in waiters:
        waiter.join(10)
    assert order == ["a", "b"]


def test_threads_of_an_owner_keep_their_order():
    turns, order = FairTurns(), []
    with turns.turn("a"):
        waiters = [Waiter(turns, "a", order) for _ in range(5)]
        places = list(turns._waiting)
        assert turns._next() is places[0]
    for waiter in waiters:
        waiter.join(10)
    assert order == ["a"] * 5


def test_only_one_holds_a_turn():
    turns, held, most = FairTurns(), [], []

    def work(owner):
        for _ in range(20):
            with turns.turn(owner):
                held.append(owner)
                most.append(len(held))
                time.sleep(0)
                held.pop()

    threads = [threading.Thread(target=work, args=(owner,)) for owner in "aabbc"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert most == [1] * 100


def test_a_waiting_thread_can_be_cancelled_and_the_others_go_on():
    turns, order, cancellation = FairTurns(), [], Cancellation()
    with turns.turn("a"):
        cancelled = Waiter(turns, "b", order, cancellation=cancellation)
        other = Waiter(turns, "c", order)
        cancellation.cancel(RuntimeError("stopped"))
        cancelled.join(10)
        assert str(cancelled.error) == "stopped"
    other.join(10)
    assert order == ["c"]
    assert not turns._waiting


def test_an_error_in_a_turn_ends_it():
    turns, order = FairTurns(), []
    with pytest.raises(ValueError, match="wrong"), turns.turn("a"):
        raise ValueError("wrong")
    Waiter(turns, "a", order).join(10)
    assert order == ["a"]


def test_owners_are_not_remembered_for_ever():
    turns = FairTurns()
    for number in range(_MOST_OWNERS + 10):
        with turns.turn(str(number)):
            pass
    assert len(turns._used) == _MOST_OWNERS
