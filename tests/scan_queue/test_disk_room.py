"""The space that is kept free for maps, against all receptions together."""

import io
from collections import namedtuple
from contextlib import ExitStack
from datetime import timedelta

import pytest
from helpers.scans import acquisitions, header

from mri2qmap.errors import Mri2QmapError
from mri2qmap.scan_queue import disk_room
from mri2qmap.scan_queue.disk_room import KEPT_FREE, DiskRoom
from mri2qmap.scan_queue.queue_folder import QueueFolder

Usage = namedtuple("Usage", "total used free")
ROOM = 200_000


@pytest.fixture
def disk(monkeypatch):
    """A disk with some room beside what is kept free, and what was written to it."""
    written = {"bytes": 0, "looks": 0}

    def usage(path):
        written["looks"] += 1
        there = sum(p.stat().st_size for p in path.rglob("*") if p.is_file())
        return Usage(2**40, 0, KEPT_FREE + ROOM - there - written["bytes"])

    monkeypatch.setattr(disk_room.shutil, "disk_usage", usage)
    return written


def test_many_receptions_together_leave_it_free(tmp_path, disk):
    """Each of them is far below what one may write between two looks."""
    queue = QueueFolder(tmp_path / "queue", 40, timedelta(days=7))
    (item,) = acquisitions()[:1]
    size = item.data.nbytes + item.traj.nbytes
    refused = set()
    with ExitStack() as stack:
        receptions = [
            stack.enter_context(
                queue.receive(
                    header().encode(),
                    ("lrtv", b"<configuration/>"),
                    scan=f"scan {number}",
                    matrix=(8, 8, 8),
                    frames=4,
                    memory=1,
                    peer=f"10.0.0.{number}",
                )
            )
            for number in range(10)
        ]
        for _ in range(3 * ROOM // (10 * size)):
            for reception in receptions:
                try:
                    reception.add(item)
                except Mri2QmapError as error:
                    refused.add(str(error))
        there = sum(p.stat().st_size for p in queue.path.rglob("*") if p.is_file())
        assert there <= ROOM + 10 * io.DEFAULT_BUFFER_SIZE
    assert len(refused) == 1
    assert "are kept for maps" in refused.pop()
    queue.close()


def test_bytes_on_their_way_count(tmp_path, disk):
    room = DiskRoom(tmp_path)
    with room.take(ROOM // 2 + 1):
        with pytest.raises(Mri2QmapError, match="1024 MiB left, of which 1024 MiB"):
            with room.take(ROOM // 2):
                pass
    with room.take(ROOM):
        pass


def test_the_disk_is_looked_at_again_after_so_many_bytes_of_all(tmp_path, disk, monkeypatch):
    monkeypatch.setattr(disk_room, "_LOOK", 1000)
    room = DiskRoom(tmp_path)
    for _ in range(40):
        with room.take(100):
            disk["bytes"] += 100
    assert disk["looks"] == 4
    with room.take(5000):  # a large message
        disk["bytes"] += 5000
    assert disk["looks"] == 5
    disk["bytes"] = ROOM
    with pytest.raises(Mri2QmapError, match="are kept for maps"):
        with room.take(1):
            pass


def test_a_new_reception_looks_at_once(tmp_path, disk):
    room = DiskRoom(tmp_path)
    with room.take(1):
        pass
    disk["bytes"] = ROOM  # something else was written
    with room.take(1):
        pass
    room.look_again()
    with pytest.raises(Mri2QmapError, match="are kept for maps"):
        with room.take(1):
            pass


def test_a_disk_that_cannot_be_asked_is_an_error_of_the_disk(tmp_path, monkeypatch):
    room = DiskRoom(tmp_path / "gone")
    assert room.suffices()
    with pytest.raises(FileNotFoundError), room.take(1):
        pass
