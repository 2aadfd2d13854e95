"""The log of a server whose reader stops to read."""

import io
import logging
import os
import threading

import pytest
from helpers.waiting import eventually

from mri2qmap.pipeline.log_handler import DroppingHandler, dropping_log

LINE = "x" * 200
MORE_THAN_A_PIPE = 1000


@pytest.fixture
def pipe():
    reading, writing = os.pipe()
    with open(reading, "rb") as reader, open(writing, "w") as writer:
        yield reader, writer


def record(text):
    return logging.LogRecord("mri2qmap", logging.INFO, __file__, 1, text, None, None)


def test_lines_that_nobody_reads_are_dropped_and_counted(pipe):
    reader, writer = pipe
    handler = DroppingHandler(writer)
    for _ in range(MORE_THAN_A_PIPE):
        handler.emit(record(LINE))  # it would wait for ever
    lines = []
    thread = threading.Thread(target=lambda: lines.extend(reader))
    thread.start()
    eventually(lambda: len(lines) > 100, "nothing is read")
    handler.emit(record("after"))
    writer.close()
    thread.join()
    *before, lost, after = [line.decode().rstrip("\n") for line in lines]
    assert set(before) == {LINE}
    assert (
        lost == f"... {MORE_THAN_A_PIPE - len(before)} lines of the log are lost: nobody read them"
    )
    assert after == "after"


def test_all_lines_of_a_stream_that_takes_them_are_written():
    stream = io.StringIO()
    handler = DroppingHandler(stream)
    for number in range(3):
        handler.emit(record(f"{number}\nand more"))
    assert stream.getvalue() == "0\nand more\n1\nand more\n2\nand more\n"


def test_the_handlers_of_the_log_are_replaced_for_some_time():
    root, stream = logging.getLogger(), io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logging.Formatter("%(levelname)s %(message)s"))
    root.addHandler(handler)
    before = root.handlers.copy()
    try:
        with dropping_log():
            assert handler not in root.handlers
            logging.getLogger("mri2qmap.test").error("within")
        assert set(root.handlers) == set(before)
    finally:
        root.removeHandler(handler)
    assert stream.getvalue() == "ERROR within\n"
