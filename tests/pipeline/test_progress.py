import io

import pytest

from mri2qmap.pipeline import progress
from mri2qmap.pipeline.progress import Reporter, TerminalReporter


class Screen(io.StringIO):
    def isatty(self):
        return True


def test_default_reporter_is_silent(capsys):
    reporter = Reporter()
    assert list(reporter.progress(range(3), "counting")) == [0, 1, 2]
    reporter.log("hello")
    assert capsys.readouterr() == ("", "")


def test_lines_are_stored_and_shown_with_verbosity(capsys):
    for verbosity, shown in ((0, ""), (1, "hello\n")):
        reporter = TerminalReporter(verbosity)
        reporter.log("hello")
        assert reporter.lines == ["hello"]
        assert capsys.readouterr() == ("", shown)


def test_no_bar_without_a_terminal(capsys):
    assert list(TerminalReporter().progress(range(3), "counting")) == [0, 1, 2]
    assert capsys.readouterr() == ("", "")


def test_bar_appears_on_a_terminal_for_long_work_only(monkeypatch):
    screen = Screen()
    monkeypatch.setattr(progress.sys, "stderr", screen)
    list(TerminalReporter().progress(range(3), "counting"))
    assert "counting" not in screen.getvalue()
    monkeypatch.setattr(progress, "BAR_DELAY", 0.0)
    list(TerminalReporter().progress(iter(range(3)), "counting", total=3))
    assert "counting" in screen.getvalue()
    assert "0/3" in screen.getvalue()


class Kept(Reporter):
    def __init__(self):
        self.lines = []

    def emit(self, line):
        self.lines.append(line)


def late(*numbers: int) -> list[str]:
    return [f"acquisition {n}: a noise scan at {n / 7:.3f} s (1.5e-{n})" for n in numbers]


def test_lines_that_differ_in_numbers_are_counted():
    reporter = Kept()
    with reporter.collapse_repeats():
        for number, line in enumerate(late(*range(127))):
            reporter.log(line)
            if number % 50 == 0:
                reporter.log("T1 of gadget a")
                reporter.log("T2 of gadget a")
        with reporter.collapse_repeats():  # nested
            reporter.log("end")
    assert [line for line in reporter.lines if line.startswith("acq")] == late(0, 1, 2)
    assert reporter.lines.count("T1 of gadget a") == reporter.lines.count("T2 of gadget a") == 3
    assert reporter.lines[-2:] == [
        "end",
        f"... and 124 more similar lines, the last: {late(126)[0]}",
    ]


def test_scans_are_counted_separately():
    reporter = Kept()
    for _ in range(2):
        with reporter.collapse_repeats():
            for line in late(*range(5)):
                reporter.log(line)
        assert reporter.lines[-1].startswith("... and 2 more similar lines")
        assert len(reporter.lines) == 4
        reporter.lines.clear()
    for line in late(*range(9)):
        reporter.log(line)
    assert reporter.lines == late(*range(9))


def fail(reporter: Reporter) -> None:
    with reporter.collapse_repeats():
        for line in late(*range(4)):
            reporter.log(line)
        raise ZeroDivisionError


def test_counts_are_reported_when_a_scan_fails():
    reporter = Kept()
    with pytest.raises(ZeroDivisionError):
        fail(reporter)
    assert reporter.lines[-1].startswith("... and 1 more similar lines")


def test_disconnected_client_does_not_hide_the_error():
    class Gone(Kept):
        def emit(self, line):
            if line.startswith("..."):
                raise ConnectionError
            super().emit(line)

    with pytest.raises(ZeroDivisionError):
        fail(Gone())


def test_control_characters_are_escaped(capsys):
    reporter = TerminalReporter(1)
    reporter.log("a peer's \x1b[2J\nmri2qmap: error: all is lost\r\n")
    (line,) = reporter.lines
    assert line == r"a peer's \x1b[2J\nmri2qmap: error: all is lost"
    assert capsys.readouterr().err == line + "\n"


def test_stages_are_lines_where_there_is_no_terminal(capsys, monkeypatch):
    reporter = TerminalReporter(stages=True)
    assert list(reporter.progress(range(3), "short")) == [0, 1, 2]
    monkeypatch.setattr(progress, "BAR_DELAY", 0.0)
    assert list(reporter.progress(range(3), "counting")) == [0, 1, 2]
    assert list(reporter.progress(iter("ab"), "spelling")) == ["a", "b"]
    done = reporter.steps(2, "ADMM")
    done()
    done()
    assert capsys.readouterr() == ("", "counting, 3 steps\nspelling\nADMM, 2 steps\n")
    screen = Screen()
    monkeypatch.setattr(progress.sys, "stderr", screen)
    list(reporter.progress(range(3), "counting"))
    assert "counting, 3 steps" not in screen.getvalue()  # a bar instead
