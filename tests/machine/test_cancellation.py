import threading
import time

import pytest
import torch

from mri2qmap.machine.cancellation import Cancellation, raise_if_cancelled
from mri2qmap.machine.worker_threads import run_in_threads


def test_an_active_cancellation_raises_its_first_error():
    cancellation = Cancellation()
    raise_if_cancelled()
    with cancellation.active():
        raise_if_cancelled()
        other = threading.Thread(target=cancellation.cancel, args=(ConnectionError("gone"),))
        other.start()
        other.join()
        with pytest.raises(ConnectionError, match="gone"):
            raise_if_cancelled()
        cancellation.cancel(ValueError("later"))
        with pytest.raises(ConnectionError, match="gone"):
            raise_if_cancelled()
    raise_if_cancelled()
    assert str(cancellation.error) == "gone"


def test_inner_and_outer_cancellations_count():
    outer, inner = Cancellation(), Cancellation()
    with outer.active():
        with inner.active():
            outer.cancel(ConnectionError("outer"))
            with pytest.raises(ConnectionError, match="outer"):
                raise_if_cancelled()
        inner.cancel(ValueError("inner"))
        with pytest.raises(ConnectionError, match="outer"):
            raise_if_cancelled()


def test_other_threads_are_not_cancelled():
    cancellation = Cancellation()
    cancellation.cancel(ConnectionError("gone"))
    found = []

    def look():
        raise_if_cancelled()
        found.append("went on")

    with cancellation.active():
        thread = threading.Thread(target=look)
        thread.start()
        thread.join()
    assert found == ["went on"]


@pytest.mark.parametrize("n_threads", [1, 2])
def test_a_loop_in_threads_stops(n_threads):
    cancellation, before = Cancellation(), torch.get_num_threads()
    done = []

    def loop(start, stop):
        done.append(start)
        cancellation.cancel(ConnectionError("gone"))
        time.sleep(0.005)  # a piece for each thread

    torch.set_num_threads(n_threads)
    try:
        with cancellation.active(), pytest.raises(ConnectionError, match="gone"):
            run_in_threads(loop, n_steps=1000)
    finally:
        torch.set_num_threads(before)
    assert len(done) < 16
