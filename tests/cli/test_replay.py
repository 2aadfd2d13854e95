"""`mri2qmap replay`, with tiny gadgets in place of the real ones."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import ismrmrd
import nibabel
import numpy as np
import pytest
from helpers.scans import (
    acquisitions,
    expected_sum,
    external,
    header,
    noise_scan,
    pipeline_xml,
    readout,
    remove,
    truncate,
    with_sample,
    with_trajectory,
    without_coils,
    write_scan,
)

import mri2qmap
from mri2qmap.cli.main import main


@pytest.fixture
def scan(tmp_path: Path) -> Path:
    return write_scan(tmp_path / "scan.h5")


REPORT = ["report.html", "report.png"]


def replay(scan: Path, pipeline: object, *more: str) -> int:
    output = scan.parent / "maps"
    return main(["replay", str(scan), "--pipeline", str(pipeline), "-o", str(output), *more])


def test_maps_are_written_and_the_run_is_recorded(scan, small_pipeline, capsys):
    assert replay(scan, small_pipeline, "--device", "cpu") == 0
    output = scan.parent / "maps"
    assert capsys.readouterr().out.startswith(f"{output}: maps written in ")
    files = sorted(str(p.relative_to(output)) for p in output.rglob("*") if p.is_file())
    assert files == ["dicom/sum/0001.dcm", "mrd.h5", "nifti/summap.nii.gz", *REPORT, "run.json"]
    volume = nibabel.load(output / "nifti/summap.nii.gz").get_fdata()
    np.testing.assert_allclose(volume, expected_sum(2), rtol=1e-5)
    dataset = ismrmrd.Dataset(str(output / "mrd.h5"), mode="r")
    assert dataset.read_image("image_7", 0).data[0, 0, 0, 0] == volume[0, 0, 0]
    dataset.close()

    record = json.loads((output / "run.json").read_text())
    assert record["command"][:3] == ["mri2qmap", "replay", str(scan)]
    state = scan.stat()
    assert record["input"] == {
        "file": str(scan),
        "bytes": state.st_size,
        "modified_ns": state.st_mtime_ns,
        "sha256": hashlib.sha256(scan.read_bytes()).hexdigest(),
        "group": None,
        "contents": {},
    }
    assert record["pipeline"] == "small"
    assert record["device"] == "cpu"
    assert record["versions"]["numpy"] == np.__version__
    assert record["versions"]["mri2qmap"] == mri2qmap.__version__
    assert len(bytes.fromhex(record["provenance"])) == 32
    assert record["incomplete"] == ""
    assert record["scan"]["matrix_zyx"] == [8, 8, 8]
    assert record["scan"]["voxel_size_zyx_m"] == [0.002, 0.002, 0.002]
    assert record["scan"]["frames"] == 4
    assert record["scan"]["flip_angle_min_max_deg"] == pytest.approx([10, 40])
    assert record["scan"]["ti_s"] == pytest.approx(0.02)
    assert record["seeds"] == {"coil_sensitivity": 0}
    assert record["written"] == {"dicom": 1, "nifti": 1, "mrd": 1}
    gain, sum_up = record["gadgets"]
    assert gain["name"] == "coil_sensitivity"
    assert gain["settings"].items() >= {"factor": 2.0, "fail_with": "nothing", "seed": 0}.items()
    assert (sum_up["items_in"], sum_up["items_out"]) == (11, 3)
    assert 0 <= gain["first_item_s"] <= sum_up["first_item_s"] <= record["total_s"]
    assert record["last_acquisition_s"] <= sum_up["first_item_s"]
    assert any("noise scans: 2 before imaging" in line for line in record["log"])


def test_settings_can_be_changed_on_the_command_line(scan, small_pipeline):
    more = ["--set", "coil_sensitivity.factor=3", "--set", "parametric_maps.dicom=no"]
    assert replay(scan, small_pipeline, *more) == 0
    output = scan.parent / "maps"
    volume = nibabel.load(output / "nifti/summap.nii.gz").get_fdata()
    np.testing.assert_allclose(volume, expected_sum(3), rtol=1e-5)
    assert not (output / "dicom").exists()


def test_an_incomplete_scan_is_refused_unless_its_maps_may_be_partial(scan, small_pipeline, capsys):
    write_scan(scan, data=acquisitions()[:-1])
    code = replay(scan, small_pipeline)
    words = ["frame 3 missing in readout group 1", "set coil_sensitivity.incomplete=warn (--set"]
    assert_refused(code, capsys.readouterr(), words, scan.parent, [scan.name, "small.xml"])
    assert replay(scan, small_pipeline, "--set", "coil_sensitivity.incomplete=warn") == 0
    record = json.loads((scan.parent / "maps/run.json").read_text())
    line = "the scan is incomplete: frame 3 missing in readout group 1"
    assert line in [text[-len(line) :] for text in record["log"]]


def test_an_existing_folder_is_kept_unless_told_otherwise(scan, small_pipeline, capsys):
    assert replay(scan, small_pipeline) == 0
    volume = scan.parent / "maps" / "nifti" / "summap.nii.gz"
    before = volume.stat().st_ino
    assert replay(scan, small_pipeline) == 2
    assert "exists already" in capsys.readouterr().err
    assert volume.stat().st_ino == before
    assert replay(scan, small_pipeline, "--overwrite") == 0
    assert volume.stat().st_ino != before


def data(make):
    return lambda path: write_scan(path, data=make())


def xml(text):
    return lambda path: write_scan(path, xml=text)


BAD_SCANS = {
    "no trajectory": (
        data(lambda: with_trajectory(lambda k: k[:, :0])),
        ["no trajectory", "3D trajectory is expected"],
    ),
    "2D trajectory": (
        data(lambda: with_trajectory(lambda k: k[:, :2])),
        ["2D trajectory", "3D trajectory is expected"],
    ),
    "trajectory in rad/voxel": (
        data(lambda: with_trajectory(lambda k: 2 * np.pi * k)),
        ["rad/voxel", "from -0.5 to 0.5"],
    ),
    "trajectory in 1/m": (
        data(lambda: with_trajectory(lambda k: 500 * k)),
        ["1/m", "cycles/FOV", "-N/2..N/2", "from -0.5 to 0.5"],
    ),
    "frames missing from the header": (
        xml(header(angles="30", limit=None)),
        ["number of frames is unknown", "one flip angle per frame is expected"],
    ),
    "no flip angles": (xml(header(angles="")), ["flipAngle_deg is missing"]),
    "fewer frames in the header": (
        xml(header(angles="10 20 30", limit=2)),
        ["frame 3", "header describes 3 frames"],
    ),
    "frames not in the data": (
        data(lambda: [readout(f, g) for f in (0, 1, 3) for g in (0, 1)]),
        ["1 of the 4 frames in the header are not in the data", "2"],
    ),
    "NaN samples": (data(lambda: with_sample(5, np.nan)), ["acquisition 5", "nan", "finite"]),
    "zero coils": (data(without_coils), ["zero coils", "at least 1"]),
    "noise only": (data(lambda: [noise_scan()]), ["no imaging acquisitions"]),
    "a truncated file": (truncate, ["truncated"]),
    "no HDF5": (
        lambda path: path.write_text("hello"),
        ["neither an HDF5 file nor an ISMRMRD stream"],
    ),
    "no file": (lambda path: path.unlink(), ["the file does not exist", "ISMRMRD"]),
    "no header": (remove("xml"), ["XML header", "missing"]),
    "no data": (remove("data"), ["acquisitions", "missing"]),
    "a broken header": (xml("<ismrmrdHeader"), ["not well-formed"]),
}


def assert_refused(code: int, captured, words: list[str], folder: Path, files: list[str]) -> None:
    """One clear line, exit code 2, and nothing new in the folder."""
    assert code == 2
    assert captured.out == ""
    assert captured.err.startswith("mri2qmap: error: ")
    assert captured.err.count("\n") == 1
    for word in words:
        assert word in captured.err
    assert sorted(p.name for p in folder.iterdir()) == sorted(files)


@pytest.mark.parametrize("name", BAD_SCANS)
def test_a_bad_scan_gives_one_clear_error_and_no_output(name, scan, small_pipeline, capsys):
    change, words = BAD_SCANS[name]
    change(scan)
    files = [p.name for p in scan.parent.iterdir()]
    code = replay(scan, small_pipeline)
    assert_refused(code, capsys.readouterr(), words, scan.parent, files)


@pytest.mark.parametrize(
    ("nodes", "words"),
    [
        ([external("coil_sensitivty")], ['gadget "coil_sensitivty" is not known', "did you mean"]),
        (
            [external("coil_sensitivity", faktor=2)],
            ['coil_sensitivity: property "faktor" is not known', 'did you mean "factor"'],
        ),
        ([external("coil_sensitivity", factor="big")], ['factor="big"', "finite number"]),
        ([external("coil_sensitivity", factor=-2)], ["factor must be positive"]),
        (
            [external("coil_sensitivity", fail_with="user"), external("parametric_maps")],
            ["gadget coil_sensitivity: this scan cannot be amplified"],
        ),
        ([external("coil_sensitivity")], ["no maps were written", "10 Acquisition"]),
        ([external("parametric_maps", images="false")], ["no maps were written", "nothing"]),
    ],
)
@pytest.mark.usefixtures("fake_gadgets")
def test_a_bad_pipeline_gives_one_clear_error_and_no_output(scan, capsys, nodes, words):
    pipeline = scan.parent / "bad.xml"
    pipeline.write_text(pipeline_xml(*nodes))
    code = replay(scan, pipeline)
    assert_refused(code, capsys.readouterr(), words, scan.parent, ["scan.h5", "bad.xml"])


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--pipeline", "nonsense"], ["'nonsense'", "known:"]),
        (["--device", "abacus"], ["'abacus'", "auto, cpu, cuda"]),
        (["--set", "factor=2"], ["--set factor=2", "GADGET.PROPERTY=VALUE"]),
        (["--set", "pnp_admm.iterations=2"], ['no gadget "pnp_admm" (it has: coil']),
        (["--set", "coil_sensitivity.x=2"], ['property "x" is not known']),
        (["-o", "/proc/maps"], ["output /proc/maps"]),
    ],
)
def test_bad_arguments_give_one_clear_error_and_no_output(
    scan, small_pipeline, capsys, more, words
):
    code = replay(scan, small_pipeline, *more)
    assert_refused(code, capsys.readouterr(), words, scan.parent, ["scan.h5", "small.xml"])


def test_unwritable_output_is_noticed_before_the_long_run(scan, small_pipeline, capsys):
    blocker = scan.parent / "blocker"
    blocker.touch()
    write_scan(scan, data=with_sample(5, np.nan))  # would be found while running
    code = replay(scan, small_pipeline, "-o", str(blocker / "maps"))
    words = ["cannot be written", "blocker"]
    assert_refused(
        code, capsys.readouterr(), words, scan.parent, ["scan.h5", "small.xml", "blocker"]
    )


def test_a_bug_in_a_gadget_is_told_apart_from_bad_input(scan, small_pipeline, capsys):
    assert replay(scan, small_pipeline, "--set", "coil_sensitivity.fail_with=bug") == 1
    assert capsys.readouterr().err == (
        "mri2qmap: error: gadget coil_sensitivity failed: ZeroDivisionError: division by zero "
        "(-v shows where)\n"
    )
    assert not (scan.parent / "maps").exists()


def test_the_command_as_a_process(tmp_path):
    """The real gadgets, on a scan that the checks refuse: exit code and one line."""
    scan = write_scan(tmp_path / "scan.h5", data=with_trajectory(lambda k: 8 * k))
    package = str(Path(mri2qmap.__file__).parents[1])
    result = subprocess.run(
        [
            *(sys.executable, "-m", "mri2qmap.cli.main", "replay", str(scan)),
            *("-p", "svdmrf", "-o", str(tmp_path / "maps"), "--device", "cpu"),
            *("--set", "subspace_compression.coefficients=4"),
        ],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([package, *sys.path])},
        timeout=120,
    )
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr.startswith("mri2qmap: error: acquisition 1: its trajectory reaches 4")
    assert result.stderr.count("\n") == 1
    assert [p.name for p in tmp_path.iterdir()] == ["scan.h5"]
