"""The spool: nothing is lost or doubled, whatever ends a push."""

import json
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.dicom_peers import COMMITMENT, Node, dicom_node
from helpers.disks import small_disk
from helpers.pacs_fixtures import contents, push, status
from helpers.processes import environment_of_a_user
from pydicom import dcmread
from pynetdicom import evt
from pynetdicom.sop_class import MRImageStorage, ParametricMapStorage

from mri2qmap.errors import Mri2QmapError
from mri2qmap.pacs.entries import State
from mri2qmap.pacs.spool import KEPT, Spool
from mri2qmap.pacs.spool_lock import lock_folder, only_sender

__all__ = ["small_disk"]

FAST = ("--timeout", "5", "--attempts", "2", "--wait", "0.01", "--commitment", "0")
OFFLINE = ("--timeout", "1", "--attempts", "1")


@pytest.fixture
def nowhere():
    """A destination where nobody listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{free.getsockname()[1]}/dicom-web"


@pytest.fixture
def one(run_folder, tmp_path) -> Path:
    """A folder with one object, which the test may change."""
    folder = tmp_path / "one"
    folder.mkdir()
    shutil.copy(run_folder / "dicom" / "parametric" / "T1map.dcm", folder / "a.dcm")
    return folder


def process(*words: object) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "mri2qmap.cli.main", "push", *map(str, words)],
        env=environment_of_a_user(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_push_that_is_killed_goes_on_where_it_was(run_folder, spool_place, capsys, number):
    """It ends while the peer has an object and has not answered for it yet."""
    node = Node()

    def answer(event, count):
        if count == 5:
            pushing.send_signal(number)
            pushing.wait(20)
        return 0x0000

    node.answer = answer
    with dicom_node(node):
        pushing = process(run_folder, "--to", node.place, *FAST)
        _, errors = pushing.communicate(timeout=60)
        assert pushing.returncode == {signal.SIGTERM: 143}.get(number, -number)
        assert "Traceback" not in errors
        found = status(capsys)
        assert (found["sent"], found["refused"]) == (4, 0)
        assert found["pending"] == len(contents(run_folder)) - 4
        assert push(*FAST) == 0
    assert node.objects == contents(run_folder)
    assert sorted(node.times.values()) == [1] * (len(node.objects) - 1) + [2]
    assert not list(spool_place.glob("batch-*"))


@pytest.mark.parametrize("step", ["write", "commit"])
def test_killed_while_it_records(run_folder, spool_place, capsys, nowhere, step):
    """Nothing is recorded before all is, and copies that nothing names are removed."""
    code = f"""
import os, signal, sys
from mri2qmap.pacs import spool, spool_batch
def die(*words, **options):
    os.kill(os.getpid(), signal.SIGKILL)
if {step!r} == "write":
    count = []
    before = spool_batch.digest
    spool_batch.digest = lambda path: die() if len(count) == 3 else count.append(1) or before(path)
else:
    spool.Recorded = die
from mri2qmap.cli.main import main
main(["push", sys.argv[1], "--to", sys.argv[2], "--attempts", "1"])
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(run_folder), nowhere],
        env=environment_of_a_user(),
        timeout=60,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL
    assert len(list(spool_place.glob("batch-*"))) == 1
    recorded = len(contents(run_folder)) if step == "commit" else 0
    with Spool(spool_place) as spool:
        assert len(spool.entries(nowhere, State.PENDING)) == recorded
        assert len(list(spool_place.glob("batch-*"))) == (step == "commit")


def test_two_pushes_at_once_send_each_object_once(run_folder, spool_place):
    with dicom_node() as node:
        both = [process(run_folder, "--to", node.place, *FAST) for _ in range(2)]
        ended = [one.communicate(timeout=60) for one in both]
        assert [one.returncode for one in both] == [0, 0], ended
    assert node.objects == contents(run_folder)
    assert set(node.times.values()) == {1}


def test_push_waits_for_another_one_and_gives_up_in_the_end(one, spool_place, capsys, nowhere):
    with Spool(spool_place):
        pass
    with only_sender(lock_folder(spool_place, nowhere), 0):
        assert push(one, "--to", nowhere, "--timeout", "0.2", "--attempts", "1") == 4
    assert "another process has been sending there for more than 0.2 s" in capsys.readouterr().out
    assert status(capsys)["pending"] == 1


def test_same_uid_with_another_content_is_refused(one, run_folder, spool_place, capsys, nowhere):
    assert push(one, "--to", nowhere, *OFFLINE) == 4
    changed = dcmread(one / "a.dcm")
    changed.ContentDescription = "changed"
    changed.save_as(one / "a.dcm")
    shutil.copy(run_folder / "dicom" / "parametric" / "T2map.dcm", one / "b.dcm")
    for place in (nowhere, "PACS@127.0.0.1:1"):  # also elsewhere
        capsys.readouterr()
        assert push(one, "--to", place, *OFFLINE) == 2
        error = capsys.readouterr().err
        assert "a.dcm: another file with its SOP Instance UID" in error
        assert "Nothing was recorded" in error
    assert status(capsys)["pending"] == 1
    assert len(list(spool_place.glob("batch-*/*"))) == 1


def test_same_uid_twice_in_one_push(one, spool_place, capsys, nowhere):
    shutil.copy(one / "a.dcm", one / "b.dcm")
    assert push(one, "--to", nowhere, *OFFLINE) == 4
    assert status(capsys)["pending"] == 1
    changed = dcmread(one / "a.dcm")
    changed.ContentDescription = "changed"
    changed.save_as(one / "c.dcm")
    assert push(one, "--to", nowhere, *OFFLINE) == 2
    assert "c.dcm: it has the SOP Instance UID" in capsys.readouterr().err


def test_folder_may_change_or_go_after_it_was_recorded(one, spool_place, capsys, nowhere):
    before = contents(one)
    assert push(one, "--to", nowhere, *OFFLINE) == 4
    (one / "a.dcm").write_bytes(b"")
    shutil.rmtree(one)
    with Spool(spool_place) as spool:
        assert contents(spool.entries(nowhere, State.PENDING)[0].path.parent) == before


@pytest.mark.parametrize("damage", ["change", "remove"])
def test_damaged_copy_is_told_and_mended_by_another_push(one, spool_place, capsys, nowhere, damage):
    assert push(one, "--to", nowhere, *OFFLINE) == 4
    (copy,) = spool_place.glob("batch-*/*")
    if damage == "change":
        copy.write_bytes(copy.read_bytes() + b"\0")
    else:
        copy.unlink()
    capsys.readouterr()
    assert push() == 3
    assert "its copy in the spool was changed or removed" in capsys.readouterr().out
    assert push(one, "--to", nowhere, *OFFLINE) == 4
    assert status(capsys)["pending"] == 1


@pytest.mark.parametrize("size", ["16k", "80k"])  # for the database, and for some of the objects
def test_full_disk_is_told_and_nothing_is_recorded(
    run_folder, spool_place, small_disk, capsys, nowhere, size
):
    disk = small_disk(size)
    assert push(run_folder, "--to", nowhere, "--spool", disk / "spool", *OFFLINE) == 2
    error = capsys.readouterr().err
    assert "make room" in error.lower()
    assert not list(disk.glob("spool/batch-*"))
    assert push(run_folder, "--to", nowhere, *OFFLINE) == 4
    with Spool(spool_place) as spool:
        assert len(spool.entries(nowhere, State.PENDING)) == len(contents(run_folder))


def test_failing_database_is_told(one, spool_place, capsys, nowhere):
    assert push(one, "--to", nowhere, *OFFLINE) == 4
    database = spool_place / "spool.sqlite"
    with Spool(spool_place) as spool:
        spool._database.execute("PRAGMA max_page_count = 1")  # as a disk that is full
        with pytest.raises(Mri2QmapError, match=r"full.*is still there\. Make room"):
            spool.set_problem(nowhere, "x" * 1_000_000)
        assert len(spool.entries(nowhere, State.PENDING)) == 1
    kept = database.read_bytes()
    database.write_bytes(b"x" * 5000)
    assert push() == 2
    assert "it cannot be read or written" in capsys.readouterr().err
    database.write_bytes(kept)
    with sqlite3.connect(database) as other:
        other.execute("PRAGMA user_version = 99")
    other.close()
    assert push() == 2
    assert "of another version of this program" in capsys.readouterr().err


def test_what_was_sent_is_forgotten_after_a_while(run_folder, spool_place, monkeypatch):
    with dicom_node() as node:
        assert push(run_folder, "--to", node.place, *FAST) == 0
    with Spool(spool_place) as spool:
        count = len(contents(run_folder))
        assert len(spool.entries(node.place, State.SENT)) == count
    monkeypatch.setattr("mri2qmap.pacs.spool.KEPT", -KEPT)
    with Spool(spool_place) as spool:
        assert not spool.entries(node.place, State.SENT)


def test_killed_before_the_report_of_commitment(run_folder, spool_place, capsys):
    """The peer has all objects; none is sent again."""

    def die(event):
        pushing.kill()
        pushing.wait(20)
        return 0x0000, None

    classes = (MRImageStorage, ParametricMapStorage, COMMITMENT)
    with dicom_node(classes=classes, handlers=((evt.EVT_N_ACTION, die),)) as node:
        pushing = process(run_folder, "--to", node.place, "--timeout", "30", "--commitment", "30")
        pushing.communicate(timeout=120)
        found = status(capsys)
        assert (found["pending"], found["sent"]) == (len(contents(run_folder)), 0)
        assert push(*FAST) == 0
    assert node.objects == contents(run_folder)
    assert set(node.times.values()) == {1}
    assert status(capsys)["sent"] == len(node.objects)


def test_status_as_json_names_what_is_held(one, spool_place, capsys, nowhere):
    assert push(one, "--to", nowhere, *OFFLINE) == 4
    capsys.readouterr()
    with only_sender(lock_folder(spool_place, nowhere), 0):  # also while another process sends
        assert push("--status", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["spool"] == str(spool_place)
    (place,) = found["destinations"]
    assert place["destination"] == nowhere
    assert place["sop_instances"]["pending"] == list(contents(one))
    assert place["objects"][0]["sop_class_name"] == "Parametric Map Storage"
    assert place["problem"] == "no connection (Connection refused)"
    assert spool_place.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("destination", ["PACS@pacs.invalid:104", "https://pacs.invalid/dicom-web"])
def test_a_name_without_an_address_is_a_peer_that_cannot_be_reached(
    one, spool_place, capsys, monkeypatch, destination
):
    """The objects stay pending, and the status says why."""

    def unknown(host, *args, **options):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    assert push(one, "--to", destination, *OFFLINE) == 4
    capsys.readouterr()
    assert push("--status", "--json") == 0
    (place,) = json.loads(capsys.readouterr().out)["destinations"]
    assert place["problem"] == "no connection (Name or service not known)"
    assert place["sop_instances"]["pending"] == list(contents(one))
