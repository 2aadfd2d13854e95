"""Detection of errors in texts of servers, and formatting of errors."""

import io
import logging

import pytest

from mri2qmap.errors import (
    GadgetError,
    Mri2QmapError,
    clear_frames,
    failing_library,
    with_causes,
)
from mri2qmap.hosts.error_text import (
    client_text,
    format_error,
    log_error,
    reported_error,
    without_paths,
)

GADGETRON = "[Connection Main Thread/Stream/external] ERROR: "
TRACEBACK = 'Traceback (most recent call last):\n  File "a.py", line 1, in b\nKeyError: 3\n'


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "MRI2Qmap error: gadget pnp_admm: no memory\n",
            "MRI2Qmap error: gadget pnp_admm: no memory",
        ),
        (
            f"{GADGETRON}Errors received: \nMRI2Qmap error: gadget toeplitz_cg: no\n",
            f"{GADGETRON}Errors received: MRI2Qmap error: gadget toeplitz_cg: no",
        ),
        (
            "[Connection Main Thread] ERROR: Failed to load config",
            "[Connection Main Thread] ERROR: Failed to load config",
        ),
        ("[Connection Main Thread/Connection Input Thread] ERROR: map::at", ...),
        ("ERROR    the scan has no k-space", "ERROR the scan has no k-space"),
        ("CRITICAL out of memory", "CRITICAL out of memory"),
        (f"ERROR    {TRACEBACK}", "KeyError: 3"),
        (TRACEBACK, "KeyError: 3"),
        (f"processing failed\n{TRACEBACK}", "processing failed KeyError: 3"),
        ("ERROR:root:no", "ERROR:root:no"),
        ("FATAL: no", "FATAL: no"),
        ("ERROR: \x1b[2J\x07 gone", r"ERROR: \x1b[2J\x07 gone"),
        ("ERROR: " + "x" * 10**5, "ERROR: " + "x" * 1993),
    ],
)
def test_error_texts_are_detected(text, expected):
    assert reported_error(text) == (text if expected is ... else expected)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "MRI2Qmap: noise scans: 2 before imaging\n",
        "MRI2Qmap: ADMM, 16 steps",
        "INFO     Total processing time: 1.0 s",
        "WARNING  ERROR is not in the first place",
        "0 errors",
        "standard error: 3.2",
        "ERRORS 0",
        "[12] error: 3 %",
        "[Connection Main Thread] INFO: all well",
        "the log has\n[a] ERROR: b\nin its second line",
    ],
)
def test_other_texts_are_not_errors(text):
    assert reported_error(text) is None


@pytest.mark.parametrize(
    "error", [Mri2QmapError("a\nb"), GadgetError("a b"), ValueError("\x1b[31m"), OSError()]
)
def test_formatted_error_is_one_line_and_detected(error):
    text = format_error(error, "pnp_admm")
    assert reported_error(text) == text
    assert text.isprintable()


def test_client_text_is_one_line():
    assert client_text("a") == "MRI2Qmap: a\n"
    assert client_text("a\nb\x1b") == "MRI2Qmap: a\\nb\\x1b\n"
    assert reported_error(client_text("a\nERROR    b")) is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/a/b/c.nii: it cannot be read", "c.nii: it cannot be read"),
        ("pipeline /a/b c/d.xml: no", "pipeline d.xml: no"),
        ("[Errno 2] No such file: '/a/b c/d e.h5'", "[Errno 2] No such file: 'd e.h5'"),
        ("name = '/a', path=\"/b/c\"", "name = 'a', path=\"c\""),
        ("(/a/b) [/c/d] =/e/f", "(b) [d] =f"),
        ("no x in /a/b/models or /c/d/_models; known: y", "no x in _models; known: y"),
        ("/a/b/ and '/'", "b and '/'"),
        ("//a//b", "b"),
        ("//srv/a b/c.h5: no", "c.h5: no"),
        ("/a/(x), y/[1] {2}/c.h5 (no)", "c.h5 (no)"),
        ("(/a/b), and T1/T2", "(b), and T1/T2"),
        ("file:///a/b", "file:b"),
        ("T1/T2 in mm/s, 3 / 4, 1/2/3 and/or a", ...),
        ("https://example.org/a/b, ../a/b, ./c, ~/d", ...),
        ("", ...),
    ],
)
def test_texts_for_peers_have_no_absolute_paths(text, expected):
    expected = text if expected is ... else expected
    assert without_paths(text) == expected
    assert client_text(text) == f"MRI2Qmap: {expected}\n"


def test_long_errors_are_shortened():
    assert len(format_error(Mri2QmapError("x" * 10**6))) < 2100
    assert format_error(Mri2QmapError("/a b" * 10**5)).endswith("b")


def test_the_log_keeps_paths(caplog):
    for error in (Mri2QmapError("/a/b"), OSError(2, "no", "/a/b")):
        log_error(logging.getLogger("test"), error)
    assert caplog.messages == [
        "/a/b",
        "MRI2Qmap error: FileNotFoundError: [Errno 2] no: '/a/b'",
    ]


@pytest.mark.parametrize(("kind", "lines"), [(Mri2QmapError, 1), (GadgetError, 4)])
def test_error_is_logged_once(kind, lines):
    stream = io.StringIO()
    logger = logging.Logger("test")
    logger.addHandler(logging.StreamHandler(stream))
    try:
        raise kind("no memory")
    except kind as error:
        for _ in range(3):
            log_error(logger, error)
    assert len(stream.getvalue().splitlines()) >= lines
    assert stream.getvalue().count("Traceback") == (kind is GadgetError)
    assert stream.getvalue().splitlines()[0].endswith("no memory")


def test_errors_that_cause_each_other_are_seen_once():
    """As when a scan is cancelled, and looks again while it ends."""
    first, second = ConnectionError("gone"), Mri2QmapError("not read")
    first.__cause__, second.__cause__ = second, first
    assert list(with_causes(first)) == [first, second]
    assert failing_library(first) is None
    clear_frames(first)
