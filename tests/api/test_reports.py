"""The report in the folder of a run: always, on request not, and never at the cost of the maps."""

import json
import re

import pytest
from export.scans import full_header
from helpers import report_samples
from helpers.live import scan_server

import mri2qmap
from mri2qmap.api.reconstruction import reconstruct_to_folder
from mri2qmap.api.run_output import record_with_report
from mri2qmap.cli.main import main
from mri2qmap.files.output_folder import OutputFolder
from mri2qmap.pipeline.progress import TerminalReporter
from mri2qmap.pipeline.scan_header import ScanInfo
from mri2qmap.report import making, page

FILES = ["report.html", "report.png"]
PIPELINE = "svdmrf"


def replayed(scan, folder, *options) -> dict:
    assert main(["replay", str(scan), "-o", str(folder), "-p", PIPELINE, *options]) == 0
    return json.loads((folder / "run.json").read_text())


def test_a_run_has_a_report_that_its_record_lists(files):
    record = json.loads((files / "maps/run.json").read_text())
    assert record["report"] == FILES
    assert set(FILES) <= set(record["files"])
    text = (files / "maps/report.html").read_text()
    for part in ("pipeline svdmrf", "16 x 12 x 14", "Energy of the fingerprints", "3 T"):
        assert part in text
    numbers = re.findall(r"<dt>([^<]+)</dt><dd>([^<]+)</dd>", text)
    missing = [name for name, value in numbers if value == "not recorded"]
    assert all("gradients" in name or "prior" in name for name in missing)  # svdmrf has neither


def test_the_command_says_where_it_is(files, tmp_path, capsys):
    record = replayed(files / "scan.h5", tmp_path / "maps")
    assert f"; report: {tmp_path / 'maps/report.html'}" in capsys.readouterr().out
    assert record["report"] == FILES


def test_it_is_left_out_on_request(files, tmp_path, capsys):
    record = replayed(files / "scan.h5", tmp_path / "maps", "--no-report")
    assert "report" not in record
    assert "report" not in capsys.readouterr().out
    assert not [p for p in (tmp_path / "maps").iterdir() if p.name in FILES]


def test_a_pdf_is_written_on_request(files, tmp_path, capsys):
    record = replayed(files / "scan.h5", tmp_path / "maps", "--pdf")
    assert record["report"] == ["report.html", "report.pdf", "report.png"]
    content = (tmp_path / "maps/report.pdf").read_bytes()
    assert content.startswith(b"%PDF-")
    assert content.rstrip().endswith(b"%%EOF")
    assert len(content) > 50_000
    scan, output = str(files / "scan.h5"), str(tmp_path / "none")
    for more in ([], ["--server", "localhost:1"]):
        assert main(["replay", scan, "-o", output, "--pdf", "--no-report", *more]) == 2
        assert "leave out --no-report" in capsys.readouterr().err


def test_a_run_at_a_server_has_a_report_of_the_same_maps(files, tmp_path):
    with scan_server() as server:
        address = f"127.0.0.1:{server.port}"
        record = replayed(files / "scan.h5", tmp_path / "maps", "--server", address)
        without = tmp_path / "without"
        replayed(files / "scan.h5", without, "--server", address, "--no-report")
    assert record["report"] == FILES
    assert not (without / "report.html").exists()
    texts = [(folder / "report.html").read_text() for folder in (tmp_path / "maps", files / "maps")]
    pictures = [re.findall(r"data:image/png;base64,[^\"]+", text) for text in texts]
    assert pictures[0] == pictures[1]
    assert "at a server" in texts[0]
    tables = [re.findall(r"<dt>([^<]+)</dt><dd>([^<]+)</dd>", text) for text in texts]
    assert tables[0] == tables[1]


@pytest.mark.parametrize(
    ("where", "name"), [(making, "report_volumes"), (making, "page"), (page, "histogram_chart")]
)
def test_maps_survive_a_report_that_cannot_be_made(
    files, tmp_path, monkeypatch, caplog, where, name
):
    def broken(*_):
        raise ZeroDivisionError("no report today")

    monkeypatch.setattr(where, name, broken)
    report = TerminalReporter()
    folder = tmp_path / "maps"
    record = reconstruct_to_folder(files / "scan.h5", folder, PIPELINE, progress=report)
    message = "the report could not be made: ZeroDivisionError: no report today"
    assert record["report"] == message
    assert message in report.lines
    assert message in caplog.text
    assert (folder / "nifti/T1map.nii.gz").exists()
    assert not [p for p in folder.iterdir() if p.name in FILES]


def test_a_report_that_cannot_be_written_leaves_nothing_of_itself(files, tmp_path, monkeypatch):
    def full(path, content):
        if path.name == FILES[1]:
            path.touch()
            raise OSError(28, "No space left on device")
        return written(path, content)

    written = type(tmp_path).write_bytes
    monkeypatch.setattr(type(tmp_path), "write_bytes", full)
    folder = tmp_path / "maps"
    record = reconstruct_to_folder(files / "scan.h5", folder, PIPELINE, progress=False)
    assert "No space left on device" in record["report"]
    assert not [p for p in folder.iterdir() if p.name in FILES]
    assert (folder / "nifti/T1map.nii.gz").exists()


def test_saved_maps_have_a_report(maps, tmp_path):
    maps.save(tmp_path / "saved")
    assert (tmp_path / "saved/report.html").stat().st_size > 10_000


def test_it_has_no_patient_data(tmp_path, monkeypatch):
    monkeypatch.setattr(making, "built_viewer", lambda: None)  # its script holds all digits
    header = full_header(name="Lovelace^Ada")
    for space in (header.encoding[0].reconSpace, header.encoding[0].encodedSpace):
        space.fieldOfView_mm.x = space.fieldOfView_mm.y = space.fieldOfView_mm.z = 200
    scan = ScanInfo.from_header(header, report=TerminalReporter())
    log = [
        "2031-01-01T10:00:00.1Z /data/Lovelace^Ada/scan.h5: 4 acquisitions",
        "2031-01-01T10:00:00.1Z parametric_maps: the name Lovelace^Ada is too long",
    ]
    record = report_samples.record(log=log, input={"file": "/data/ID-0042.h5"}, command=["ID-0042"])
    with OutputFolder(tmp_path / "maps", b"") as folder:
        made = record_with_report(folder, record, scan, b"", report_samples.head, 0.05)
        assert made["report"] == FILES
        text = (folder._partial / "report.html").read_text()
    for secret in ("Lovelace", "ID-0042", "1980-02-29", "Curie", "123456", "a_station_name"):
        assert secret not in text
    assert mri2qmap.__version__ in text or "mri2qmap 1.2.3" in text


def test_a_cohort_takes_the_options(files, tmp_path, monkeypatch):
    seen = {}
    monkeypatch.setattr(
        "mri2qmap.cohort.reconstruction.reconstruct_cohort",
        lambda *args, **options: seen.update(options) or [],
    )
    scans = [str(files / "scan.h5"), str(tmp_path / "b.h5")]
    main(["replay", *scans, "-o", str(tmp_path / "all"), "--no-report"])
    assert (seen["report"], seen["pdf"]) == (False, False)
    main(["replay", *scans, "-o", str(tmp_path / "all"), "--pdf"])
    assert (seen["report"], seen["pdf"]) == (True, True)
