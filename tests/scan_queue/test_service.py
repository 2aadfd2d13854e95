"""A server with a queue, asked with raw messages; gadgets are small."""

import io
import json
import shutil
import subprocess
import threading
import weakref
from datetime import timedelta

import ismrmrd
import numpy as np
import pydicom
import pytest
from helpers.live import CLOSE, counted, data, dial, receive_all, scan_server
from helpers.scans import acquisitions, expected_sum, external, header, pipeline_xml
from helpers.server_side import message as server_message
from helpers.waiting import DEADLINE, eventually

from mri2qmap.api.reconstruction import reconstruct_to_folder
from mri2qmap.errors import Mri2QmapError
from mri2qmap.hosts.client import RemoteReconstruction
from mri2qmap.hosts.connecting import connect
from mri2qmap.hosts.error_text import ERROR_PREFIX
from mri2qmap.hosts.inbox import Inbox
from mri2qmap.hosts.protocol import ConfigDocument, DicomFile, Record, Text
from mri2qmap.hosts.scan_digest import queue_identifier, scan_digest
from mri2qmap.hosts.session_opening import Order
from mri2qmap.pipeline.memory_budget import MemoryBudget
from mri2qmap.scan_queue import results
from mri2qmap.scan_queue.queue_folder import QueueFolder
from mri2qmap.scan_queue.queued_scan import PIPELINE, PROGRESS, SCAN, State
from mri2qmap.scan_queue.reception import Reception
from mri2qmap.scan_queue.service import ScanQueueService

pytestmark = pytest.mark.usefixtures("fake_gadgets")

UNDER_WAY = "reconstruction under way"
DOCUMENT = pipeline_xml(
    external("coil_sensitivity", factor=2), external("parametric_maps")
).encode()
HEADER = counted(3, header().encode())
QUEUE = b"\x01\x00" + b"queue".ljust(1024, b"\0") + counted(2, DOCUMENT)


def named(name: str) -> bytes:
    return b"\x01\x00" + name.encode().ljust(1024, b"\0")


def options(**values: object) -> bytes:
    return counted(5, json.dumps({"mri2qmap": values}).encode())


@pytest.fixture
def queue(tmp_path):
    found = QueueFolder(tmp_path / "queue", 3, timedelta(days=7))
    yield found
    found.close()


@pytest.fixture
def server(queue):
    with scan_server(queue=ScanQueueService(queue)) as listener:
        yield listener


def ask(listener, *parts):
    with dial(listener) as connection:
        connection.sendall(b"".join(parts))
        return receive_all(connection)


def texts(answer):
    return "".join(m.text for m in answer if isinstance(m, Text))


def images(answer):
    return [m for m in answer if isinstance(m, ismrmrd.Image)]


def reconstruct(queue):
    """Do as the runner does."""
    (scan,) = queue.scans(State.WAITING)
    reconstruct_to_folder(
        scan.folder / SCAN, scan.maps, scan.folder / PIPELINE, "cpu", progress=False
    )
    queue.set_state(scan, State.DONE)
    return scan


def test_a_receipt_is_images_that_say_so(server, queue):
    answer = ask(server, QUEUE, HEADER, data(), CLOSE)
    (scan,) = queue.scans()
    assert f"{scan.identifier}: it waits in the queue, place 1" in texts(answer)
    found = images(answer)
    names = ["T1 map", "T2 map", "PD map"]
    assert [i.meta["SeriesDescription"] for i in found] == [f"{n} {UNDER_WAY}" for n in names]
    assert all(i.data.shape == (1, 1, 512, 512) and i.data.max() == 1000 for i in found)
    assert len({i.image_series_index for i in found}) == 3
    (dicom,) = (m for m in answer if isinstance(m, DicomFile))
    dataset = pydicom.dcmread(io.BytesIO(dicom.content))
    assert dataset.Modality == "OT"
    assert UNDER_WAY in dataset.SeriesDescription


def test_the_queue_holds_what_was_sent(server, queue):
    ask(server, QUEUE, HEADER, data(), CLOSE)
    (scan,) = queue.scans()
    digest = scan_digest(header().encode(), acquisitions())
    assert scan.identifier == queue_identifier(digest, DOCUMENT)
    assert scan.record.acquisitions == len(acquisitions())
    assert scan.record.memory > 0
    assert (scan.folder / PIPELINE).read_bytes() == DOCUMENT


def test_a_reception_holds_no_message_while_it_waits(server, queue, monkeypatch):
    """Otherwise, each connection that pauses holds one beside the memory budget."""
    seen, add = [], Reception.add

    def note(reception, item):
        seen.append(weakref.ref(item))
        add(reception, item)

    monkeypatch.setattr(Reception, "add", note)
    with dial(server) as connection:
        connection.sendall(QUEUE + HEADER + data())
        eventually(lambda: len(seen) == len(acquisitions()), "not all acquisitions arrive")
        eventually(lambda: not any(one() for one in seen), "one is held")
        connection.sendall(CLOSE)
        receive_all(connection)
    assert len(queue.scans()) == 1


def test_maps_are_retrieved_by_raw_data_with_long_readouts(server, queue):
    """A message of 16 MiB needs more memory than a connection has without a reservation."""
    long = ismrmrd.Acquisition.from_array(np.ones((64, 2**15), np.complex64))
    long.scan_counter = 1
    with dial(server) as connection:
        connection.sendall(named("retrieve") + HEADER + server_message(long) + CLOSE)
        said = receive_all(connection)
    assert "is not in the queue" in texts(said)


def test_a_reception_receives_little_ahead(server, monkeypatch):
    """Not the whole scan, up to the memory of all, where the disk is slower than the network."""
    held, waits, add = [], threading.Event(), Reception.add
    large = ismrmrd.Acquisition.from_array(np.ones((3, 40_000), np.complex64))
    large.scan_counter = 1

    def slow(reception, item):
        waits.wait(DEADLINE)
        add(reception, item)

    monkeypatch.setattr(Reception, "add", slow)
    put = Inbox._put

    def noted(inbox, message, useful):
        put(inbox, message, useful)
        held.append(inbox._bytes)

    monkeypatch.setattr(Inbox, "_put", noted)
    with dial(server) as connection:
        connection.sendall(QUEUE + HEADER + data())
        content = server_message(large)
        sender = threading.Thread(
            target=lambda: [connection.sendall(content) for _ in range(40)], daemon=True
        )
        sender.start()
        eventually(lambda: max(held, default=0) >= 2**21, "nothing is held")
        sender.join(2.0)
        assert sender.is_alive()
        waits.set()
        sender.join(DEADLINE)
    assert not sender.is_alive()
    assert max(held) < 2**21 + 2 * len(content)


def test_a_pipeline_of_the_server_by_name(server, queue, monkeypatch, tmp_path):
    folder = tmp_path / "pipelines"
    folder.mkdir()
    (folder / "small.xml").write_bytes(DOCUMENT)
    monkeypatch.setattr("mri2qmap.pipeline.pipeline_file.pipeline_folders", lambda: (folder,))
    for name in ("queue_small", "queue_small.xml"):
        answer = ask(server, named(name), HEADER, data(), CLOSE)
        assert "place 1" in texts(answer)
    (scan,) = queue.scans()
    assert scan.record.pipeline == "small"
    reconstruct(queue)
    assert "the maps are there" in texts(ask(server, named("retrieve_small"), HEADER, CLOSE))
    assert "not in the queue" in texts(ask(server, named("retrieve_other"), HEADER, CLOSE))


@pytest.mark.parametrize("again", [b"", data()])
def test_maps_are_retrieved(server, queue, again):
    ask(server, QUEUE, HEADER, data(), CLOSE)
    reconstruct(queue)
    answer = ask(server, named("retrieve"), HEADER, again, CLOSE)
    (image,) = images(answer)
    assert image.image_series_index == 7
    assert image.data[0, 0, 0, 0] == pytest.approx(expected_sum(2), rel=1e-5)
    assert image.meta["ImageComment"] == "sum"
    (dicom,) = (m for m in answer if isinstance(m, DicomFile))
    assert dicom.name == "sum/0001.dcm"
    assert pydicom.dcmread(io.BytesIO(dicom.content)).PatientName == "Nobody"
    assert not any(isinstance(m, Record) for m in answer)


def test_an_image_that_cannot_be_read_to_its_end_ends_the_connection(
    server, queue, monkeypatch, caplog
):
    """An error text within an image would be taken for pixels."""
    ask(server, QUEUE, HEADER, data(), CLOSE)
    reconstruct(queue)

    def torn(path, group, number):
        yield bytes(100)
        raise Mri2QmapError("the disk has failed")

    with monkeypatch.context() as patch:
        patch.setattr(results, "_image", torn)
        with dial(server) as connection:
            connection.sendall(named("retrieve") + HEADER + CLOSE)
            with pytest.raises(ConnectionError):
                receive_all(connection)
    eventually(lambda: "the disk has failed" in caplog.text, "nothing is in the log")
    assert "Traceback" not in caplog.text
    assert images(ask(server, named("retrieve"), HEADER, CLOSE))


def test_clients_receive_what_they_ask_for(server, queue):
    ask(server, QUEUE, HEADER, data(), CLOSE)
    reconstruct(queue)
    said = options(dicom=False, record=True)
    answer = ask(server, named("retrieve"), HEADER, said, CLOSE)
    assert not any(isinstance(m, DicomFile) for m in answer)
    (record,) = (json.loads(m.text) for m in answer if isinstance(m, Record))
    assert record["gadgets"][0]["settings"]["factor"] == 2


def test_where_a_scan_stands(server, queue):
    ask(server, QUEUE, HEADER, data(), CLOSE)
    (scan,) = queue.scans()
    queue.set_state(scan, State.RUNNING)
    assert "has begun" in texts(ask(server, named("retrieve"), HEADER, CLOSE))
    (scan.folder / PROGRESS).write_text('{"stage": "ADMM", "done": 5, "total": 16}')
    answer = ask(server, named("retrieve"), HEADER, CLOSE)
    assert "under way: ADMM, 5 of 16 steps" in texts(answer)
    assert len(images(answer)) == 3
    said = options(placeholders=False)
    answer = ask(server, named("retrieve"), HEADER, said, CLOSE)
    assert f"{ERROR_PREFIX}: there are no maps of {scan.identifier} yet" in texts(answer)
    assert not images(answer)


def test_placeholders_of_two_moments_are_two_objects(server, queue):
    answers = [ask(server, QUEUE, HEADER, data(), CLOSE)]
    queue.set_state(queue.scans()[0], State.RUNNING)
    answers.append(ask(server, named("retrieve"), HEADER, CLOSE))
    files = [m.content for answer in answers for m in answer if isinstance(m, DicomFile)]
    first, second = (pydicom.dcmread(io.BytesIO(content)) for content in files)
    assert first.SOPInstanceUID != second.SOPInstanceUID
    assert first.StudyInstanceUID == second.StudyInstanceUID
    assert "PixelData" in first
    if shutil.which("dciodvfy"):
        path = queue.path.parent / "placeholder.dcm"
        path.write_bytes(files[0])
        done = subprocess.run(["dciodvfy", path], capture_output=True, text=True, check=False)
        assert "Error" not in done.stdout + done.stderr


def test_a_failure_is_told_with_its_reason(server, queue):
    ask(server, QUEUE, HEADER, data(), CLOSE)
    queue.set_state(queue.scans()[0], State.FAILED, "the iterations diverge")
    answer = ask(server, named("retrieve"), HEADER, CLOSE)
    assert f"{ERROR_PREFIX}: the reconstruction of" in texts(answer)
    assert "has failed: the iterations diverge" in texts(answer)
    assert not images(answer)


def test_an_unfit_scan_is_refused_at_once(server, queue):
    answer = ask(server, QUEUE, HEADER, data(acquisitions()[:-1]), CLOSE)
    assert ERROR_PREFIX in texts(answer)
    assert "frame 3 missing" in texts(answer)
    assert not images(answer)
    assert not list(queue.path.iterdir())


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ([named("queue_small"), HEADER, data(), CLOSE], "no pipeline 'small' here"),
        ([named("queue"), HEADER, data(), CLOSE], "must be the name or the XML of a pipeline"),
        ([named("queue"), named("queue"), HEADER, data(), CLOSE], "no pipeline 'queue' here"),
        ([QUEUE, HEADER, CLOSE], "the scan has no imaging acquisitions"),
        ([named("retrieve"), HEADER, CLOSE], "is not in the queue"),
        ([named("retrieve"), counted(3, b"<x/>"), CLOSE], "is not in the queue"),
        ([named("retrieve"), HEADER, options(identifier="../.."), CLOSE], "is not in the queue"),
        ([named("retrieve"), HEADER, options(nothing=1), CLOSE], "nothing"),
        ([named("retrieve"), HEADER, data(), CLOSE], "is not in the queue"),
    ],
)
def test_wrong_orders(server, queue, parts, words):
    answer = ask(server, *parts)
    assert words in texts(answer)
    assert ERROR_PREFIX in texts(answer)
    assert not list(queue.path.iterdir())


@pytest.mark.parametrize("order", [QUEUE, named("retrieve")])
def test_a_server_without_a_queue_says_so(order):
    with scan_server() as listener:
        assert "--queue FOLDER" in texts(ask(listener, order, HEADER, data(), CLOSE))


def test_a_client_that_is_gone_leaves_nothing(server, queue):
    with dial(server) as connection:
        connection.sendall(QUEUE + HEADER + data()[:-100])
    eventually(lambda: len(server) == 0, "the connection does not end")
    assert not list(queue.path.iterdir())


def test_a_scan_beyond_the_memory_is_refused_before_it_is_received(queue):
    with scan_server(MemoryBudget(10), queue=ScanQueueService(queue)) as listener:
        assert "available" in texts(ask(listener, QUEUE, HEADER, data(), CLOSE))
    assert not list(queue.path.iterdir())


def test_a_scan_waits_although_others_hold_the_memory(queue):
    budget = MemoryBudget(2**40)
    with scan_server(budget, queue=ScanQueueService(queue)) as listener:
        with budget.share(2**40 - 1, "another"):
            assert "place 1" in texts(ask(listener, QUEUE, HEADER, data(), CLOSE))


def test_our_client_queues_and_retrieves(server, queue):
    def client(order, items=(), identifier=""):
        peer = connect("127.0.0.1", server.port)
        configuration, document = ConfigDocument(DOCUMENT), header().encode()
        remote = RemoteReconstruction(peer, configuration, document, None, order, identifier)
        return remote, list(remote.run(items))

    remote, found = client(Order.LATER, acquisitions())
    assert not found
    identifier = remote.record["queued"]
    assert remote.record["where"] == "it waits in the queue, place 1"
    with pytest.raises(Mri2QmapError, match=f"no maps of {identifier} yet"):
        client(Order.RETRIEVAL, identifier=identifier)
    reconstruct(queue)
    remote, found = client(Order.RETRIEVAL, identifier=identifier)
    assert np.all(found[0].data == found[0].data[0, 0, 0, 0])
    assert len(found) == 2
    assert remote.record["gadgets"]
    remote, _ = client(Order.LATER, acquisitions())
    assert remote.record == {"queued": identifier, "where": "the maps are there"}
