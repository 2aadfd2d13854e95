"""A disk that is full or fails, wherever the runner meets it: scans with a receipt wait."""

import errno
import os

import pytest
from helpers.queue_bench import ONE_STEP, RECORD, SUCCESS, Bench, bench, quick, wait_for
from helpers.waiting import eventually

from mri2qmap.files.output_folder import RUN_RECORD
from mri2qmap.scan_queue import queued_scan
from mri2qmap.scan_queue import runner as module
from mri2qmap.scan_queue.queued_scan import QueuedScan, State

__all__ = ["bench", "quick"]

WRITING = [errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS]
OF_THE_MACHINE = [errno.EMFILE, errno.EACCES, errno.ESTALE]


@pytest.fixture
def failing(monkeypatch):
    """Function that lets some writes of the record of a state fail; returns what is left."""

    def let_fail(state, code, times):
        left, write, atomic_write = (
            [code] * times,
            queued_scan.write_record,
            queued_scan.atomic_write,
        )

        def fails(path):
            raise OSError(code, os.strerror(code), str(path))

        def write_record(folder, record):
            chosen = fails if record.state is state and left else atomic_write
            if chosen is fails:
                left.pop()
            monkeypatch.setattr(queued_scan, "atomic_write", chosen)
            try:
                write(folder, record)
            finally:
                monkeypatch.setattr(queued_scan, "atomic_write", atomic_write)

        monkeypatch.setattr(queued_scan, "write_record", write_record)
        return left

    return let_fail


@pytest.mark.parametrize("code", WRITING + OF_THE_MACHINE)
@pytest.mark.parametrize("state", [State.RUNNING, State.DONE])
def test_a_record_that_cannot_be_written_does_not_fail_the_scan(bench, failing, code, state):
    """More often than a reconstruction may break off: this is not counted."""
    left = failing(state, code, 5)
    scan, other = bench.receive(4), bench.receive(5)
    with bench.runner:
        wait_for(scan, State.DONE)
        wait_for(other, State.DONE)
    assert not left
    assert QueuedScan(scan.folder).record.state is State.DONE
    assert scan.record.attempts == 0
    assert sorted(name for name, _ in bench.started) == sorted([scan.identifier, other.identifier])
    assert not bench.number("refused") or code in OF_THE_MACHINE


@pytest.mark.parametrize("code", WRITING)
def test_a_client_is_told_why_it_waits(bench, failing, monkeypatch, code):
    monkeypatch.setattr(module, "_PAUSE_OF_DISK", 1000.0)
    failing(State.RUNNING, code, 1)
    scan = bench.receive()
    with bench.runner:
        eventually(lambda: bench.queue.disk_failure, "it does not fail")
        assert os.strerror(code) in bench.queue.disk_failure
        assert str(bench.path) not in bench.queue.disk_failure
        assert scan.record.state is State.WAITING
        eventually(lambda: not bench.budget.reserved, "it holds memory while it waits")


@pytest.mark.parametrize("code", WRITING + OF_THE_MACHINE)
def test_saved_iterations_are_kept_when_the_disk_fails_at_the_resumption(bench, failing, code):
    failing(State.RUNNING, code, 2)
    scan = bench.receive()
    states = scan.folder / "maps.resume" / "pnp_admm.safetensors"
    states.parent.mkdir()
    states.write_bytes(b"iteration 40")
    with bench.runner:
        wait_for(scan, State.DONE)
    assert states.read_bytes() == b"iteration 40"


@pytest.mark.parametrize("state", [State.WAITING, State.FAILED])
def test_the_end_of_an_attempt_may_meet_a_full_disk_too(bench, failing, state):
    refused = "print('mri2qmap: error: no spirals', file=sys.stderr); sys.exit(2)"
    broken = "os.kill(os.getpid(), signal.SIGKILL)"
    bench.programs = [broken, SUCCESS] if state is State.WAITING else [refused]
    scan = bench.receive()
    left = failing(state, errno.ENOSPC, 1)
    with bench.runner:
        wait_for(scan, State.DONE if state is State.WAITING else State.FAILED)
    assert not left


def test_maps_whose_record_cannot_be_read_are_not_made_again(bench, monkeypatch):
    scan = bench.receive()
    scan.maps.mkdir()
    (scan.maps / RUN_RECORD).write_bytes(RECORD)
    failures, read = [errno.EIO, errno.EMFILE], type(scan).run_record

    def run_record(self):
        if failures:
            raise OSError(code := failures.pop(0), os.strerror(code), str(self.maps))
        return read(self)

    monkeypatch.setattr(QueuedScan, "run_record", run_record)
    with bench.runner:
        wait_for(scan, State.DONE)
    assert not failures
    assert not bench.started


def test_a_record_that_is_unreadable_is_not_taken_for_none(bench):
    scan = bench.receive()
    (scan.maps / RUN_RECORD).mkdir(parents=True)
    with pytest.raises(OSError, match="Is a directory"):
        scan.run_record()


def test_the_log_that_cannot_be_opened_lets_the_scan_wait(bench, monkeypatch):
    left, begin = [errno.ENOSPC], module.QueueRunner._watch

    def watch(runner, process, scan, entry):
        if left:
            raise OSError(left.pop(), "No space left on device", str(scan.folder))
        begin(runner, process, scan, entry)

    monkeypatch.setattr(module.QueueRunner, "_watch", watch)
    scan = bench.receive()
    with bench.runner:
        wait_for(scan, State.DONE)
    assert not left


@pytest.mark.parametrize("code", [2, 74])
def test_a_process_whose_words_are_lost_on_a_full_disk(bench, caplog, code):
    """Its log is on the disk that is full."""
    bench.programs = [f"sys.exit({code})", SUCCESS]
    scan = bench.receive()
    (scan.folder / "maps.resume").mkdir()
    with bench.runner:
        wait_for(scan, State.DONE)
    assert ": ; the scan goes on later" not in caplog.text
    assert "a disk is full or fails; the scan goes on later" in caplog.text
    assert (scan.folder / "maps.resume").exists()


def test_a_queue_on_a_full_disk_is_opened(tmp_path, failing):
    """After a server was killed in a reconstruction."""
    first = Bench(tmp_path / "queue")
    scan = first.receive()
    first.queue.set_state(scan, State.RUNNING)
    first.queue.close()
    failing(State.WAITING, errno.ENOSPC, 100)
    again = Bench(first.path)
    again.programs = [ONE_STEP + SUCCESS]
    (found,) = again.queue.scans(State.WAITING)
    with again.runner:
        wait_for(found, State.DONE)
