"""Scans of a queue whose record is wrong, and the faults that they could bring to the others."""

import errno
import json
import os
import re
import urllib.error
import urllib.request
from datetime import timedelta

import pytest
from helpers.queue_bench import Bench, bench, quick, wait_for
from helpers.waiting import eventually

from mri2qmap.cli import serve
from mri2qmap.cli.main import main
from mri2qmap.errors import Mri2QmapError
from mri2qmap.scan_queue import queue_folder
from mri2qmap.scan_queue.queue_folder import QueueFolder
from mri2qmap.scan_queue.queued_scan import RECORD, SCAN, QueuedScan, State
from mri2qmap.scan_queue.runner import MOST_ATTEMPTS, QueueRunner

__all__ = ["bench", "quick"]

WRONG = [
    *[("number", value) for value in (None, "7", 1.5, True, 0, -1, 2**63)],
    *[("scan", value) for value in (None, 5)],
    *[("scan_digest", value) for value in (None, [])],
    *[("pipeline", value) for value in (None, {})],
    *[("matrix", value) for value in (None, 8, "888", [8, 8], [8, 8, "8"], [8, 8, 0], [8, 8, 2.5])],
    *[("frames", value) for value in (None, "4", -1)],
    *[("memory", value) for value in (None, "x", -5, 0, 1e9)],
    *[("acquisitions", value) for value in (None, -1)],
    *[("peer", value) for value in (None, 5)],
    *[("received", value) for value in (None, "x", "2020-01-01T00:00:00", 5)],
    *[("state", value) for value in (None, "gone", [], 1)],
    *[("attempts", value) for value in (None, "1", -1)],
    *[("reason", value) for value in (None, 3)],
    *[("ended", value) for value in (None, "x", "2020-01-01T00:00:00")],
]


def changed(damaged, **values):
    path = damaged.folder / RECORD
    path.write_text(json.dumps({**json.loads(path.read_bytes()), **values}))


@pytest.mark.parametrize(("name", "value"), WRONG)
def test_a_value_of_a_wrong_kind_is_damage(bench, name, value):
    scan = bench.receive()
    changed(scan, **{name: value})
    with pytest.raises(Mri2QmapError, match=f"cannot be read as .*{name} cannot be"):
        QueuedScan(scan.folder)


def test_a_value_that_is_missing_is_damage(bench):
    scan = bench.receive()
    content = json.loads((scan.folder / RECORD).read_bytes())
    for name in content:
        rest = {key: value for key, value in content.items() if key != name}
        (scan.folder / RECORD).write_text(json.dumps(rest))
        with pytest.raises(Mri2QmapError, match=f"{name} is missing"):
            QueuedScan(scan.folder)


def test_a_value_of_a_later_version_is_left_out(bench):
    scan = bench.receive()
    changed(scan, colour="red")
    assert QueuedScan(scan.folder).record == scan.record


@pytest.mark.parametrize(
    "values",
    [
        {"number": None},
        {"number": "7"},
        {"peer": None},
        {"memory": "x"},
        {"memory": -5},
        {"ended": "2020-01-01T00:00:00", "state": "done"},
        {"received": "x"},
        {"frames": None},
        {"attempts": None},
    ],
)
def test_other_scans_are_received_and_reconstructed(tmp_path, values, caplog):
    first = Bench(tmp_path / "queue")
    damaged = first.receive(4)
    first.queue.close()
    changed(damaged, **values)
    again = Bench(first.path)
    with again.runner:
        wait_for(again.receive(5), State.DONE)
        assert again.record.live.state()["waiting"] == []
    assert caplog.text.count(f"move {damaged.folder} away") == 1
    assert (damaged.folder / SCAN).exists()


def test_a_damaged_scan_that_is_sent_again_is_put_aside(tmp_path, caplog):
    """Nothing is deleted, and the new one is reconstructed."""
    path = tmp_path / "queue"
    raw = b""
    for number in range(1, 4):
        now = Bench(path)
        if number > 1:
            assert not now.queue.scans()
        caplog.clear()
        scan = now.receive()
        raw = raw or (scan.folder / SCAN).read_bytes()
        with now.runner:
            wait_for(scan, State.DONE)
        told = [r.getMessage() for r in caplog.records if "received once more" in r.getMessage()]
        assert len(told) == (number > 1)
        (scan.folder / RECORD).write_bytes(b"{")
    names = sorted(entry.name for entry in path.iterdir())
    assert names == [scan.identifier, f"{scan.identifier}.aside-1", f"{scan.identifier}.aside-2"]
    for name in names:
        assert (path / name / SCAN).read_bytes() == raw
    caplog.clear()
    last = QueueFolder(path, 10, timedelta(days=7))
    last.close()
    assert caplog.text.count("was put aside; remove it when nobody needs it") == 2


def test_a_folder_that_was_put_aside_is_no_scan(tmp_path):
    """Even if its record can be read after all, for example after a failure of the disk."""
    first = Bench(tmp_path / "queue")
    folder = first.receive().folder
    first.queue.close()
    folder.rename(folder.with_name(f"{folder.name}.aside-1"))
    again = Bench(first.path)
    assert not again.queue.scans()
    again.queue.close()


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC])
def test_a_scan_without_receipt_leaves_nothing_in_the_way(bench, monkeypatch, code):
    sync, left = queue_folder.sync, [code]

    def fails(path):
        if left and path == bench.path:
            raise OSError(left.pop(), os.strerror(code))
        sync(path)

    monkeypatch.setattr(queue_folder, "sync", fails)
    with pytest.raises(Mri2QmapError, match="cannot be written"):
        bench.receive()
    assert not left
    assert not list(bench.path.iterdir())
    assert not bench.queue.scans()
    with bench.runner:
        wait_for(bench.receive(), State.DONE)


def test_a_scan_that_is_removed_may_come_again_at_once(bench, monkeypatch):
    scan = bench.receive()
    bench.queue.set_state(scan, State.DONE)
    scan.update(ended="1990-01-01T00:00:00+00:00")
    came, remove = [], queue_folder.shutil.rmtree

    def rmtree(path, **options):
        if not came:
            came.append(bench.receive())
        remove(path, **options)

    monkeypatch.setattr(queue_folder.shutil, "rmtree", rmtree)
    bench.queue.remove_expired()
    bench.queue.remove_expired()
    assert bench.queue.scans() == came
    assert [entry.name for entry in bench.path.iterdir()] == [came[0].identifier]
    assert QueuedScan(came[0].folder).record.state is State.WAITING


class TestUnexpectedErrors:
    """Faults of this program: one scan, or one turn, must not end the queue."""

    def test_others_go_on_and_the_scan_has_failed_in_the_end(self, bench, monkeypatch, caplog):
        bad, other = bench.receive(4), bench.receive(5)
        replay, tries = type(bench.runner)._replay, []

        def fails(runner, scan, size, entry):
            if scan is bad:
                tries.append(scan)
                raise TypeError("a fault in /opt/mri2qmap/x.py")
            replay(runner, scan, size, entry)

        monkeypatch.setattr(type(bench.runner), "_replay", fails)
        with bench.runner:
            wait_for(other, State.DONE)
            wait_for(bad, State.FAILED)
            assert bench.runner.responds
        assert len(tries) == MOST_ATTEMPTS
        assert "TypeError" in bad.record.reason
        assert "/opt" not in bad.record.reason
        assert "Traceback" in caplog.text
        assert (bad.folder / SCAN).exists()
        assert not bench.budget.reserved

    def test_a_scan_goes_last_after_an_error(self, bench, monkeypatch):
        monkeypatch.setattr("mri2qmap.scan_queue.runner._PAUSE", 1000.0)
        bad, other = bench.receive(4), bench.receive(5)
        replay = type(bench.runner)._replay

        def fails(runner, scan, size, entry):
            if scan is bad:
                raise TypeError("a fault")
            replay(runner, scan, size, entry)

        monkeypatch.setattr(type(bench.runner), "_replay", fails)
        with bench.runner:
            wait_for(other, State.DONE)
        assert bad.record.state is State.WAITING

    @pytest.mark.parametrize("method", ["waiting", "remove_expired"])
    def test_an_error_beside_the_scans(self, bench, monkeypatch, caplog, method):
        whole, left = getattr(bench.queue, method), [TypeError("a fault")]

        def fails():
            if left:
                raise left.pop()
            return whole()

        monkeypatch.setattr(bench.queue, method, fails)
        with bench.runner:
            wait_for(bench.receive(), State.DONE)
        assert not left
        assert "an error within the queue, which goes on" in caplog.text
        assert "Traceback" in caplog.text

    @pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
    def test_a_thread_that_has_ended_is_noticed(self, bench, monkeypatch):
        def ends():
            raise SystemExit

        assert bench.runner.responds
        with bench.runner:
            assert bench.runner.responds
            monkeypatch.setattr(bench.queue, "waiting", ends)
            eventually(lambda: not bench.runner.responds, "nobody notices")
        assert bench.runner.responds  # it was told to stop


@pytest.mark.parametrize(("goes_on", "status"), [(True, 200), (False, 503)])
def test_health_says_whether_the_queue_goes_on(tmp_path, monkeypatch, capsys, goes_on, status):
    found = []

    def listen(args, name, listener, servers):
        with servers:
            (url,) = re.findall(r"http://\S+/health", capsys.readouterr().out)
            try:
                with urllib.request.urlopen(url, timeout=30) as answer:
                    found.append(answer.status)
            except urllib.error.HTTPError as error:
                found.append(error.code)
        listener.stop()
        return 0

    monkeypatch.setattr(serve, "listen_until_told", listen)
    monkeypatch.setattr(QueueRunner, "responds", goes_on)
    options = ["--port", "0", "--status-port", "0", "--queue", str(tmp_path / "queue")]
    assert main(["serve", *options, "--memory", "1GB", "--device", "cpu"]) == 0
    assert found == [status]
