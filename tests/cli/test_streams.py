"""Commands whose standard output or error is closed, full or of another encoding; signals."""

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import types
from pathlib import Path

import pytest
from helpers.scans import header, write_scan

import mri2qmap
from mri2qmap.cli import main as module
from mri2qmap.cli.main import main
from mri2qmap.files.output_folder import OutputFolder
from mri2qmap.pipeline.progress import TerminalReporter


class Full(io.StringIO):
    """A stream on a disk that is full, or to a reader that is gone."""

    def write(self, text):
        raise OSError(28, "No space left on device")


class Gone(io.StringIO):
    def write(self, text):
        raise BrokenPipeError(32, "Broken pipe")


class LostTerminal(io.StringIO):
    def isatty(self):
        return True

    def write(self, text):
        raise OSError(5, "Input/output error")


def ascii_stream():
    return io.TextIOWrapper(io.BytesIO(), encoding="ascii", errors="strict")


@pytest.fixture
def scan(tmp_path: Path) -> Path:
    return write_scan(tmp_path / "scän.h5")


@pytest.mark.parametrize("verbose", [[], ["-v"]])
@pytest.mark.parametrize(
    ("name", "stream"),
    [
        ("stderr", lambda: None),
        ("stdout", lambda: None),
        ("stderr", Full),
        ("stdout", Full),
        ("stderr", LostTerminal),
        ("stdout", Gone),
        ("stdout", ascii_stream),
        ("stderr", ascii_stream),
    ],
)
def test_maps_are_written_whatever_the_streams_are(
    scan, small_pipeline, monkeypatch, name, stream, verbose
):
    monkeypatch.setattr("mri2qmap.pipeline.progress.BAR_DELAY", 0.0)
    monkeypatch.setattr(sys, name, stream())
    maps = scan.parent / "mäps"
    command = ["replay", str(scan), "-p", str(small_pipeline), "-o", str(maps), *verbose]
    assert main(command) == 0
    assert (maps / "run.json").exists()


@pytest.mark.parametrize("stream", [lambda: None, Full, LostTerminal])
def test_an_error_keeps_its_code_where_it_cannot_be_told(tmp_path, monkeypatch, stream):
    monkeypatch.setattr(sys, "stderr", stream())
    assert main(["replay", str(tmp_path / "none.h5"), "-o", str(tmp_path / "maps")]) == 2
    assert main(["replay"]) == 2


def test_a_library_user_without_standard_error_can_report(monkeypatch):
    monkeypatch.setattr(sys, "stderr", None)
    report = TerminalReporter(1)
    assert list(report.progress(range(3), "counting")) == [0, 1, 2]
    report.log("a line")
    assert report.lines == ["a line"]


def test_names_that_are_not_utf8_are_recorded(tmp_path, small_pipeline, capsys):
    scan = write_scan(tmp_path / os.fsdecode(b"sc\xe4n.h5"))
    maps = tmp_path / os.fsdecode(b"m\xe4ps")
    assert main(["replay", str(scan), "-p", str(small_pipeline), "-o", str(maps)]) == 0
    assert json.loads((maps / "run.json").read_text("utf-8"))["input"]["file"] == str(scan)
    assert r"m\udce4ps: maps written" in capsys.readouterr().out


def test_a_scan_that_is_gone_after_the_run_costs_no_maps(scan, small_pipeline, monkeypatch):
    from mri2qmap.api import run

    def gone(*_):
        scan.unlink()
        raise OSError(116, "Stale file handle")

    monkeypatch.setattr(run, "run_record", gone)
    maps = scan.parent / "maps"
    assert main(["replay", str(scan), "-p", str(small_pipeline), "-o", str(maps)]) == 0
    record = json.loads((maps / "run.json").read_text())
    assert record["input"]["bytes"] > 0
    assert "Stale file handle" in record["incomplete_record"]


TOY = """
import os, sys, types
from mri2qmap.cli import main as m
def run(args):
    with open(sys.argv[1], "w") as file:
        file.write("data ")
        file.flush()
        os.write(2, b"a native library complains")
        os.write(1, b"or tells something")
        print("told")
        args.report.log("logged")
        file.write("more data")
    return 0
toy = types.SimpleNamespace(add_parser=lambda s: s.add_parser("doctor"), run=run)
m.importlib = types.SimpleNamespace(import_module=lambda name: toy)
sys.exit(m.main(["doctor", "-v"]))
"""


@pytest.mark.parametrize("closed", ["2>&-", ">&- 2>&- <&-", ">/dev/full 2>/dev/full"])
def test_what_is_said_does_not_end_up_in_files(tmp_path, closed):
    """The next file that is opened takes the number of a stream that is closed."""
    file = tmp_path / "file"
    done = subprocess.run(
        ["sh", "-c", f'exec "$0" "$@" {closed}', sys.executable, "-c", TOY, str(file)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**os.environ, "PYTHONPATH": str(Path(mri2qmap.__file__).parents[1])},
        timeout=60,
        check=False,
    )
    # Telling is what this command is for, so that it cannot is an error; else it is none.
    assert done.returncode == (74 if "full" in closed else 0)
    if "full" not in closed:
        assert file.read_text() == "data more data"


@pytest.fixture
def command(monkeypatch):
    """A subcommand `toy` that does what the test says."""
    toy = types.ModuleType("mri2qmap.cli.toy")
    toy.add_parser = lambda subparsers: subparsers.add_parser("toy")
    monkeypatch.setitem(sys.modules, "mri2qmap.cli.toy", toy)
    monkeypatch.setattr(module, "COMMANDS", ("toy",))
    return toy


@pytest.mark.parametrize(
    ("number", "code", "text"),
    [(signal.SIGHUP, 129, "hung up"), (signal.SIGTERM, 143, "terminated")],
)
def test_a_signal_leaves_no_partial_folder(command, tmp_path, capsys, number, code, text):
    def run(args):
        with OutputFolder(tmp_path / "new" / "maps", header().encode()) as folder:
            assert list(folder.path.parent.iterdir()) != []
            os.kill(os.getpid(), number)
        return 0

    def others(*_):
        pass

    command.run = run
    before = signal.signal(number, others)
    try:
        assert main(["toy"]) == code
        assert signal.getsignal(number) is others
    finally:
        signal.signal(number, before)
    assert capsys.readouterr().err == f"mri2qmap: error: {text}\n"
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def restored_hangup():
    """Let SIGHUP do nothing where the program does not catch it."""
    before = signal.signal(signal.SIGHUP, lambda *_: None)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_while_it_cleans_up_leaves_nothing_either(
    command, tmp_path, monkeypatch, number, restored_hangup
):
    remove = shutil.rmtree

    def interrupted(path, *arguments, **keywords):
        os.kill(os.getpid(), number)
        return remove(path, *arguments, **keywords)

    def run(args):
        with OutputFolder(tmp_path / "maps", header().encode()):
            monkeypatch.setattr(shutil, "rmtree", interrupted)
            os.kill(os.getpid(), signal.SIGTERM)
        return 0

    command.run = run
    assert main(["toy"]) in (143, 128 + number)
    monkeypatch.undo()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_nobody_removed_goes_at_the_end(command, tmp_path):
    def run(args):
        OutputFolder(tmp_path / "maps", header().encode())  # as if a signal came right after
        raise KeyboardInterrupt

    command.run = run
    assert main(["toy"]) == 130
    assert list(tmp_path.iterdir()) == []


def test_a_signal_while_the_folder_is_put_in_place_comes_after_that(
    command, scan, small_pipeline, monkeypatch
):
    rename = Path.rename

    def interrupted(self, target):
        if maps in (self, target):
            os.kill(os.getpid(), signal.SIGTERM)
        return rename(self, target)

    monkeypatch.setattr(module, "COMMANDS", ("replay",))
    maps = scan.parent / "maps"
    arguments = ["replay", str(scan), "-p", str(small_pipeline), "-o", str(maps)]
    assert main(arguments) == 0
    before = (maps / "run.json").stat().st_ino
    monkeypatch.setattr(Path, "rename", interrupted)
    assert main([*arguments, "--overwrite"]) == 143
    assert (maps / "run.json").stat().st_ino != before
    assert sorted(p.name for p in scan.parent.iterdir()) == ["maps", "scän.h5", "small.xml"]


def test_a_hangup_that_is_ignored_stays_ignored(command):
    """As under nohup."""
    command.run = lambda args: os.kill(os.getpid(), signal.SIGHUP) or 0
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert main(["toy"]) == 0
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("number", [28, 122, 27, 5, 30])
def test_a_disk_that_fails_is_told_in_one_clear_line(command, capsys, number):
    def run(args):
        raise OSError(number, os.strerror(number), "/data/file")

    command.run = run
    assert main(["toy"]) == 74
    error = capsys.readouterr().err
    assert error.startswith("mri2qmap: error: /data/file: it cannot be read or written (")
    assert os.strerror(number) in error
    assert error.count("\n") == 1
