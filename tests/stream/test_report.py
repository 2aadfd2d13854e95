import io

from mri2qmap.stream import report
from mri2qmap.stream.report import Reporter, TerminalReporter


class Screen(io.StringIO):
    def isatty(self):
        return True


def test_the_default_is_silent(capsys):
    reporter = Reporter()
    assert list(reporter.progress(range(3), "counting")) == [0, 1, 2]
    reporter.log("hello")
    assert capsys.readouterr() == ("", "")


def test_lines_are_kept_and_shown_when_asked_for(capsys):
    for verbosity, shown in ((0, ""), (1, "hello\n")):
        reporter = TerminalReporter(verbosity)
        reporter.log("hello")
        assert reporter.lines == ["hello"]
        assert capsys.readouterr() == ("", shown)


def test_there_is_no_bar_where_nobody_sees_it(capsys):
    assert list(TerminalReporter().progress(range(3), "counting")) == [0, 1, 2]
    assert capsys.readouterr() == ("", "")


def test_a_bar_appears_on_a_terminal_for_long_work_only(monkeypatch):
    screen = Screen()
    monkeypatch.setattr(report.sys, "stderr", screen)
    list(TerminalReporter().progress(range(3), "counting"))
    assert "counting" not in screen.getvalue()
    monkeypatch.setattr(report, "BAR_DELAY", 0.0)
    list(TerminalReporter().progress(iter(range(3)), "counting", total=3))
    assert "counting" in screen.getvalue()
    assert "0/3" in screen.getvalue()
