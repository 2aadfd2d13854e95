import logging
import os
import signal
import subprocess
import sys
import types
from pathlib import Path

import pytest

import mri2qmap
from mri2qmap.cli import main as module
from mri2qmap.cli.main import COMMANDS, main
from mri2qmap.errors import Mri2QmapError
from mri2qmap.hosts.in_process import GadgetError
from mri2qmap.machine.cancellation import raise_if_cancelled


def run_installed(*arguments: str, check: str = "") -> subprocess.CompletedProcess:
    code = "import sys; from mri2qmap.cli.main import main; c = main(); " + check + "; sys.exit(c)"
    path = os.pathsep.join([str(Path(mri2qmap.__file__).parents[1]), *sys.path])
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
        timeout=60,
    )


@pytest.fixture
def command(monkeypatch):
    """A subcommand `toy` that does what the test says."""
    toy = types.ModuleType("mri2qmap.cli.toy")
    toy.add_parser = lambda subparsers: subparsers.add_parser("toy").add_argument("--x")
    toy.run = lambda args: 0
    monkeypatch.setitem(sys.modules, "mri2qmap.cli.toy", toy)
    monkeypatch.setattr(module, "COMMANDS", ("toy",))
    return toy


def raising(error):
    def run(args):
        raise error

    return run


def test_help_names_every_command(capsys):
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    for name in COMMANDS:
        assert f"mri2qmap {name}" in text or f"    {name} " in text


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_with_an_example(name, capsys):
    assert main([name, "--help"]) == 0
    text = capsys.readouterr().out
    assert "example" in text
    assert f"mri2qmap {name}" in text.partition("example")[2]
    assert "--verbose" in text


def test_help_is_there_before_anything_heavy_is_imported():
    result = run_installed("replay", "--help", check="print('torch' in sys.modules)")
    assert result.returncode == 0, result.stderr
    assert result.stdout.endswith("False\n")


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"mri2qmap {mri2qmap.__version__}\n"


@pytest.mark.parametrize("arguments", [[], ["rebuild"], ["replay"], ["replay", "a", "--fast"]])
def test_wrong_usage_is_refused(arguments, capsys):
    assert main(arguments) == 2
    assert "usage: mri2qmap" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (Mri2QmapError("scan.h5: no\nsuch file"), 2, "scan.h5: no such file"),
        (GadgetError("gadget a failed: b"), 1, "gadget a failed: b (-v shows where)"),
        (KeyError("x"), 1, "KeyError: 'x' (-v shows where)"),
        (AssertionError(), 1, "AssertionError: no message (-v shows where)"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_an_error_is_one_line_and_an_exit_code(command, capsys, error, code, text):
    command.run = raising(error)
    assert main(["toy"]) == code
    assert capsys.readouterr() == ("", f"mri2qmap: error: {text}\n")


@pytest.mark.parametrize("arguments", [["-v", "toy"], ["toy", "-v"]])
def test_verbose_shows_where(command, capsys, arguments):
    command.run = raising(KeyError("x"))
    assert main(arguments) == 1
    text = capsys.readouterr().err
    assert "Traceback" in text
    assert text.endswith("\nmri2qmap: error: KeyError: 'x'\n")


@pytest.mark.parametrize(
    ("arguments", "verbose"),
    [(["toy"], 0), (["toy", "-v"], 1), (["-v", "toy"], 1), (["toy", "-vv"], 2)],
)
def test_a_command_gets_what_the_contract_says(command, arguments, verbose):
    seen = []
    command.run = lambda args: seen.append(args) or 0
    assert main([*arguments, "--x", "3"]) == 0
    (args,) = seen
    assert args.verbose == args.report.verbosity == verbose
    assert args.command == ["mri2qmap", *arguments, "--x", "3"]
    assert args.x == "3"


def test_verbose_is_about_this_program_not_its_libraries(command, caplog):
    def run(args):
        logging.getLogger("mri2qmap.toy").debug("ours")
        logging.getLogger("someone.else").info("theirs")
        return 0

    command.run = run
    assert main(["toy", "-vv"]) == 0
    assert [record.getMessage() for record in caplog.records] == ["ours"]
    caplog.clear()
    assert main(["toy", "-v"]) == 0
    assert caplog.records == []


def test_a_users_error_needs_no_traceback_unless_one_insists(command, capsys):
    command.run = raising(Mri2QmapError("no such file"))
    for flag, shown in (("-v", False), ("-vv", True)):
        assert main(["toy", flag]) == 2
        text = capsys.readouterr().err
        assert ("Traceback" in text) == shown
        assert text.endswith("mri2qmap: error: no such file\n")


def test_the_exit_code_is_that_of_the_command(command):
    command.run = lambda args: 7
    assert main(["toy"]) == 7


def test_sigterm_ends_the_command_cleanly(command, capsys):
    cleaned = []

    def run(args):
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        finally:
            cleaned.append(True)
        return 0

    command.run = run
    before = signal.getsignal(signal.SIGTERM)
    assert main(["toy"]) == 143
    assert cleaned == [True]
    assert capsys.readouterr().err == "mri2qmap: error: terminated\n"
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize("lines", [1, 100_000])  # written as the program ends, or before
def test_a_reader_that_has_had_enough_is_no_error(lines):
    code = (
        "import sys, types; from mri2qmap.cli import main as m;"
        "toy = types.SimpleNamespace(add_parser=lambda s: s.add_parser('doctor'),"
        f"run=lambda args: print(*['line'] * {lines}, sep='\\n') or 0);"
        "m.importlib = types.SimpleNamespace(import_module=lambda name: toy);"
        "sys.exit(m.main(['doctor']))"
    )
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as nowhere:
        ended = subprocess.run(
            [sys.executable, "-c", code],
            stdout=nowhere,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(Path(mri2qmap.__file__).parents[1])},
            timeout=60,
        )
    assert (ended.returncode, ended.stderr) == (141, "")


class SignalledWhenDeleted:
    def __init__(self, number):
        self.number = number

    def __del__(self):
        signal.raise_signal(self.number)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_in_a_finaliser_ends_a_command(command, capsys, number, code):
    """Python reports its exception and goes on."""

    def run(args):
        SignalledWhenDeleted(number)
        while True:
            raise_if_cancelled()

    command.run = run
    before = signal.signal(number, signal.default_int_handler)  # it may be ignored, as under nohup
    try:
        assert main(["toy"]) == code
    finally:
        signal.signal(number, before)
    word = {130: "interrupted", 143: "terminated"}[code]
    assert capsys.readouterr() == ("", f"mri2qmap: error: {word}\n")
