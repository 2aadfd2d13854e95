"""Progress bars in a terminal, and what is written to it meanwhile."""

import io
import logging
import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from helpers.screens import Session
from helpers.waiting import eventually

import mri2qmap
from mri2qmap.pipeline import progress_bars
from mri2qmap.pipeline.progress import TerminalReporter
from mri2qmap.pipeline.progress_bars import bars_end_here, has_bars, progress_bar


class Terminal(io.StringIO):
    def isatty(self):
        return True


def open_terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """Make standard error a terminal for the rest of a test."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "80")
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    return screen


BEGIN = """
import logging, sys, time, warnings
from mri2qmap.pipeline import progress
from mri2qmap.pipeline.progress import TerminalReporter
from mri2qmap.pipeline.progress_bars import progress_bar
from mri2qmap.pipeline.scan_log import configure_logging
progress.BAR_DELAY = 0.0
configure_logging()
report = TerminalReporter(1)
"""
BUSY = (
    BEGIN
    + """
for n in report.progress(range(4), "conjugate gradients"):
    for m in report.progress(range(2), "inner"):
        report.log(f"line {n}{m} of the reporter")
        print(f"line {n}{m} of standard output")
        logging.getLogger("mri2qmap").warning("line %d%d of the log", n, m)
        warnings.warn(f"line {n}{m} of a warning", UserWarning, stacklevel=1)
        time.sleep(0.05)
print("end")
"""
)


@pytest.mark.parametrize("columns", [80, 40, 24])
def test_lines_appear_above_the_bars(columns):
    done = Session(BUSY, columns)
    assert done.code == 0, done.raw
    whole = re.sub(r"\n", "", done.screen.text)
    told = re.sub(r"\n", "", "".join(done.screen.text))
    for n in range(4):
        for m in range(2):
            for source in ("the reporter", "standard output", "the log", "a warning"):
                words = f"line {n}{m} of {source}"
                assert words.replace(" ", "") in whole.replace(" ", ""), words
    assert told.endswith("end")
    assert "conjugate" not in whole  # the bars are gone, with all their remains
    assert "inner" not in whole
    both = [seen for seen in done.seen if re.search(r"conj\S* .*\ninner .*1/2[^\n]*\Z", seen)]
    assert both
    assert all(len(line) <= columns for seen in done.seen for line in seen.split("\n"))
    assert done.screen.cursor_visible
    assert "\x1b[?25l" not in done.raw


def test_a_bar_has_count_elapsed_and_remaining_time():
    slow = BEGIN + "\nfor _ in report.progress(range(3), 'ADMM'): time.sleep(0.6)"
    lines = [seen for seen in Session(slow).seen if seen.startswith("ADMM")]
    assert any(re.fullmatch(r"ADMM ━+.* 0/3 0:00", line) for line in lines)
    assert any(re.fullmatch(r"ADMM ━+.* 1/3 0:01 0:01 left", line) for line in lines)
    unknown = BEGIN + "\nfor _ in report.progress(iter('ab'), 'ADMM'): time.sleep(0.4)"
    assert any(re.fullmatch(r"ADMM ━+ 1 0:0\d", line) for line in Session(unknown).seen)


def test_a_bar_goes_on_within_a_long_step():
    seen = Session(BEGIN + "\nfor _ in report.progress(range(1), 'long'): time.sleep(2.2)").seen
    assert any(line.endswith("0/1 0:02") for line in seen)


def test_colours_are_left_out_on_request():
    assert re.search(r"\x1b\[[\d;]*m", Session(BUSY).raw)
    done = Session(BUSY, environment={"NO_COLOR": "1"})
    assert "━" in done.raw
    assert not re.search(r"\x1b\[[\d;]*m", done.raw)


def test_a_terminal_that_redraws_nothing_gets_lines_only():
    done = Session(BUSY, environment={"TERM": "dumb"})
    assert "\x1b" not in done.raw
    assert "conjugate" not in done.raw
    assert done.screen.text.count("of the log") == 8


def test_an_encoding_without_lines_gets_a_bar_of_hyphens():
    slow = BEGIN + "\nfor _ in report.progress(range(3), 'ADMM'): time.sleep(0.3)"
    done = Session(slow, environment={"PYTHONIOENCODING": "ascii", "NO_COLOR": "1"})
    assert done.code == 0
    assert any(re.match(r"ADMM -+", line) for line in done.seen)


def test_a_line_that_is_not_complete_is_not_overwritten():
    program = """
with progress_bar("ADMM", 5, delay=0.0) as step:
    time.sleep(0.1)
    print("loading ", end="", flush=True)
    time.sleep(0.6)
    step()
    print("... done")
    time.sleep(0.6)
"""
    done = Session(BEGIN + program)
    assert done.screen.text == "loading ... done"
    assert "loading" in done.seen
    assert any(re.fullmatch(r"loading ... done\nADMM ━.* 1/5 .*", seen) for seen in done.seen)


def interrupt(text: str) -> bytes | None:
    return b"\x03" if re.search(r"[1-9]\d*/100", text) else None


INTERRUPTED = """
import types
from mri2qmap.cli import main as m
def run(args):
    marks = args.report.progress(range(100), "waiting")
    for _ in marks:
        time.sleep(0.05)
toy = types.SimpleNamespace(add_parser=lambda s: s.add_parser("demo"), run=run)
m.importlib = types.SimpleNamespace(import_module=lambda name: toy)
sys.exit(m.main(["demo"]))
"""


@pytest.mark.parametrize("columns", [80, 30])
def test_an_interrupted_command_leaves_the_terminal_as_it_was(columns):
    done = Session(BEGIN + INTERRUPTED, columns, at=interrupt)
    assert done.code == 130
    assert re.fullmatch(r"(\^C)?mri2qmap: error: interrupted", done.screen.text)
    assert done.screen.cursor_visible


def test_a_program_that_is_interrupted_ends_with_its_traceback():
    slow = "\nfor _ in report.progress(range(100), 'waiting'): time.sleep(0.05)"
    done = Session(BEGIN + slow, at=interrupt)
    assert done.screen.text.endswith("KeyboardInterrupt")
    assert "waiting" not in done.screen.text.replace("'waiting'", "")
    assert "\x1b[?25l" not in done.raw


def test_the_end_of_a_program_does_not_wait_for_bars():
    done = Session(BEGIN + "\nnext(report.progress(range(3), 'left'))\ntime.sleep(0.3)\nprint(1)")
    assert done.code == 0
    assert done.screen.text == "1"
    assert "Fatal" not in done.raw


def test_output_of_a_pipe_is_untouched_while_bars_are_shown(tmp_path):
    piped = tmp_path / "out"
    program = f"""
import os
os.dup2(os.open({str(piped)!r}, os.O_WRONLY | os.O_CREAT), 1)
for n in report.progress(range(3), "ADMM"):
    print("line", n)
    time.sleep(0.1)
"""
    done = Session(BEGIN + program)
    assert done.code == 0
    assert piped.read_text() == "line 0\nline 1\nline 2\n"
    assert "ADMM" in done.raw


def test_without_a_terminal_nothing_is_loaded_and_nothing_added():
    program = f"{BUSY}\nassert 'rich' not in sys.modules"
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(mri2qmap.__file__).parents[1])},
        timeout=60,
        check=True,
    )
    assert done.stdout.splitlines() == [
        *(f"line {n}{m} of standard output" for n in range(4) for m in range(2)),
        "end",
    ]
    kinds = [re.search("of (the reporter|the log|a warning)", x) for x in done.stderr.splitlines()]
    assert sum(found is not None for found in kinds) == 24
    assert "\r" not in done.stderr + done.stdout
    assert "\x1b" not in done.stderr


def bar_threads() -> list[threading.Thread]:
    return [t for t in threading.enumerate() if "_run" in t.name]


def test_streams_and_threads_are_given_back(monkeypatch):
    terminal = open_terminal(monkeypatch)
    handler = logging.StreamHandler(terminal)
    logging.getLogger().addHandler(handler)
    try:
        with progress_bar("ADMM", 3, delay=0.0):
            assert sys.stderr is not terminal
            assert handler.stream is sys.stderr
            assert len(bar_threads()) == 1
            assert bar_threads()[0].daemon
        assert sys.stderr is terminal
        assert handler.stream is terminal
        eventually(lambda: not bar_threads(), "the thread of the bars goes on")
    finally:
        logging.getLogger().removeHandler(handler)


def fail(report: TerminalReporter) -> None:
    for _ in report.progress(range(3), "ADMM"):
        raise ZeroDivisionError


def test_bars_that_an_error_keeps_alive_are_removed(monkeypatch):
    open_terminal(monkeypatch)
    monkeypatch.setattr("mri2qmap.pipeline.progress.BAR_DELAY", 0.0)
    with progress_bar("outer", 3, delay=0.0):
        with pytest.raises(ZeroDivisionError) as kept, bars_end_here():
            fail(TerminalReporter())
        assert [bar.description for bar in progress_bars._DISPLAY.bars] == ["outer"]
    assert kept.traceback
    assert not progress_bars._DISPLAY.bars


def test_a_stream_that_somebody_has_kept_still_writes(monkeypatch):
    terminal = open_terminal(monkeypatch)
    with progress_bar("ADMM", 3, delay=0.0):
        kept = sys.stderr
    kept.write("after\n")
    assert terminal.getvalue().endswith("after\n")
    sys.stderr = kept  # as the end of contextlib.redirect_stderr
    with progress_bar("ADMM", 3, delay=0.0):
        assert sys.stderr is kept
    assert sys.stderr is terminal


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_fork_has_no_bars(monkeypatch):
    terminal = open_terminal(monkeypatch)
    with progress_bar("ADMM", 3, delay=0.0):
        child = os.fork()
        if not child:
            own = sys.stderr is terminal and not progress_bars._DISPLAY.bars
            os._exit(0 if own else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert sys.stderr is not terminal


@pytest.mark.parametrize(
    ("term", "expected"), [("xterm", True), ("", True), ("dumb", False), ("DUMB", False)]
)
def test_where_there_are_bars(monkeypatch, term, expected):
    open_terminal(monkeypatch)
    monkeypatch.setenv("TERM", term)
    assert has_bars() is expected
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    assert not has_bars()
    monkeypatch.setattr(sys, "stderr", None)
    assert not has_bars()
    closed = Terminal()
    closed.close()
    monkeypatch.setattr(closed, "isatty", io.StringIO.isatty.__get__(closed), raising=False)
    monkeypatch.setattr(sys, "stderr", closed)
    assert not has_bars()
