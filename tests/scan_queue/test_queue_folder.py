import hashlib
import json
import os
import stat
from collections import namedtuple
from datetime import UTC, datetime, timedelta

import pytest
from helpers.disks import small_disk
from helpers.scans import acquisitions, header

from mri2qmap.errors import Mri2QmapError
from mri2qmap.files.mrd_stream_file import MrdStreamFile
from mri2qmap.hosts.scan_digest import queue_identifier, scan_digest
from mri2qmap.scan_queue import disk_room, queue_folder
from mri2qmap.scan_queue.queue_folder import QueueFolder
from mri2qmap.scan_queue.queued_scan import PIPELINE, RECORD, SCAN, QueuedScan, State
from mri2qmap.storage.atomic import is_scratch, scratch_name

__all__ = ["small_disk"]

HEADER = header().encode()
DOCUMENT = b"<configuration/>"
WEEK = timedelta(days=7)


@pytest.fixture
def queue(tmp_path):
    found = QueueFolder(tmp_path / "queue", 3, WEEK)
    yield found
    found.close()


def reception(queue, document=DOCUMENT, xml=HEADER, name="scan 1", pipeline="lrtv", peer="peer"):
    return queue.receive(
        xml, (pipeline, document), scan=name, matrix=(8, 8, 8), frames=4, memory=1000, peer=peer
    )


def receive(queue, items=None, **options):
    with reception(queue, **options) as received:
        for item in acquisitions() if items is None else items:
            received.add(item)
        return received.finish()


def test_a_received_scan_is_the_scan(queue):
    scan = receive(queue)
    with MrdStreamFile(scan.folder / SCAN) as file:
        assert file.header == HEADER
        found = list(file.items())
    sent = acquisitions()
    assert [bytes(a.getHead()) for a in found] == [bytes(a.getHead()) for a in sent]
    for one, other in zip(found, sent, strict=True):
        assert one.data.tobytes() == other.data.tobytes()
        assert one.traj.tobytes() == other.traj.tobytes()
    assert (scan.folder / PIPELINE).read_bytes() == DOCUMENT
    assert scan.identifier == queue_identifier(scan_digest(HEADER, acquisitions()), DOCUMENT)
    record = QueuedScan(scan.folder).record
    assert record == scan.record
    assert (record.number, record.state, record.acquisitions) == (1, State.WAITING, len(sent))
    assert (record.matrix, record.frames, record.memory) == ((8, 8, 8), 4, 1000)


def test_raw_data_are_readable_by_their_owner_only(queue):
    folder = receive(queue).folder
    assert stat.S_IMODE(os.stat(folder).st_mode) == 0o700
    assert stat.S_IMODE(os.stat(queue.path).st_mode) == 0o700


def test_the_digest_is_that_of_header_and_messages():
    parts = [len(HEADER).to_bytes(8, "little"), HEADER]
    assert scan_digest(HEADER, []) == hashlib.sha256(b"".join(parts)).hexdigest()
    digests = {scan_digest(HEADER, acquisitions()[:n]) for n in range(4)}
    assert len(digests) == 4


def test_scans_keep_their_order(queue):
    scans = [receive(queue, acquisitions()[: 4 + n]) for n in range(3)]
    assert queue.scans(State.WAITING) == scans
    assert [queue.place(scan) for scan in scans] == [1, 2, 3]
    queue.set_state(scans[0], State.RUNNING)
    assert queue.scans(State.WAITING) == scans[1:]
    queue.set_state(scans[0], State.DONE)
    assert [queue.place(scan) for scan in scans] == [0, 1, 2]


def test_the_same_scan_with_the_same_pipeline_is_queued_once(queue):
    first = receive(queue)
    assert receive(queue) is first
    assert receive(queue, document=b"<other/>") is not first
    assert len(list(queue.path.iterdir())) == 2


def test_a_scan_that_has_failed_waits_again_when_it_is_sent_again(queue):
    scan = receive(queue)
    queue.set_state(scan, State.FAILED, "no")
    assert scan.record.ended
    assert receive(queue) is scan
    record = QueuedScan(scan.folder).record
    assert (record.state, record.reason, record.ended, record.attempts) == (
        State.WAITING,
        "",
        "",
        0,
    )


def test_a_broken_reception_leaves_nothing(queue):
    def items():
        yield acquisitions()[0]
        raise ConnectionError("the client is gone")

    with pytest.raises(ConnectionError):
        receive(queue, items())
    assert not queue.scans()
    assert not list(queue.path.iterdir())


def test_a_scan_that_a_check_refuses_is_not_in_the_queue(queue):
    def check(path):
        assert path.stat().st_size
        raise Mri2QmapError("unfit")

    reception = queue.receive(
        HEADER, ("lrtv", DOCUMENT), scan="", matrix=(8, 8, 8), frames=4, memory=1, peer=""
    )
    with pytest.raises(Mri2QmapError, match="unfit"), reception as received:
        received.finish(check)
    assert not list(queue.path.iterdir())


def test_a_full_queue_refuses(queue):
    for number in range(3):
        receive(queue, acquisitions()[: 4 + number])
    with pytest.raises(Mri2QmapError, match="3 scans are in the queue, which takes 3"):
        receive(queue)
    queue.set_state(queue.scans()[0], State.DONE)
    receive(queue)


def test_scans_that_are_received_have_places_in_the_queue(queue):
    """Otherwise, any number that come at the same time would get receipts."""
    with reception(queue), reception(queue), reception(queue):
        with pytest.raises(Mri2QmapError, match="3 scans are in the queue, which takes 3"):
            receive(queue)
    receive(queue)


def test_one_address_does_not_fill_the_queue(queue):
    queue.most_waiting = 4
    for number in range(3):
        receive(queue, acquisitions()[: 4 + number], peer="2001:db8::1")
    with pytest.raises(Mri2QmapError, match="3 scans of this address are in the queue, which tak"):
        receive(queue, peer="2001:db8::2")
    receive(queue, peer="10.0.0.2")


def test_a_disk_that_is_nearly_full_refuses(queue, monkeypatch):
    usage = namedtuple("usage", "total used free")(2**40, 2**40, 2**29)
    monkeypatch.setattr(disk_room.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(Mri2QmapError, match="512 MiB left, of which 1024 MiB"):
        receive(queue)
    assert not list(queue.path.iterdir())


def test_a_disk_that_is_full_refuses_and_leaves_nothing(small_disk, monkeypatch):
    monkeypatch.setattr(disk_room, "KEPT_FREE", -(2**30))  # nobody sees it coming
    queue = QueueFolder(small_disk("64k") / "queue", 3, WEEK)
    with pytest.raises(Mri2QmapError, match="cannot be written"):
        receive(queue, acquisitions() * 40)
    assert not list(queue.path.iterdir())
    queue.close()


def test_a_restart_finds_the_scans(tmp_path):
    queue = QueueFolder(tmp_path, 3, WEEK)
    scans = [receive(queue, acquisitions()[: 4 + n]) for n in range(3)]
    queue.set_state(scans[0], State.DONE)
    queue.set_state(scans[1], State.RUNNING)
    (tmp_path / scratch_name()).mkdir()  # a scan that was being received
    queue.close()
    again = QueueFolder(tmp_path, 3, WEEK)
    assert [scan.identifier for scan in again.scans()] == [scan.identifier for scan in scans]
    states = [State.DONE, State.WAITING, State.WAITING]
    assert [scan.record.state for scan in again.scans()] == states
    assert not any(is_scratch(path) for path in tmp_path.iterdir())
    again.close()


def test_a_second_server_is_refused(queue):
    with pytest.raises(Mri2QmapError, match="another server uses this queue"):
        QueueFolder(queue.path, 3, WEEK)


@pytest.mark.parametrize(
    "content", [b"", b"{}", b"[]", b"\xff", b'{"number": 1}', b"null", "state", "matrix"]
)
def test_a_damaged_record_is_told_and_kept(tmp_path, caplog, content):
    queue = QueueFolder(tmp_path, 3, WEEK)
    path = receive(queue).folder / RECORD
    queue.close()
    if isinstance(content, str):
        content = json.dumps({**json.loads(path.read_bytes()), content: "?"}).encode()
    path.write_bytes(content)
    again = QueueFolder(tmp_path, 3, WEEK)
    assert not again.scans()
    assert f"{path}: it cannot be read" in caplog.text
    assert path.read_bytes() == content
    again.close()


def test_a_folder_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(Mri2QmapError, match="cannot be written"):
        QueueFolder(tmp_path / "file" / "queue", 3, WEEK)


class TestFinding:
    def test_by_raw_data(self, queue):
        first = receive(queue)
        receive(queue, acquisitions()[:5])
        assert queue.find(scan_digest=scan_digest(HEADER, acquisitions()), scan="?") is first

    def test_by_the_header(self, queue):
        first = receive(queue)
        receive(queue, acquisitions()[:5], name="scan 2")
        assert queue.find(scan="scan 1") is first
        assert queue.find(scan_digest="of a scan that nobody sent", scan="scan 1") is first

    def test_the_last_pipeline_unless_one_is_named(self, queue):
        first = receive(queue)
        last = receive(queue, document=b"<other/>", pipeline="llr")
        assert queue.find(scan="scan 1") is last
        assert queue.find(scan="scan 1", pipeline="lrtv") is first

    def test_two_scans_with_one_header_are_not_mixed(self, queue):
        scans = [receive(queue), receive(queue, acquisitions()[:5])]
        with pytest.raises(Mri2QmapError, match="several scans") as refused:
            queue.find(scan="scan 1")
        for scan in scans:
            assert scan.identifier in str(refused.value)
            assert queue.find(identifier=scan.identifier) is scan

    @pytest.mark.parametrize(
        "wanted",
        [
            {"scan": "scan 2"},
            {"scan": "scan 1", "pipeline": "llr"},
            {"scan": "scan 1", "identifier": "0123456789ab"},
            {"scan": "", "scan_digest": ""},
        ],
    )
    def test_nothing(self, queue, wanted):
        receive(queue)
        with pytest.raises(Mri2QmapError, match="is not in the queue: send it"):
            queue.find(**wanted)


class TestRetention:
    def end_long_ago(self, queue, scan, state=State.DONE):
        queue.set_state(scan, state)
        scan.update(ended=(datetime.now(UTC) - WEEK - timedelta(minutes=1)).isoformat())

    @pytest.mark.parametrize("state", [State.DONE, State.FAILED])
    def test_old_scans_are_removed(self, queue, state):
        old, new = receive(queue), receive(queue, acquisitions()[:5])
        self.end_long_ago(queue, old, state)
        queue.set_state(new, State.DONE)
        queue.remove_expired()
        queue.remove_expired()
        assert queue.scans() == [new]
        assert not old.folder.exists()

    def test_a_clock_that_is_wrong_for_a_while_removes_nothing(self, queue, monkeypatch):
        scan = receive(queue)
        queue.set_state(scan, State.DONE)

        class Jumped(datetime):
            @classmethod
            def now(cls, tz=None):
                return datetime.now(tz) + timedelta(days=4000)

        for clock in (Jumped, datetime, Jumped, datetime):
            monkeypatch.setattr(queue_folder, "datetime", clock)
            queue.remove_expired()
        assert scan.folder.exists()

    def test_scans_that_wait_are_kept(self, queue):
        scan = receive(queue)
        scan.update(ended="1990-01-01T00:00:00+00:00")
        queue.remove_expired()
        queue.remove_expired()
        assert scan.folder.exists()

    def test_a_scan_that_is_read_is_kept_until_then(self, queue):
        scan = receive(queue)
        self.end_long_ago(queue, scan)
        with queue.reading(scan):
            queue.remove_expired()
            queue.remove_expired()
            assert scan.folder.exists()
        queue.remove_expired()
        assert not scan.folder.exists()
