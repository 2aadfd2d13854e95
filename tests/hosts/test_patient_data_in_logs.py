"""No text of the header about patient, study or site gets into a log, a page or to a client."""

import io
import json
import logging
import re
import warnings

import ismrmrd
import numpy as np
import pytest
from export.every_element import changed, full_header, is_text, paths
from helpers.live import (
    CLOSE,
    PLENTY,
    counted,
    data,
    dial,
    listening,
    opening,
    receive_all,
    running_worker,
)
from helpers.scans import acquisitions, external, header, noise_scan, pipeline_xml, with_sample
from helpers.server_side import configuration, conversation, read_answer

from mri2qmap.hosts.client import OWN_OPTIONS
from mri2qmap.hosts.protocol import Failure, Record, RelayedText, Text
from mri2qmap.hosts.server import ScanServer
from mri2qmap.hosts.server import answer as answer_query
from mri2qmap.pipeline.memory_budget import MemoryBudget
from mri2qmap.pipeline.scan_header import parse_header
from mri2qmap.pipeline.scan_log import JsonFormatter, LogFormatter

CANARY = re.compile(r"ZZ\d+PAT", re.I)
NUMBERS = {
    "subjectInformation/patientBirthdate": "1951-07-23",
    "subjectInformation/patientWeight_kg": "71.625",
    "subjectInformation/patientHeight_m": "1.7875",
    "studyInformation/studyDate": "2023-09-17",
    "studyInformation/studyTime": "23:49:58",
    "studyInformation/studyInstanceUID": "1.2.826.7654321",
    "measurementInformation/seriesDate": "2023-09-18",
    "measurementInformation/seriesTime": "22:47:57",
    "measurementInformation/frameOfReferenceUID": "1.2.826.8765432",
}
"""Values that are not text, and would be found in a log."""
STYLES = {
    "name": "{} John 1980-01-02",
    "long": "{} " + 200 * "x",
    "special characters": "{}\\^=M\u00fcller\u2028\u0661&#13;]]>",
    "a path": "/{0}/{0}",
}


@pytest.fixture
def written():
    """All lines of the log, in both formats, as `-vv` writes them."""
    streams = []
    root, own = logging.getLogger(), logging.getLogger("mri2qmap")
    levels = root.level, own.level
    for formatter in (LogFormatter(), JsonFormatter()):
        handler = logging.StreamHandler(io.StringIO())
        handler.setFormatter(formatter)
        root.addHandler(handler)
        streams.append(handler)
    root.setLevel(logging.WARNING)
    own.setLevel(logging.DEBUG)
    logging.captureWarnings(True)
    with warnings.catch_warnings(action="always"):  # they are lines of the log
        yield lambda: [handler.stream.getvalue() for handler in streams]
    logging.captureWarnings(False)
    for handler in streams:
        root.removeHandler(handler)
    root.setLevel(levels[0])
    own.setLevel(levels[1])


def marked(style: str) -> str:
    """Return a header with a different mark in each text, and known numbers."""
    full, fit = full_header(), parse_header(header())
    fit.encoding[0].trajectoryDescription = full.encoding[0].trajectoryDescription
    fit.sequenceParameters.sequence_type = full.sequenceParameters.sequence_type
    full.encoding, full.sequenceParameters = fit.encoding, fit.sequenceParameters
    document = str(ismrmrd.xsd.ToXML(full))
    texts = [path for path in paths(document) if is_text(document, path)]
    assert len(texts) > 25
    for number, path in enumerate(texts):
        text = STYLES[style].format(f"ZZ{number}PAT").replace("&#13;", "\r")
        document = changed(document, path, text)
    for path, text in NUMBERS.items():
        document = changed(document, path, text)
    return document


def revealed(text: str) -> list[str]:
    """Return what a text tells of a marked header."""
    found = CANARY.findall(text)
    for value in NUMBERS.values():
        found += [v for v in (value, value.replace("-", "").replace(":", "")) if v in text]
    return found + re.findall(r"1980-01-02|1980", text)


def with_marks_for_numbers(document: str) -> str:
    """Return the header with texts in place of dates, times, numbers and words of lists."""
    found = [
        p for p in paths(document) if p.split("/")[0] not in ("encoding", "sequenceParameters")
    ]
    for number, path in enumerate(found):
        if not any(other.startswith(f"{path}/") for other in found):
            document = changed(document, path, f"ZZ{number}PAT")
    return document


BROKEN = {
    "texts in place of numbers": with_marks_for_numbers,
    "texts in place of groups": lambda d: changed(d, "measurementInformation", "ZZ7PAT"),
    "a document type": lambda d: f"<!DOCTYPE ZZ7PAT>{d}",
    "an entity": lambda d: d.replace("ZZ7PAT", "&ZZ7PAT;"),
    "another root": lambda d: d.replace("ismrmrdHeader", "ZZ7PAT"),
    "an unknown encoding": lambda d: f'<?xml version="1.0" encoding="ZZ7PAT"?>{d}',
    "cut": lambda d: d[: d.index("ZZ7PAT") + 6],
    "too large": lambda d: d.replace("ZZ7PAT", "ZZ7PAT" * 2**22),
    "a text twice": lambda d: re.sub(r"(<patientName>.*?</patientName>)", r"\1\1", d, flags=re.S),
    "no sequence": lambda d: d.replace("sequenceParameters", "somethingElse"),
    "no matrix": lambda d: d.replace("matrixSize", "somethingElse"),
}
DATA = {
    "a scan": acquisitions,
    "not a number": lambda: with_sample(3, np.nan),
    "incomplete": lambda: acquisitions()[:-1],
    "no data": lambda: [],
    "only noise": lambda: [noise_scan()],
}


OPTIONS = counted(5, OWN_OPTIONS.encode())
"""Asks for the record of the run, too."""


def said(answer: list) -> str:
    kinds = Text | RelayedText | Record | Failure
    return "\n".join(m.text for m in answer if isinstance(m, kinds))


def reconstructed(document: str, pipeline: bytes, items: list) -> tuple[str, bool]:
    """Return the texts for the client and for the dashboard, and whether there were images."""
    budget = MemoryBudget(PLENTY)
    server = ScanServer(budget, "cpu")
    with listening(server.serve, budget=budget, answer=answer_query) as listener:
        with dial(listener) as client:
            client.sendall(opening(pipeline, document) + OPTIONS + data(items) + CLOSE)
            answer = receive_all(client)
    shown = server.record.live.state()
    assert len(shown["done"] + shown["failed"]) == 1
    images = any(isinstance(m, ismrmrd.Image) for m in answer)
    return said(answer) + json.dumps(shown, ensure_ascii=False), images


def check(written, told: str, *words: str) -> None:
    lines = written()
    assert all(lines)
    for text in (told, *lines):
        assert revealed(text) == []
    for word in words:
        assert word in told


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("kind", DATA)
def test_good_headers_do_not_get_into_the_log(written, maps_pipeline, style, kind):
    told, images = reconstructed(marked(style), maps_pipeline.read_bytes(), DATA[kind]())
    assert images == (kind == "a scan")
    check(written, told, "MRI2Qmap", *(["scan_identity"] if images else []))


@pytest.mark.parametrize("kind", BROKEN)
def test_broken_headers_do_not_get_into_the_log(written, maps_pipeline, kind):
    document = BROKEN[kind](marked("name"))
    told, images = reconstructed(document, maps_pipeline.read_bytes(), acquisitions())
    reads = ("texts in place of numbers", "texts in place of groups", "a text twice")
    assert images == (kind in reads)
    check(written, told, "MRI2Qmap" if images else "MRI2Qmap error")


@pytest.mark.parametrize("fail_with", ["nothing", "user", "bug"])
def test_nodes_do_not_log_the_header(written, fake_gadgets, fail_with):
    asked = configuration(gadget="coil_sensitivity", fail_with=fail_with)
    with running_worker() as (listener, worker):
        with dial(listener) as node:
            node.sendall(conversation(asked, marked("name"), acquisitions()))
            answer = read_answer(node)
    assert bool(answer.errors) == (fail_with != "nothing")
    shown = json.dumps(worker.record.live.state(), ensure_ascii=False)
    check(written, "\n".join(answer.errors) + shown, '"frames": 4')


def test_a_bug_in_a_gadget_does_not_log_the_header(written, fake_gadgets):
    node = external("coil_sensitivity", fail_with="bug")
    pipeline = pipeline_xml(node, external("parametric_maps")).encode()
    told, images = reconstructed(marked("name"), pipeline, acquisitions())
    assert not images
    check(written, told, "ZeroDivisionError")
    assert all("Traceback" in lines for lines in written())
