"""What `mri2qmap validate` writes, for people and as JSON, its exit code, and estimated times."""

import json

import pytest
from helpers.scans import write_scan
from validation.test_wrong_scans import FRAMES, GROUPS, NOISE, good, with_lines, xml

import mri2qmap
from mri2qmap.cli.main import main
from mri2qmap.cli.validate import DOES_NOT_FIT
from mri2qmap.pipeline.findings import Finding, Findings, ScanError, scan_error
from mri2qmap.validation.work import Amount, work_of

PATIENT = (
    "<subjectInformation><patientName>Ada^Lovelace</patientName><patientID>4711</patientID>"
    "</subjectInformation>"
)


def run(path, *options, pipeline="svdmrf"):
    return main(["validate", str(path), "-p", pipeline, *options])


def test_a_scan_that_fits(tmp_path, capsys):
    scan = write_scan(tmp_path / "scan.h5", xml(extra=PATIENT), good())
    assert run(scan, "--set=coil_sensitivity.virtual_coils=2") == 0
    text = capsys.readouterr().out
    for words in (
        "8 x 8 x 8 (x, y, z)",
        f"{FRAMES * GROUPS} in {GROUPS} groups, {FRAMES} frames",
        "2, compressed to 2",
        "TR 12 ms, TE 0.7 ms, TI 20 ms, flip angles 10 to 45 degrees",
        "left, posterior, head",
        "patientName, patientID",
        "coil_sensitivity.virtual_coils",
        "GiB available",
        "The scan fits: nothing to remark.",
    ):
        assert words in text
    assert "Ada" not in text
    assert "4711" not in text
    assert max(map(len, text.splitlines())) <= 100


def test_a_scan_that_does_not_fit(tmp_path, capsys):
    scan = write_scan(tmp_path / "scan.h5", xml(), with_lines(lambda k: k / 0.002))
    assert run(scan) == DOES_NOT_FIT
    text = capsys.readouterr().out
    assert "error    trajectory-unit" in text
    assert f"acquisition {NOISE} (and {FRAMES * GROUPS - 1} more places)" in text
    assert "-> it may be in" in text
    assert "time" not in text  # nothing would run
    assert text.endswith("The scan does not fit: 1 error, 1 hint.\n")


@pytest.mark.parametrize("option", ["--memory=much", "--device=tpu", "--set=nothing"])
def test_wrong_arguments_are_another_exit_code(option, tmp_path, capsys):
    scan = write_scan(tmp_path / "scan.h5", xml(), good())
    assert run(scan, option) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_json(tmp_path, capsys):
    scan = write_scan(tmp_path / "scan.h5", xml(extra=PATIENT), good()[:-1])
    assert run(scan, "--json") == DOES_NOT_FIT
    text = capsys.readouterr().out
    found = json.loads(text)
    assert "Ada" not in text
    assert list(found) == [
        *("schema", "scan", "pipeline", "scan_profile", "fits", "findings", "description"),
        *("settings", "memory", "time"),
    ]
    assert found["fits"] is False
    (finding,) = found["findings"]
    assert list(finding) == ["code", "where", "what", "why", "advice", "level", "count"]
    assert (finding["code"], finding["level"], finding["count"]) == ("incomplete", "error", 1)
    assert found["description"]["matrix"] == [8, 8, 8]
    assert found["description"]["patient_fields"] == ["patientName", "patientID"]
    assert found["time"] is None
    gridded = [s for s in found["settings"] if s["changed"]]
    assert {s["name"] for s in gridded} == {"output", "method"}


def test_json_of_a_file_that_cannot_be_opened(tmp_path, capsys):
    assert run(tmp_path / "nothing.h5", "--json") == DOES_NOT_FIT
    found = json.loads(capsys.readouterr().out)
    assert [f["code"] for f in found["findings"]] == ["file-missing"]
    assert found["description"] is None


def test_the_time_of_a_larger_reconstruction_is_longer(tmp_path):
    scan = write_scan(tmp_path / "scan.h5", xml(), good())
    short = mri2qmap.validate(scan, "mrf_admm").time
    long = mri2qmap.validate(scan, "mrf_admm", settings={"pnp_admm.iterations": 1000}).time
    assert 0 < short.low < short.likely < short.high
    assert long.likely > short.likely


def test_work_grows_with_coils_and_iterations(tmp_path):
    """Steps of conjugate gradients are bounded; those of least squares are known."""
    from mri2qmap.pipeline.pipeline_file import read_pipeline
    from mri2qmap.pipeline.scan_header import ScanInfo

    scan = ScanInfo.from_header(xml())
    voxels = 8**3
    pipeline = read_pipeline("mrf_admm", {"pnp_admm": {"iterations": "4", "cg_iterations": "6"}})
    for coils in (1, 3):
        work = work_of(pipeline, scan, 640, coils, lambda gadget: 0)
        assert work.gram.high == coils * voxels * (20 + 4 * 6)
        assert work.gram.low < work.gram.likely < work.gram.high
        assert not work.denoising
        assert work.variation == Amount()
    pipeline = read_pipeline("mri2qmap", {"pnp_admm": {"iterations": "4"}})
    work = work_of(pipeline, scan, 640, 1, lambda gadget: 1000)
    assert work.denoising == {"pnp_admm": Amount.exactly((4 + 8) * 1000)}
    assert work.variation == Amount.exactly(4 * 5 * voxels)


def test_a_scan_in_memory(tmp_path):
    result = mri2qmap.validate(mri2qmap.Scan(xml(), good()), "svdmrf", time=False)
    assert result.findings == ()
    assert mri2qmap.validate(7, "svdmrf").codes == ("file",)


def test_warnings_are_written_by_replay(tmp_path, caplog):
    scan = write_scan(tmp_path / "scan.h5", xml(), good()[NOISE:])
    assert main(["replay", str(scan), "-p", "svdmrf", "-o", str(tmp_path / "maps")]) == 0
    assert [r.message for r in caplog.records if "no noise scans" in r.message]


def test_the_first_of_several_errors_is_refused_with_their_number(tmp_path, capsys):
    scan = write_scan(tmp_path / "scan.h5", xml(tr="0", fov="0 16 16"), good())
    assert main(["replay", str(scan), "-p", "svdmrf", "-o", str(tmp_path / "maps")]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "fieldOfView_mm is 0.0" in error
    assert "at least 2 problems; mri2qmap validate lists all" in error


def test_findings_of_one_code_are_counted():
    def check(number):
        raise scan_error("odd", f"item {number}", "it is odd", "even is expected", "add 1")

    findings = Findings()
    for number in (1, 3):
        assert findings.attempt(check, number) is None
    expected = Finding("odd", "item 1", "it is odd", "even is expected", "add 1", count=2)
    assert findings.found == (expected,)
    assert expected.message == "item 1: it is odd; even is expected: add 1"
    with pytest.raises(ScanError, match="item 1: it is odd"):
        findings.refuse("")
    with pytest.raises(ScanError, match="item 5"):
        Findings(stop=True).attempt(check, 5)
