"""The runner, with small programs in place of `mri2qmap replay`."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time

import pytest
from helpers.queue_bench import (
    ONE_STEP,
    RECORD,
    SIZE,
    SUCCESS,
    TOTAL,
    WAIT,
    Bench,
    bench,
    quick,
    wait_for,
)
from helpers.waiting import eventually

from mri2qmap.cli.service_options import DEFAULTS
from mri2qmap.files.output_folder import RUN_RECORD
from mri2qmap.hosts.service_record import ServiceRecord
from mri2qmap.scan_queue import runner as module
from mri2qmap.scan_queue.queued_scan import LOG, MAPS, PROGRESS, SCAN, QueuedScan, State
from mri2qmap.scan_queue.runner import MOST_ATTEMPTS, QueueRunner, RunnerOptions
from mri2qmap.storage.atomic import scratch_name

__all__ = ["bench", "quick"]


def test_scans_are_reconstructed_in_their_order(bench):
    scans = [bench.receive(4 + n) for n in range(3)]
    with bench.runner:
        wait_for(scans[-1], State.DONE)
    assert [name for name, _ in bench.started] == [scan.identifier for scan in scans]
    assert bench.number("done") == 3
    assert bench.budget.reserved == 0
    assert bench.record.live.state()["done"][0]["results"] == 7


def test_memory_comes_back_though_a_reconstruction_does_not_end(bench, monkeypatch):
    """It may hang in a library, or on a disk; a client waits for its memory for --patience."""
    assert 2 * module._LAST_WORDS < DEFAULTS["patience"]
    monkeypatch.setattr(module, "_LAST_WORDS", 0.3)
    bench.programs = [
        "\n    signal.signal(signal.SIGTERM, signal.SIG_IGN)" + ONE_STEP + WAIT,
        SUCCESS,
    ]
    scan = bench.receive()
    with bench.runner:
        eventually(lambda: scan.progress() is not None, "it does not begin")
        with bench.budget.share(TOTAL, "a scan"):
            wait_for(scan, State.WAITING)
        wait_for(scan, State.DONE)
    assert not scan.record.attempts


def test_a_scan_that_arrives_later_is_noticed(bench):
    with bench.runner:
        wait_for(bench.receive(), State.DONE)


def test_the_command_is_a_replay_that_goes_on(tmp_path, bench):
    folder = tmp_path / "scan"
    runner = QueueRunner(bench.queue, bench.budget, ServiceRecord(), RunnerOptions("cpu", 3))
    words = runner._command(folder, 3 * 2**29)
    program = [sys.executable, "-P", "-m", "mri2qmap.cli.main"]
    assert words[:6] == [*program, "replay", str(folder / SCAN)]
    assert words[words.index("--output") + 1] == str(folder / MAPS)
    assert words[words.index("--memory") + 1] == "1610612736B"
    assert words[words.index("--threads") + 1] == "3"
    assert words[words.index("--device") + 1] == "cpu"
    assert "--resume" in words
    from mri2qmap.cli.main import build_parser

    build_parser().parse_args(words[4:])  # they are known


def test_the_command_is_found_beside_a_checkout(tmp_path, bench):
    (tmp_path / "mri2qmap").mkdir()  # `-m` alone takes it for the package
    words = QueueRunner(bench.queue, bench.budget, ServiceRecord())._command(tmp_path, SIZE)
    command = [*words[: words.index("replay")], "--version"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.stdout.startswith("mri2qmap "), done.stderr


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        ("print('mri2qmap: error: no spirals', file=sys.stderr); sys.exit(2)", "no spirals"),
        (
            "print('mri2qmap: error: /data/x/b1.nii: gone\\nlast', file=sys.stderr); sys.exit(2)",
            "b1.nii: gone",
        ),
        (
            "sys.exit(0)",
            "maps: the record of the run is not there; see reconstruction.log beside it",
        ),
    ],
)
def test_a_scan_that_cannot_be_reconstructed_has_failed(bench, program, reason):
    bench.programs = [program, SUCCESS]
    scan, other = bench.receive(4), bench.receive(5)
    with bench.runner:
        wait_for(other, State.DONE)
    assert QueuedScan(scan.folder).record.state is State.FAILED
    assert scan.record.reason == reason
    assert len(bench.started) == 2
    assert bench.number("refused") == 1
    assert (scan.folder / SCAN).exists()


@pytest.mark.parametrize("program", ["os.kill(os.getpid(), signal.SIGKILL)", "sys.exit(1)"])
def test_a_reconstruction_that_breaks_off_is_tried_again(bench, program):
    bench.programs = [program, program, SUCCESS]
    scan = bench.receive()
    with bench.runner:
        wait_for(scan, State.DONE)
    assert len(bench.started) == 3
    assert scan.record.attempts == 2


def test_a_saved_state_that_is_of_no_use_does_not_fail_a_scan(bench):
    """After an update, for example: the program refuses states of another version."""
    bench.programs = [
        """
    if pathlib.Path(sys.argv[1], "maps.resume").exists():
        print("mri2qmap: error: they are of a run with another version", file=sys.stderr)
        sys.exit(2)
"""
        + SUCCESS
    ]
    scan = bench.receive()
    (scan.folder / "maps.resume").mkdir()
    (scan.folder / "maps.resume" / "pnp_admm.safetensors").touch()
    with bench.runner:
        wait_for(scan, State.DONE)
    assert len(bench.started) == 2
    assert not (scan.folder / "maps.resume").exists()


def test_a_reconstruction_that_breaks_off_always_has_failed(bench, caplog):
    bench.programs = ["print('Segmentation fault'); os.kill(os.getpid(), signal.SIGKILL)"]
    scan = bench.receive()
    with bench.runner:
        wait_for(scan, State.FAILED)
    assert len(bench.started) == MOST_ATTEMPTS
    assert "broke off 3 times (SIGKILL)" in scan.record.reason
    assert bench.number("failed") == MOST_ATTEMPTS
    assert b"Segmentation fault" in (scan.folder / LOG).read_bytes()


def test_a_stopped_server_goes_on_after_a_restart(tmp_path):
    bench = Bench(tmp_path / "queue")
    bench.programs = [ONE_STEP + WAIT]
    scan = bench.receive()
    with bench.runner:
        eventually((scan.folder / PROGRESS).exists, "it does not begin")
    record = QueuedScan(scan.folder).record
    assert (record.state, record.attempts) == (State.WAITING, 0)
    assert not list(module._processes(scan.folder))
    assert (bench.number("cancelled"), bench.number("failed")) == (1, 0)
    again = Bench(bench.path)
    found = again.queue.scans()[0]
    with again.runner:
        wait_for(found, State.DONE)


def test_what_a_reconstruction_warns_of_is_in_the_log_of_the_server(bench, caplog):
    warned = "2026-01-01T00:00:00.000Z WARNING [-] mri2qmap.pacs.inline: push: 3 are pending"
    bench.programs = [f"    print('{warned}')\n    print('matching, 3 steps')\n{SUCCESS}"]
    scan = bench.receive()
    with bench.runner:
        wait_for(scan, State.DONE)
    found = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    assert found == [f"{scan.identifier}: mri2qmap.pacs.inline: push: 3 are pending"]


def test_maps_that_are_there_are_not_made_again(bench):
    scan = bench.receive()
    scan.maps.mkdir()
    (scan.maps / RUN_RECORD).write_bytes(RECORD)  # killed before the state was written
    with bench.runner:
        wait_for(scan, State.DONE)
    assert not bench.started


def test_what_a_killed_reconstruction_left_is_removed(bench):
    scan = bench.receive()
    left, kept = scan.folder / scratch_name(), scan.folder / f"{MAPS}.resume"
    left.mkdir()
    kept.mkdir()
    with bench.runner:
        wait_for(scan, State.DONE)
    assert not left.exists()
    assert kept.exists()


def test_a_process_of_a_killed_server_is_ended_first(bench):
    scan = bench.receive()
    command = [sys.executable, "-c", "import time; time.sleep(60)", "replay"]
    with subprocess.Popen([*command, str(scan.folder / SCAN)]) as earlier:
        reaper = threading.Thread(target=earlier.wait)
        reaper.start()
        with bench.runner:
            wait_for(scan, State.DONE)
        reaper.join()
    assert earlier.returncode == -signal.SIGTERM


def test_a_scan_waits_for_memory_that_others_hold(bench):
    scan = bench.receive()
    with bench.budget.share(TOTAL - SIZE + 1, "another"), bench.runner:
        assert not bench.started
        assert bench.budget.waiting == 0  # it does not stand in the way
    assert scan.record.state is State.WAITING


def test_a_scan_gives_way_to_one_that_waits_for_memory(bench):
    bench.programs = [ONE_STEP + WAIT, SUCCESS]
    scan = bench.receive()
    with bench.runner:
        eventually((scan.folder / PROGRESS).exists, "it does not begin")
        with bench.budget.share(TOTAL, "another", patience=30):
            assert scan.record.state is State.WAITING
        wait_for(scan, State.DONE)
    assert scan.record.attempts == 0


def test_a_plan_for_more_than_there_is_now_gets_what_there_is(bench):
    scan = bench.receive()
    scan.update(memory=2 * TOTAL)
    with bench.runner:
        wait_for(scan, State.DONE)
    assert bench.started == [(scan.identifier, TOTAL)]


def test_addresses_take_turns(bench):
    first = [bench.receive(4 + n) for n in range(3)]
    second = [bench.receive(7 + n, peer="10.0.0.2") for n in range(2)]
    expected = [first[0], second[0], first[1], second[1], first[2]]
    assert bench.queue.waiting() == expected
    assert [bench.queue.place(scan) for scan in expected] == [1, 2, 3, 4, 5]
    with bench.runner:
        wait_for(first[-1], State.DONE)
    assert [name for name, _ in bench.started] == [scan.identifier for scan in expected]


def test_a_long_reconstruction_lets_scans_of_other_addresses_go_first(bench, monkeypatch):
    """And goes on later, for twice as long."""
    monkeypatch.setattr(module, "_SLICE", 0.2)
    bench.programs = [WAIT.strip(), SUCCESS]
    long, own = bench.receive(4), bench.receive(5)
    with bench.runner:
        eventually(lambda: bench.started, "it does not begin")
        time.sleep(0.5)
        assert long.record.state is State.RUNNING  # its address may wait
        other = bench.receive(6, peer="10.0.0.2")
        wait_for(own, State.DONE)
        wait_for(long, State.DONE)
    names = [name for name, _ in bench.started]
    assert names[:2] == [long.identifier, other.identifier]
    assert bench.runner._slices[long.identifier] == 0.4


def test_the_dashboard_shows_what_waits_and_the_step(bench):
    bench.programs = [ONE_STEP + WAIT]
    first, second = bench.receive(4), bench.receive(5)
    with bench.runner:
        live = bench.record.live
        eventually(lambda: bool((live.state()["running"] or [{}])[0].get("gadgets")), "no step")
        state = live.state()
    (running,), (waiting,) = state["running"], state["waiting"]
    assert running["gadgets"][0]["step"] == {"name": "ADMM", "done": 5, "total": 16}
    assert running["matrix"] == [10, 9, 8]
    assert (waiting["number"], waiting["place"]) == (second.identifier, 1)
    assert waiting.keys() - {"number"} == running.keys() - {"number"}
    assert bench.record.registry.get_sample_value("mri2qmap_queued_scans") == 2
    assert first.progress() == ("ADMM", 5, 16)


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"stage": 1, "done": "x", "total": 2}'])
def test_progress_that_cannot_be_read_is_unknown(bench, content):
    scan = bench.receive()
    assert scan.progress() is None
    (scan.folder / PROGRESS).write_text(content)
    assert scan.progress() is None


@pytest.mark.parametrize("state", [State.RUNNING, State.DONE])
def test_an_error_of_the_disk_does_not_end_the_queue(bench, monkeypatch, caplog, state):
    first, second = bench.receive(4), bench.receive(5)
    write, failures = module.QueueFolder.set_state, [OSError(28, "No space left on device")]

    def set_state(queue, scan, wanted, reason=""):
        if wanted is state and failures:
            raise failures.pop()
        write(queue, scan, wanted, reason)

    monkeypatch.setattr(module.QueueFolder, "set_state", set_state)
    with bench.runner:
        wait_for(second, State.DONE)
        wait_for(first, State.DONE)
    assert "No space left" in caplog.text
    assert len(bench.started) == 2


FULL = "print('mri2qmap: error: /q/maps: no space', file=sys.stderr); sys.exit(74)"


def test_a_scan_waits_while_the_disk_is_full(bench, monkeypatch, caplog):
    """A scan with a receipt is not given up for a disk on which somebody will make room."""
    room = [False]
    monkeypatch.setattr(bench.queue, "has_room", lambda: room[0])
    bench.programs = [FULL, FULL, SUCCESS]
    monkeypatch.setattr(module, "_PAUSE_OF_DISK", 0.3)
    scan, other = bench.receive(4), bench.receive(5)
    with bench.runner:
        eventually(lambda: len(bench.started) == 2, "it is not tried again")
        eventually(lambda: bench.queue.disk_failure, "it does not fail")
        assert bench.queue.disk_failure == "maps: no space; the scan goes on later"
        wait_for(scan, State.WAITING)
        assert not scan.record.attempts
        eventually(lambda: not bench.budget.reserved, "it holds memory while it waits")
        monkeypatch.setattr(module, "_PAUSE_OF_DISK", 1000.0)
        bench.runner._pause(1000.0)
        room[0] = True
        wait_for(other, State.DONE)
        assert scan.record.state is State.DONE
        assert not bench.queue.disk_failure
    assert "maps: no space; the scan goes on later" in caplog.text


def test_a_disk_that_fails_with_room_is_tried_after_a_while(bench, monkeypatch):
    bench.programs = [FULL, SUCCESS]
    monkeypatch.setattr(module, "_PAUSE_OF_DISK", 0.5)
    scan = bench.receive(4)
    monkeypatch.setattr(bench.queue, "has_room", lambda: True)
    with bench.runner:
        eventually(lambda: bench.queue.disk_failure, "it does not fail")
        assert len(bench.started) == 1
        wait_for(scan, State.DONE)


def test_reconstructions_have_a_low_priority(bench):
    bench.programs = [
        "print(os.getpriority(os.PRIO_PROCESS, 0)); time.sleep(0.2)\n"
        "print(os.getpriority(os.PRIO_PROCESS, 0))" + textwrap.dedent(SUCCESS)
    ]
    scan = bench.receive()
    with bench.runner:
        wait_for(scan, State.DONE)
    last = (scan.folder / LOG).read_text().split()[-1]
    assert int(last) == os.getpriority(os.PRIO_PROCESS, 0) + module._NICENESS


def test_the_record_on_the_disk_is_json(bench):
    scan = bench.receive()
    content = json.loads((scan.folder / "queued.json").read_bytes())
    assert content["state"] == "waiting"
