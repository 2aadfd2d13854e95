import time

import pytest

from mri2qmap.machine import giving_way as module
from mri2qmap.machine.cancellation import Cancellation
from mri2qmap.machine.giving_way import give_way, giving_way


@pytest.fixture
def pauses(monkeypatch):
    """Pauses [s] that were made, on a clock that goes on by 0.1 ms with each look."""
    made, now = [], [0.0]

    def clock():
        now[0] += 1e-4
        return now[0]

    monkeypatch.setattr(module.time, "perf_counter", clock)
    monkeypatch.setattr(module.time, "sleep", made.append)
    return made


def test_work_pauses_three_quarters_of_the_time(pauses):
    with giving_way():
        for _ in range(1000):
            give_way()
    worked = 1000 * 1e-4
    assert sum(pauses) / (sum(pauses) + worked) == pytest.approx(0.75, abs=0.05)


def test_nothing_pauses_outside(pauses):
    for _ in range(1000):
        give_way()
    with giving_way():
        pass
    give_way()
    assert not pauses


def test_a_cancelled_computation_ends_at_its_next_pause():
    cancellation = Cancellation()
    cancellation.cancel(RuntimeError("stopped"))

    def work():
        end = time.monotonic() + 10
        while time.monotonic() < end:
            give_way()

    with cancellation.active(), giving_way(), pytest.raises(RuntimeError, match="stopped"):
        work()
