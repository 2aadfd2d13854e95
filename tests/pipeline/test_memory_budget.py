"""Scans and received messages within a memory budget."""

import threading

import pytest
from helpers.waiting import DEADLINE, eventually

from mri2qmap.errors import Mri2QmapError
from mri2qmap.machine.cancellation import Cancellation
from mri2qmap.pipeline.memory_budget import (
    ALWAYS_RECEIVED,
    KEPT_OPENING,
    MemoryBudget,
    ReceivedBytes,
    gib_apart,
    requested_by,
)

GIB = 2**30


class Waiting(threading.Thread):
    """A scan that waits for memory, and holds it until it is told to end."""

    def __init__(
        self, budget: MemoryBudget, size: int, requester: str | None = None, **options: bool
    ) -> None:
        super().__init__(daemon=True)
        self.requester = requester
        self.budget, self.size, self.options = budget, size, options
        self.places: list[int] = []
        self.holds, self.end = threading.Event(), threading.Event()
        self.cancellation = Cancellation()
        self.error: BaseException | None = None
        self.start()

    def run(self) -> None:
        try:
            with (
                self.cancellation.active(),
                requested_by(self.requester),
                self.budget.share(self.size, "a scan", self.places.append, **self.options),
            ):
                self.holds.set()
                self.end.wait(DEADLINE)
        except BaseException as error:
            self.error = error


def in_queue(
    budget: MemoryBudget, size: int, requester: str | None = None, **options: bool
) -> Waiting:
    scan = Waiting(budget, size, requester, **options)
    eventually(lambda: scan.holds.is_set() or bool(scan.places), "it is not told its place")
    return scan


def test_scans_come_in_turn_and_are_told_their_place():
    budget = MemoryBudget(10, patience=DEADLINE)
    with budget.share(4, "the first"):
        large, small = in_queue(budget, 8), in_queue(budget, 1)
        assert (large.places, small.places) == ([1], [2])
        assert not small.holds.wait(0.1)  # there is memory for it, but it came later
    assert large.holds.wait(DEADLINE)
    assert small.holds.wait(DEADLINE)
    assert small.places[:2] == [2, 1] or small.places == [2]
    for scan in (large, small):
        scan.end.set()
        scan.join(DEADLINE)
    assert budget._used == 0


def test_a_scan_that_holds_memory_goes_first():
    """Otherwise, it and the one before it would wait for each other."""
    budget = MemoryBudget(10, patience=DEADLINE)
    with budget.share(4, "the first"):
        other = in_queue(budget, 8)
        with budget.share(6, "more for the first", first=True):
            assert not other.holds.is_set()
    assert other.holds.wait(DEADLINE)
    other.end.set()
    other.join(DEADLINE)


def test_a_cancelled_scan_leaves_the_queue():
    budget = MemoryBudget(10, patience=DEADLINE)
    with budget.share(10, "the first"):
        gone, next_one = in_queue(budget, 5), in_queue(budget, 5)
        gone.cancellation.cancel(ConnectionError("gone"))
        gone.join(DEADLINE)
        assert str(gone.error) == "gone"
        eventually(lambda: next_one.places == [2, 1], "it is not told its new place")
    assert next_one.holds.wait(DEADLINE)
    next_one.end.set()
    next_one.join(DEADLINE)


def admitted(scans: dict[str, Waiting]) -> list[str]:
    """Let the scans, each of which needs all memory, run one by one; return their names."""
    order = []
    while len(order) < len(scans):
        eventually(lambda: any(s.holds.is_set() for s in scans.values()), "no scan is admitted")
        (name,) = (name for name, scan in scans.items() if scan.holds.is_set())
        scans[name].holds.clear()
        scans[name].end.set()
        scans[name].join(DEADLINE)
        order.append(name)
    return order


def test_many_scans_of_one_requester_do_not_keep_out_another():
    budget = MemoryBudget(10, patience=DEADLINE)
    with requested_by("a"), budget.share(10, "the first"):
        names = [*(f"a{n}" for n in range(8)), "b0", "b1", "c0", "a8", "b2"]
        scans = {name: in_queue(budget, 10, name[0]) for name in names}
        assert scans["b0"].places[0] == 1  # it holds none
    order = ["a0", "b0", "c0", "a1", "b1", "a2", "b2", *(f"a{n}" for n in range(3, 9))]
    assert admitted(scans) == order
    assert not budget.waiting


def test_one_who_comes_again_does_not_keep_out_another():
    budget = MemoryBudget(10, patience=DEADLINE)
    with requested_by("a"), budget.share(10, "the first"):
        scans = {name: in_queue(budget, 10, name[0]) for name in ("b0", "a0", "a1", "a2")}
    assert scans["b0"].holds.wait(DEADLINE)
    scans["b1"] = in_queue(budget, 10, "b")
    assert admitted(scans) == ["b0", "a0", "a1", "b1", "a2"]


def test_the_turn_of_a_scan_that_leaves_is_that_of_the_next():
    budget = MemoryBudget(10, patience=DEADLINE)
    with budget.share(10, "the first"):
        names = ["a0", "a1", "b0", "a2", "b1"]
        scans = {name: in_queue(budget, 10, name[0]) for name in names}
        gone = scans.pop("a0")
        gone.cancellation.cancel(ConnectionError("gone"))
        gone.join(DEADLINE)
    assert admitted(scans) == ["a1", "b0", "a2", "b1"]


def release(*scans: Waiting) -> None:
    for scan in scans:
        scan.end.set()
        scan.join(DEADLINE)


@pytest.mark.parametrize(("size", "together"), [(3, True), (4, False)])
def test_several_scans_of_one_requester_leave_a_quarter_to_others(size, together):
    """Together they hold three quarters at most; one alone may hold all."""
    budget = MemoryBudget(8, patience=DEADLINE)
    one = in_queue(budget, 3, "a")
    assert one.holds.wait(DEADLINE)
    more = in_queue(budget, size, "a")
    assert more.holds.wait(DEADLINE if together else 0.1) == together
    other = in_queue(budget, 2, "b")
    assert other.holds.wait(DEADLINE)  # the limit of another does not block it
    release(one)
    assert more.holds.wait(DEADLINE)
    release(more, other)
    alone = in_queue(budget, 8, "a")
    assert alone.holds.wait(DEADLINE)
    release(alone)
    assert (budget.reserved, list(budget._queue._held)) == (0, [])


def test_scans_of_nobody_in_particular_may_hold_all_memory():
    budget = MemoryBudget(8, patience=DEADLINE)
    scans = [in_queue(budget, 4), in_queue(budget, 4)]
    assert all(scan.holds.wait(DEADLINE) for scan in scans)
    release(*scans)


def test_small_scans_of_a_requester_do_not_overtake_his_large_one():
    budget = MemoryBudget(8, patience=DEADLINE)
    one, large, small = (in_queue(budget, size, "a") for size in (2, 6, 1))
    assert one.holds.wait(DEADLINE)
    assert not small.holds.wait(0.1)
    release(one)
    assert large.holds.wait(DEADLINE)
    assert not small.holds.wait(0.1)
    release(large)
    assert small.holds.wait(DEADLINE)
    release(small)


def test_who_waits_for_his_own_scans_is_next_when_they_end():
    """Those who go before him meanwhile cannot delay him for ever."""
    budget = MemoryBudget(8, patience=DEADLINE)
    one = in_queue(budget, 2, "a")
    assert one.holds.wait(DEADLINE)
    large = in_queue(budget, 6, "a")
    others = [in_queue(budget, 3, name) for name in ("b", "c", "d")]
    eventually(lambda: budget.waiting == 2, "only one of the others is not admitted")
    release(one)
    held = [other for other in others if other.holds.is_set()]
    assert len(held) == 2
    release(held[0])
    (last,) = (other for other in others if other not in held)
    assert not last.holds.wait(0.1)
    release(held[1])
    assert large.holds.wait(DEADLINE)
    release(large)
    assert last.holds.wait(DEADLINE)
    release(last)


def test_more_for_an_admitted_scan_is_never_limited():
    budget = MemoryBudget(8, patience=0)
    with requested_by("a"), budget.share(4, "one"):
        with budget.share(4, "more for it", first=True):
            assert budget.reserved == 8
        with pytest.raises(Mri2QmapError) as refused, budget.share(3, "another"):
            pass
        words = str(refused.value)
        assert "another needs about" in words
        assert "of the same address hold" in words
        assert "(--memory)" in words
        with requested_by("b"), budget.share(4, "that of another"):
            assert budget.reserved == 8
        with budget.share(2, "a small one"):
            assert budget.reserved == 6
    assert budget.reserved == 0


def test_a_limited_scan_that_is_cancelled_leaves_no_trace():
    budget = MemoryBudget(8, patience=DEADLINE)
    one = in_queue(budget, 4, "a")
    assert one.holds.wait(DEADLINE)
    gone, small = in_queue(budget, 4, "a"), in_queue(budget, 1, "a")
    assert not small.holds.wait(0.1)
    gone.cancellation.cancel(ConnectionError("gone"))
    assert small.holds.wait(DEADLINE)
    release(gone, small, one)
    assert (budget.reserved, budget.waiting) == (0, 0)


def test_a_scan_without_patience_is_refused_and_leaves_the_queue():
    budget = MemoryBudget(10, patience=0)
    with budget.share(10, "the first"), pytest.raises(Mri2QmapError, match="try again later"):
        budget._wait_for(1, "a scan", None, False)
    with budget.share(10, "the next"):
        pass


def test_received_bytes_of_all_connections_share_what_is_free():
    budget = MemoryBudget(GIB, patience=0)
    first, second = ReceivedBytes(budget), ReceivedBytes(budget)
    assert not first.take(ALWAYS_RECEIVED + 1, 0)  # not yet admitted
    for account in (first, second):
        account.admit()
    with budget.share(GIB // 2, "a scan"):
        assert first.take(GIB // 2, 0)
        assert second.take(2 * ALWAYS_RECEIVED, 0)  # what each may always hold
        assert not second.take(1, 0)
        assert not first.take(1, 0)
        with pytest.raises(Mri2QmapError, match="other reconstructions hold"):
            budget._wait_for(GIB // 2, "another scan", None, False)
        first.add(-GIB // 4)
        assert second.take(GIB // 4, 0)
    second.close()
    with pytest.raises(ConnectionError, match="closed"):
        second.take(1, 0)
    first.close()
    assert budget._received == 0


def test_a_scan_on_a_gpu_leaves_the_memory_of_the_host_to_messages():
    budget = MemoryBudget(10 * GIB, patience=0, host=GIB)
    account = ReceivedBytes(budget)
    account.admit()
    assert budget.largest_message == GIB
    with budget.share(10 * GIB, "a scan"):
        assert account.take(GIB, 0)
        assert not account.take(ALWAYS_RECEIVED + 1, 0)


def test_long_headers_have_room_of_their_own():
    budget = MemoryBudget(GIB)
    long, short = 2**24, 2**19
    opened = [ReceivedBytes(budget) for _ in range(20)]
    found = [received.open(long) for received in opened]
    held = 5 * long - ALWAYS_RECEIVED
    assert found.count(True) == 2**28 // held
    assert budget.received == 0  # scans do not wait for them
    assert ReceivedBytes(budget).open(short)
    refused = opened[found.index(False)]
    assert not refused.open(long)
    opened[0].close()
    assert refused.open(long)


def test_one_long_header_always_has_room():
    assert ReceivedBytes(MemoryBudget(GIB)).open(2**30)


def test_room_for_headers_grows_with_the_budget():
    budget = MemoryBudget(64 * GIB)
    assert all(ReceivedBytes(budget).open(2**24) for _ in range(64))


def test_a_header_that_has_been_read_holds_little_room():
    budget = MemoryBudget(GIB)
    opened = [ReceivedBytes(budget) for _ in range(6)]  # the nodes of a scan, one after another
    for received in opened:
        assert received.open(2**24)
        received.opened()
    assert sum(received.opening for received in opened) == 6 * KEPT_OPENING
    for received in opened:
        received.close()
    assert budget._openings == 0


def test_a_short_header_holds_no_room():
    received = ReceivedBytes(MemoryBudget(GIB))
    assert received.open(2**19)
    received.opened()
    assert received.opening == 0


def test_leftover_memory_is_reserved_while_nobody_wants_it():
    budget = MemoryBudget(GIB)
    with budget.leftover(GIB) as free:
        assert free
        assert budget.reserved == GIB
        with budget.leftover(1) as more:
            assert not more
        assert budget.reserved == GIB
    assert budget.reserved == 0


def test_leftover_memory_is_not_taken_from_those_who_wait():
    budget = MemoryBudget(GIB)
    with budget.share(GIB // 2, "one"):
        waiting = threading.Thread(target=lambda: hold(budget, GIB))
        waiting.start()
        eventually(lambda: budget.waiting == 1, "nobody waits")
        with budget.leftover(1) as free:
            assert not free
    waiting.join(DEADLINE)


def hold(budget, size):
    with budget.share(size, "another"):
        pass


@pytest.mark.parametrize(
    ("size", "limit", "texts"),
    [
        (3 * GIB, GIB, ("3.0 GiB", "1.0 GiB")),
        (760365177, 760364925, ("0.7081453", "0.7081450")),
        (GIB + 1, GIB, ("1.000000001", "1.000000000")),
        (2**40 + 1, 2**40, ("1024.000000001", "1024.000000000")),
    ],
)
def test_a_message_tells_sizes_apart(size, limit, texts):
    """Sizes that look the same help nobody."""
    shown = gib_apart(size, limit)
    assert shown[0] != shown[1]
    assert all(text.startswith(begin) for text, begin in zip(shown, texts, strict=True))
    with pytest.raises(Mri2QmapError) as error, MemoryBudget(limit).share(size, "a scan"):
        pass
    assert all(text in str(error.value) for text in shown)
