"""`parametric_maps.push`: the maps of a run end in the PACS, and never wait for it."""

import dataclasses
import json
import logging
import socket
import threading
import time

import pydicom
import pytest
import torch
from export.scans import (
    PROVENANCE,
    export,
    full_header,
    oblique_geometry,
    random_maps,
    scan_info,
)
from helpers.dicom_peers import Node, dicom_node
from helpers.fixtures import maps_pipeline
from helpers.live import CLOSE, data, dial, opening, receive_all, scan_server
from helpers.pacs_fixtures import SECRET_NAME, contents, push
from helpers.scans import write_scan
from helpers.waiting import eventually
from pynetdicom.sop_class import MRImageStorage

from mri2qmap.cli.main import main
from mri2qmap.errors import Mri2QmapError
from mri2qmap.hosts.protocol import Text
from mri2qmap.machine.cancellation import Cancellation
from mri2qmap.machine.file_access import (
    ANY_FILE,
    DESTINATIONS_VARIABLE,
    INSTALLED_FILES,
    FileAccess,
    site_files,
)
from mri2qmap.pacs import inline
from mri2qmap.pacs.entries import State
from mri2qmap.pacs.pushing import PushOptions
from mri2qmap.pacs.resending import Resending
from mri2qmap.pacs.spool import Spool
from mri2qmap.parametric_maps import ParametricMapsSettings, parametric_maps
from mri2qmap.pipeline.items import DicomObject
from mri2qmap.pipeline.pipeline_file import pipeline_document
from mri2qmap.pipeline.provenance import with_gadget
from mri2qmap.pipeline.settings import parse_settings

__all__ = ["maps_pipeline"]

FAST = ("--timeout", "5", "--attempts", "2", "--wait", "0.01", "--commitment", "0")
ONLY_DICOM = {"mrd": "none", "nifti": False, "synthetic_images": False}
REFUSED = "may only send to destinations that the site allows"


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(inline, "_ONCE", PushOptions(timeout=1, attempts=1, commitment=0))


@pytest.fixture
def nowhere():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{free.getsockname()[1]}/dicom-web"


def maps():
    return random_maps(oblique_geometry(matrix=(2, 3, 5)))


def run(**settings):
    """DICOM objects of a run with the maps of `run_folder`."""
    items = export(maps(), full_header(SECRET_NAME), **ONLY_DICOM, **settings)
    return [item for item in items if isinstance(item, DicomObject)]


def wait() -> None:
    """Wait until all has been tried."""
    for thread in threading.enumerate():
        if thread.name == "push":
            thread.join(30)
            assert not thread.is_alive()


def test_objects_of_a_run_reach_the_peer(run_folder, spool_place, caplog):
    caplog.set_level(logging.INFO, "mri2qmap")
    with dicom_node() as node:
        objects = run(push=node.place)
        wait()
        assert node.objects == contents(run_folder)
        assert len(objects) == len(node.objects)
        assert f"push to {node.place}: {len(objects)} sent" in caplog.text
        assert push(run_folder, "--to", node.place, *FAST) == 0  # known as the same objects
    assert set(node.times.values()) == {1}
    assert SECRET_NAME not in caplog.text


def test_peer_that_is_down_costs_no_maps(run_folder, spool_place, caplog, nowhere):
    assert len(run(push=nowhere)) == len(contents(run_folder))
    wait()
    (warning, pending) = (r.getMessage() for r in caplog.records if r.levelname == "WARNING")
    assert warning == f"push to {nowhere}: 0 sent"
    assert f"are pending in the spool {spool_place} (no connection" in pending
    assert f"mri2qmap push --spool {spool_place} sends them" in pending
    assert SECRET_NAME not in caplog.text
    with Spool(spool_place) as spool:
        assert len(spool.entries(nowhere, State.PENDING)) == len(contents(run_folder))


def test_peer_without_parametric_maps_is_logged(run_folder, spool_place, caplog):
    with dicom_node(classes=(MRImageStorage,)) as node:
        run(push=node.place)
        wait()
    parametric = len(list((run_folder / "dicom" / "parametric").iterdir()))
    assert f"{parametric} of Parametric Map Storage refused: no presentation" in caplog.text
    assert len(node.objects) == len(contents(run_folder)) - parametric


def test_run_does_not_wait_for_the_peer(spool_place):
    go_on = threading.Event()

    def answer(event, number):
        go_on.wait(20)
        return 0x0000

    with dicom_node(Node(answer=answer)) as node:
        objects = run(push=node.place)  # done, and the peer has answered for none
        assert not node.objects
        go_on.set()
        wait()
        assert len(node.objects) == len(objects)


def test_a_service_sends_what_is_pending_without_a_further_scan(spool_place):
    """A PACS that was off gets the last scan of the day, too."""
    room = [False]
    node = Node(answer=lambda event, number: 0x0000 if room[0] else 0xA700)
    with dicom_node(node):
        objects = run(push=node.place)
        wait()
        assert not node.objects
        with Resending(interval=0.05):
            eventually(lambda: node.times.total() > 1, "there is no further attempt")
            assert not node.objects
            room[0] = True
            eventually(lambda: len(node.objects) == len(objects), "it is not sent")
        wait()
    with Spool(spool_place) as spool:
        assert not spool.entries(node.place, State.PENDING)


def test_a_service_without_a_spool_makes_none(spool_place):
    with Resending(interval=0.01):
        time.sleep(0.1)
    assert not spool_place.exists()


def test_sending_in_the_background_can_be_ended(spool_place, caplog):
    """After the object that is on its way; the rest stays in the spool."""
    arrived, go_on = threading.Event(), threading.Event()

    def answer(event, number):
        arrived.set()
        go_on.wait(20)
        return 0x0000

    with dicom_node(Node(answer=answer)) as node:
        objects = run(push=node.place)
        assert arrived.wait(20)
        assert inline.pushes() == 1
        inline.end_pushes("the server was stopped")
        go_on.set()
        wait()
        assert inline.pushes() == 0
        assert len(node.objects) == 1
    assert f"push to {node.place}: the server was stopped; it stays in the spool" in caplog.text
    with Spool(spool_place) as spool:
        assert len(spool.entries(node.place, State.PENDING)) == len(objects) - 1


def test_end_of_the_scan_does_not_end_the_push(spool_place):
    with dicom_node() as node:
        cancellation = Cancellation()
        with cancellation.active():
            objects = run(push=node.place)
            cancellation.cancel(ConnectionError("the client has left"))
        wait()
        assert len(node.objects) == len(objects)


@pytest.mark.parametrize("failure", ["folder", "copy", "record"])
def test_spool_that_fails_costs_no_maps(
    run_folder, spool_place, caplog, nowhere, monkeypatch, failure
):
    def fail(*words, **options):
        raise Mri2QmapError("spool: no room")

    if failure == "folder":
        spool_place.write_text("")
    else:
        place = "spool_batch.Batch.add" if failure == "copy" else "spool.Spool.record"
        monkeypatch.setattr(f"mri2qmap.pacs.{place}", fail)
    assert len(run(push=nowhere)) == len(contents(run_folder))
    wait()
    assert f"nothing is sent to {nowhere}: spool" in caplog.text
    assert not list(spool_place.glob("batch-*"))


def test_run_that_is_ended_records_nothing(spool_place, nowhere):
    settings = ParametricMapsSettings(push=nowhere)
    items = parametric_maps(iter([PROVENANCE, maps()]), scan_info(full_header()), settings)
    assert isinstance(next(items), DicomObject)
    assert list(spool_place.glob("batch-*/*"))
    items.close()
    assert not list(spool_place.glob("batch-*"))
    with Spool(spool_place) as spool:
        assert not spool.entries(nowhere, State.PENDING)


def test_destination_changes_no_uid(spool_place, nowhere, tmp_path):
    other = {"push": nowhere, "spool": tmp_path / "other"}
    uids = [[o.dataset.SOPInstanceUID for o in run(**settings)] for settings in ({}, other)]
    wait()
    assert uids[0] == uids[1]
    cpu = torch.device("cpu")
    passed = [
        with_gadget(PROVENANCE, "parametric_maps", ParametricMapsSettings(**settings), cpu)
        for settings in ({}, other)
    ]
    assert passed[0].digest == passed[1].digest
    assert json.loads(passed[1].settings)["parametric_maps"]["push"] == nowhere
    assert not (spool_place / "spool.sqlite").exists()
    assert (tmp_path / "other" / "spool.sqlite").exists()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"push": "PACS"}, "push: destination 'PACS'"),
        ({"push": "https://user:secret@host/"}, "a URL without user"),
        ({"push": "A@host:104", "dicom": "none"}, "push needs DICOM objects, and dicom is none"),
    ],
)
def test_bad_properties_are_refused(settings, words):
    with pytest.raises(Mri2QmapError, match=words):
        parse_settings(ParametricMapsSettings, settings, "parametric_maps")


def test_pipelines_from_elsewhere_send_to_allowed_destinations_only(monkeypatch, tmp_path):
    given = {"push": "PACS@host:104"}

    def read(files: FileAccess, **more: str):
        return parse_settings(
            ParametricMapsSettings, given | more, "parametric_maps", "here", files
        )

    assert read(ANY_FILE).push == "PACS@host:104"
    for files in (INSTALLED_FILES, FileAccess((tmp_path,)), site_files((), ["PACS@host:105"])):
        with pytest.raises(Mri2QmapError, match=f"parametric_maps: property push: .*{REFUSED}"):
            read(files)
    allowed = site_files((), ["PACS@host:104"])
    assert read(allowed).push == "PACS@host:104"
    with pytest.raises(
        Mri2QmapError, match=r"property spool: .*may not choose a folder that is written"
    ):
        read(allowed, spool=str(tmp_path))
    monkeypatch.setenv(DESTINATIONS_VARIABLE, "A@b:1, PACS@host:104,")
    assert read(site_files()).push == "PACS@host:104"
    assert site_files().destinations == ("A@b:1", "PACS@host:104")


def test_server_sends_to_allowed_destinations_only(spool_place, maps_pipeline):
    with dicom_node() as node:
        document = pipeline_document(maps_pipeline, {"parametric_maps": {"push": node.place}})
        for files in (INSTALLED_FILES, FileAccess(destinations=(node.place,))):
            with scan_server(files=files) as listener, dial(listener) as client:
                client.sendall(opening(document) + data() + CLOSE)
                texts = [m.text for m in receive_all(client) if isinstance(m, Text)]
                refused = any(REFUSED in text for text in texts)
                assert refused == (files == INSTALLED_FILES)
        wait()
        assert node.objects


def test_replay_sends_what_it_writes(spool_place, maps_pipeline, tmp_path):
    scan = write_scan(tmp_path / "scan.h5")
    with dicom_node() as node:
        options = [
            "--pipeline",
            str(maps_pipeline),
            "-o",
            str(tmp_path / "maps"),
            "--device",
            "cpu",
        ]
        options += ["--set", f"parametric_maps.push={node.place}"]
        assert main(["replay", str(scan), *options]) == 0
        wait()
        assert node.objects == contents(tmp_path / "maps")
    record = json.loads((tmp_path / "maps" / "run.json").read_text())
    assert any(f"objects for {node.place} in the spool" in line for line in record["log"])
    first = next((tmp_path / "maps").rglob("*.dcm"))
    assert pydicom.dcmread(first).SOPInstanceUID in node.objects


def test_settings_without_effect_are_fields():
    fields = {field.name for field in dataclasses.fields(ParametricMapsSettings)}
    assert fields.issuperset(ParametricMapsSettings.WITHOUT_EFFECT)
