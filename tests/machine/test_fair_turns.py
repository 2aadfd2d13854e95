import threading
import time

import pytest

from mri2qmap.machine.cancellation import Cancellation
from mri2qmap.machine.fair_turns import _MOST_OWNERS, FairTurns


class Waiter(threading.Thread):
    """Takes a turn in a thread of its own."""

    def __init__(self, turns, owner, order, cancellation=None):
        super().__init__(daemon=True)
        self.turns, self.owner, self.order = turns, owner, order
        self.cancellation = cancellation or Cancellation()
        self.error = None
        waiting = len(turns._waiting)
        self.start()
        while len(turns._waiting) == waiting and self.is_alive():
            time.sleep(0.001)

    def run(self):
        try:
            with self.cancellation.active(), self.turns.turn(self.owner):
                self.order.append(self.owner)
        except RuntimeError as error:
            self.error = error


def order_of(owners, first="a"):
    """The order in which waiting owners have their turns, after one of `first`."""
    turns, order = FairTurns(), []
    with turns.turn(first):
        waiters = [Waiter(turns, owner, order) for owner in owners]
    for waiter in waiters:
        waiter.join(10)
    return order


def test_an_owner_with_many_threads_does_not_delay_another():
    assert order_of(["a", "a", "a", "b"]) == ["b", "a", "a", "a"]


def test_owners_alternate():
    assert order_of(["a", "a", "b", "b", "c"]) == ["b", "c", "a", "b", "a"]


def test_threads_of_an_owner_keep_their_order():
    turns, order = FairTurns(), []
    with turns.turn("a"):
        waiters = [Waiter(turns, "a", order) for _ in range(5)]
        places = list(turns._waiting)
        assert [turns._next()] == places[:1]
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
        cancelled = Waiter(turns, "b", order, cancellation)
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
    assert len(turns._last) == _MOST_OWNERS
