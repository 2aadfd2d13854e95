"""Exchange with a real PACS, Orthanc."""

import io
import os
import subprocess
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from export.scans import oblique_geometry, random_maps
from helpers.orthanc import DICOM_WEB, EXECUTABLE, TITLE, Orthanc
from helpers.pacs_fixtures import contents, push, status
from pydicom import Dataset, dcmread
from pynetdicom import AE
from pynetdicom.sop_class import (
    MRImageStorage,
    ParametricMapStorage,
    StudyRootQueryRetrieveInformationModelFind,
)

from mri2qmap.pacs.entries import State
from mri2qmap.pacs.spool import Spool

pytestmark = [
    pytest.mark.skipif(EXECUTABLE is None, reason="Orthanc is missing (Debian package orthanc)"),
    # the library leaves the socket of a refused connection open
    pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning"),
]
no_dicom_web = pytest.mark.skipif(
    DICOM_WEB is None, reason="DICOMweb of Orthanc is missing (Debian package orthanc-dicomweb)"
)
STORESCU = Path("/usr/bin/storescu")  # pynetdicom has a program of this name, too
FAST = ("--timeout", "5", "--attempts", "2", "--wait", "0.01", "--commitment", "0")


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    server = Orthanc(tmp_path_factory.mktemp("pacs") / "orthanc")
    server.start()
    yield server
    server.stop(kill=True)


@pytest.fixture
def orthanc(running):
    """A running Orthanc without objects."""
    yield running
    running.clear()


def by_uid(files: list[bytes]) -> dict[str, Dataset]:
    datasets = [dcmread(io.BytesIO(file)) for file in files]
    found = {str(dataset.SOPInstanceUID): dataset for dataset in datasets}
    assert len(found) == len(datasets), "an object is there twice"
    return found


def values(dataset: Dataset) -> np.ndarray:
    """Pixels in the unit of the real-world value mapping, which has one item."""
    (mapping,) = (
        dataset.RealWorldValueMappingSequence
        if "RealWorldValueMappingSequence" in dataset
        else dataset.SharedFunctionalGroupsSequence[0].RealWorldValueMappingSequence
    )
    assert mapping.MeasurementUnitsCodeSequence[0].CodeValue == "ms"
    return dataset.pixel_array * mapping.RealWorldValueSlope + mapping.RealWorldValueIntercept


@pytest.mark.parametrize("way", ["node", pytest.param("web", marks=no_dicom_web)])
def test_both_forms_come_back_as_they_were(run_folder, spool_place, orthanc, capsys, way):
    assert push(run_folder, "--to", getattr(orthanc, way), *FAST) == 0
    fetched = by_uid(orthanc.files())
    written = by_uid([path.read_bytes() for path in run_folder.rglob("*.dcm")])
    assert fetched.keys() == written.keys()
    for uid, dataset in written.items():
        assert fetched[uid] == dataset
        np.testing.assert_array_equal(fetched[uid].pixel_array, dataset.pixel_array)
        assert fetched[uid].file_meta.TransferSyntaxUID == dataset.file_meta.TransferSyntaxUID


def test_values_in_ms_survive(run_folder, spool_place, orthanc):
    assert push(run_folder, "--to", orthanc.node, *FAST) == 0
    fetched = by_uid(orthanc.files()).values()
    truth = random_maps(oblique_geometry(matrix=(2, 3, 5)))
    for name, expected in (("T1map", truth.t1), ("T2map", truth.t2)):
        uid = dcmread(run_folder / "dicom" / "parametric" / f"{name}.dcm").SOPInstanceUID
        parametric = values(next(item for item in fetched if item.SOPInstanceUID == uid))
        series = dcmread(run_folder / "dicom" / name / "0001.dcm").SeriesInstanceUID
        slices = [item for item in fetched if item.SeriesInstanceUID == series]
        slices.sort(key=lambda item: item.InstanceNumber)
        classic = np.stack([values(item) for item in slices])
        step = slices[0].RealWorldValueMappingSequence[0].RealWorldValueSlope
        np.testing.assert_allclose(classic, parametric, atol=0.5001 * step)
        np.testing.assert_allclose(
            np.sort(parametric.ravel()), np.sort(1e3 * expected.numpy().ravel()), rtol=1e-6
        )


def test_objects_are_found_by_a_query(run_folder, spool_place, orthanc):
    assert push(run_folder, "--to", orthanc.node, *FAST) == 0
    query = Dataset()
    query.QueryRetrieveLevel = "IMAGE"
    query.StudyInstanceUID = dcmread(next(run_folder.rglob("*.dcm"))).StudyInstanceUID
    query.SeriesInstanceUID = query.SOPClassUID = query.SOPInstanceUID = ""
    entity = AE("MRI2QMAP")
    entity.add_requested_context(StudyRootQueryRetrieveInformationModelFind)
    association = entity.associate("127.0.0.1", orthanc.dicom_port, ae_title=TITLE)
    answers = association.send_c_find(query, StudyRootQueryRetrieveInformationModelFind)
    found = [answer for code, answer in answers if answer is not None]
    association.release()
    assert {str(answer.SOPInstanceUID) for answer in found} == contents(run_folder).keys()
    parametric = len(list((run_folder / "dicom" / "parametric").iterdir()))
    assert Counter(str(answer.SOPClassUID) for answer in found) == {
        ParametricMapStorage: parametric,
        MRImageStorage: len(found) - parametric,
    }


def test_storage_commitment_of_orthanc(run_folder, spool_place, orthanc, capsys):
    options = ["--commitment", "10", "--listen", f"127.0.0.1:{orthanc.report_port}"]
    assert push(run_folder, "--to", orthanc.node, "--timeout", "5", *options) == 0
    count = len(contents(run_folder))
    assert f"storage commitment: the peer keeps {count} of {count}" in capsys.readouterr().out


def test_wrong_ae_title(run_folder, spool_place, orthanc, capsys):
    wrong = orthanc.node.replace(TITLE, "WRONG")
    assert push(run_folder, "--to", wrong, *FAST) == 4
    assert "does not know the AE title WRONG as its own" in capsys.readouterr().out
    assert status(capsys)["pending"] == len(contents(run_folder))
    assert not orthanc.files()


@pytest.mark.parametrize("way", ["node", pytest.param("web", marks=no_dicom_web)])
def test_killed_in_the_middle_and_started_again(
    run_folder, spool_place, orthanc, capsys, monkeypatch, way
):
    """The first push ends with objects that are pending, the second one sends these only."""
    count, before = 0, Spool.mark

    def mark(spool, destination, entry, state, reason=""):
        nonlocal count
        count += 1
        if count == 5:
            orthanc.stop(kill=True)
        before(spool, destination, entry, state, reason)

    if way == "web":
        monkeypatch.setattr("mri2qmap.pacs.stow._BATCH_COUNT", 3)
    place = getattr(orthanc, way)
    with monkeypatch.context() as patch:
        patch.setattr(Spool, "mark", mark)
        assert push(run_folder, "--to", place, *FAST) == 4
    found = status(capsys)
    total = len(contents(run_folder))
    assert 5 <= found["sent"] < total
    assert found["pending"] == total - found["sent"]
    assert push(*FAST) == 4
    orthanc.start()
    assert orthanc.get("/statistics")["CountInstances"] >= found["sent"]
    assert push(*FAST) == 0
    assert f"{found['pending']} sent" in capsys.readouterr().out
    assert by_uid(orthanc.files()).keys() == contents(run_folder).keys()
    with Spool(spool_place) as spool:
        assert len(spool.entries(place, State.SENT)) == total


@pytest.mark.skipif(not STORESCU.exists(), reason="storescu is missing (Debian package dcmtk)")
@pytest.mark.parametrize("required", [False, True])
def test_storescu_needs_an_option_for_parametric_maps(run_folder, orthanc, required):
    """As docs/pacs.md says."""
    words = ["+sd", "+r", *(["-R"] if required else []), "-aec", TITLE]
    done = subprocess.run(
        [str(STORESCU), *words, "127.0.0.1", str(orthanc.dicom_port), str(run_folder / "dicom")],
        env={**os.environ, "LC_ALL": "C"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    stored = by_uid(orthanc.files())
    if required:
        assert done.returncode == 0, done.stderr
        assert stored.keys() == contents(run_folder).keys()
    else:
        assert "No presentation context for: (PM)" in done.stderr
        assert done.returncode != 0
        assert len(stored) < len(contents(run_folder))
