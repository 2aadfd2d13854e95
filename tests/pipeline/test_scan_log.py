"""Time, peer and scan in log lines."""

import io
import json
import logging
import logging.handlers
import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from helpers.chain_server import Chain
from helpers.live import (
    CLOSE,
    counted,
    data,
    dial,
    environment,
    opening,
    receive_all,
    running_worker,
    scan_server,
)
from helpers.scans import GainSettings, acquisitions, external, header, pipeline_xml
from helpers.server_side import configuration, conversation, read_answer
from helpers.waiting import DEADLINE, WatchedBudget

from mri2qmap.hosts.client import RemoteReconstruction
from mri2qmap.hosts.connecting import connect
from mri2qmap.hosts.protocol import ConfigDocument, Record, Text
from mri2qmap.pipeline.memory_plan import planned_bytes
from mri2qmap.pipeline.pipeline_file import pipeline_document
from mri2qmap.pipeline.progress import TerminalReporter, logged_lines
from mri2qmap.pipeline.scan_header import ScanInfo, parse_header
from mri2qmap.pipeline.scan_log import (
    LogFormatter,
    TimedLines,
    add_log_context,
    configure_logging,
    printable,
    scan_identity,
)

TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"
FOLDER = Path(__file__).parents[1] / "hosts" / "recorded"
NAMED = "<patientName>Doe^Jane</patientName><patientID>12-34</patientID>"


@pytest.fixture
def log():
    """Log lines of the program, formatted as in a server."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(LogFormatter())
    logger = logging.getLogger("mri2qmap")
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield lambda: stream.getvalue().splitlines()
    logger.removeHandler(handler)
    logger.setLevel(before)


TWO_NODES = (
    "<configuration><stream>"
    + "".join(
        f"<external><configuration><property name='gadget' value='{gadget}'/>"
        "<property name='report' value='text'/></configuration></external>"
        for gadget in ("coil_sensitivity", "parametric_maps")
    )
    + "</stream></configuration>"
).encode()


@pytest.fixture
def chatty(monkeypatch, fake_gadgets):
    """Replace the first gadget by one that logs two lines for each of 200 acquisitions."""

    def chatter(items, scan, settings):
        for number in range(200):
            scan.report.log(f"acquisition {number}: chatter\nof it")
        yield from items

    chatter.__annotations__["settings"] = GainSettings
    monkeypatch.setattr(sys.modules["mri2qmap.coil_sensitivity"], "coil_sensitivity", chatter)


def test_scan_name_contains_no_patient_data():
    measured = "<measurementInformation><measurementID>M7</measurementID>"
    measured += "<patientPosition>HFS</patientPosition></measurementInformation>"
    plain = header().encode()
    first = scan_identity(plain, parse_header(plain))
    assert re.fullmatch("scan [0-9a-f]{8}", first)
    assert scan_identity(plain + b"\0", parse_header(plain)) == first
    other = header().replace("<experimental", measured + "<experimental").encode()
    assert re.fullmatch("scan [0-9a-f]{8} measurement 7", scan_identity(other, parse_header(other)))
    named = header().replace(
        "<experimental", f"<subjectInformation>{NAMED}</subjectInformation><experimental"
    )
    # a name could be recovered from a short digest by trying names
    assert scan_identity(named.encode(), parse_header(named)) == first
    later = header().replace(
        "<experimental",
        "<studyInformation><studyDate>2026-11-28</studyDate><studyTime>10:11:12</studyTime>"
        "</studyInformation><experimental",
    )
    assert scan_identity(later.encode(), parse_header(later)) != first


@pytest.mark.parametrize(
    ("measurement", "shown"),
    [
        ("66016_28683815_28683820_24", " measurement 24"),  # patient and study at the scanner
        ("28683815_28683820_24", " measurement 24"),
        ("45387_33545_33552_00064", " measurement 64"),
        ("M7", " measurement 7"),
        ("0", " measurement 0"),
        ("DOE^JANE 3", " measurement 3"),
        ("ZZPAT JOHN 17", " measurement 17"),
        ("ZZPAT_JOHN", ""),
        ("17 ZZPAT", ""),
        ("ZZPAT_JOHN_1980-01-02", ""),
        ("2.1.80", ""),
        ("2 JAN 80", ""),
        ("ZZPAT 1980", ""),
        ("ZZPAT0102", ""),
        ("ZZPAT3112", ""),
        ("ZZPAT19800102", ""),
        ("ZZPAT 123456789", ""),
        ("ZZPAT\u0661\u0669\u0668\u06602", ""),
        ("scan of 12-34", ""),
        ("PAT_0777", ""),  # the accession number ends so
        ("PAT 56789_5678", ""),  # a part of the patient's identifier
        ("", ""),
    ],
)
def test_measurement_number_contains_no_patient_data(measurement, shown):
    xml = header().replace(
        "<experimental",
        f"<subjectInformation>{NAMED.replace('12-34', '12-56789')}</subjectInformation>"
        "<studyInformation><accessionNumber>40777</accessionNumber></studyInformation>"
        f"<measurementInformation><measurementID>{measurement}</measurementID><patientPosition>HFS</patientPosition>"
        "</measurementInformation><experimental",
    )
    identity = scan_identity(xml.encode(), parse_header(xml))
    assert re.fullmatch(f"scan [0-9a-f]{{8}}{shown}", identity)


def test_scan_name_is_the_same_after_a_gadgetron_server():
    """Its nodes receive a rewritten header, in which TE is 0.699999988."""
    documents = []
    for name in ("scan_from_client", "scan_to_node_0"):
        content = (FOLDER / f"{name}.bin").read_bytes()
        start = content.index(b"<ismrmrdHeader")
        end = content.index(b"</ismrmrdHeader>") + len(b"</ismrmrdHeader>")
        documents.append(content[start:end])
    sent, passed_on = documents
    assert b"0.699999988" in passed_on
    assert b"0.699999988" not in sent
    assert len({scan_identity(d, parse_header(d)) for d in documents}) == 1


def test_unreadable_header_has_a_name():
    assert re.fullmatch("scan [0-9a-f]{8}", scan_identity(b"<x/>"))


@pytest.mark.usefixtures("fake_gadgets")
def test_server_lines_contain_time_peer_and_scan(log, small_pipeline):
    headers = [header(), header(ti="21")]
    records = []
    with scan_server() as listener:
        for xml in headers:
            remote = RemoteReconstruction(
                connect("127.0.0.1", listener.port),
                ConfigDocument(pipeline_document(small_pipeline)),
                xml.encode(),
            )
            list(remote.run(acquisitions()))
            records.append(remote)
    for xml, remote in zip(headers, records, strict=True):
        identity = scan_identity(xml.encode(), parse_header(xml))
        lines = [line for line in log() if identity in line]
        assert lines
        for line in lines:
            assert re.match(rf"{TIME} INFO \[127\.0\.0\.1:\d+ #\d+ {identity}\] mri2qmap", line)
        assert remote.record["scan_identity"] == identity
        assert all(re.match(f"{TIME} ", line) for line in remote.record["log"])
        assert all(re.match(f"{TIME} ", line) for line in remote.texts.stamped())
        assert not any(text.endswith("\n") for text in remote.texts)


@pytest.mark.usefixtures("fake_gadgets")
def test_node_lines_contain_gadget_and_scan(log):
    identity = scan_identity(header().encode(), parse_header(header()))
    asked = configuration(gadget="coil_sensitivity", fail_with="user")
    with running_worker() as (listener, _), dial(listener) as node:
        node.sendall(conversation(asked, header(), acquisitions()))
        assert read_answer(node).errors
    (error, *_) = [line for line in log() if "cannot be amplified" in line]
    assert re.match(rf"{TIME} ERROR \[127\.0\.0\.1:\d+ #\d+ {identity} coil_sensitivity\] ", error)


@pytest.mark.usefixtures("fake_gadgets")
@pytest.mark.parametrize("fail_with", ["user", "bug"])
def test_error_is_logged_once_and_every_line_names_the_scan(log, fail_with):
    node = external("coil_sensitivity", fail_with=fail_with)
    document = pipeline_xml(node, external("parametric_maps")).encode()
    identity = scan_identity(header().encode(), parse_header(header()))
    with scan_server() as listener, dial(listener) as client:
        client.sendall(opening(document) + data() + CLOSE)
        assert any("MRI2Qmap error" in m.text for m in receive_all(client))
    lines = [line for line in log() if " ERROR " in line]
    for line in lines:
        assert re.match(rf"{TIME} ERROR \[127\.0\.0\.1:\d+ #\d+ {identity}\] mri2qmap\S*: ", line)
    assert sum("MRI2Qmap error" in line or "cannot be ampl" in line for line in lines[:1]) == 1
    tracebacks = sum("Traceback" in line for line in lines)
    assert (len(lines) == 1) == (fail_with == "user")
    assert tracebacks == (
        0 if fail_with == "user" else 2
    )  # of the gadget, and of the resulting error


def test_warnings_contain_no_patient_data(log, maps_pipeline):
    subject = f"{NAMED}<patientBirthdate>14.02.1970</patientBirthdate>"
    subject += "<patientGender>Jane</patientGender><patientWeight_kg>x</patientWeight_kg>"
    xml = header().replace(
        "<experimental", f"<subjectInformation>{subject}</subjectInformation><experimental"
    )
    with scan_server() as listener:
        document = ConfigDocument(pipeline_document(maps_pipeline))
        remote = RemoteReconstruction(
            connect("127.0.0.1", listener.port), document, xml.encode(), TerminalReporter()
        )
        list(remote.run(acquisitions()))
    for lines in (log(), remote.texts, remote.record["log"]):
        for word in ("patientBirthdate", "patientGender", "patientWeight_kg"):
            assert any(word in line for line in lines)
        for value in ("1970", "Jane", "Doe", "12-34"):
            assert not any(value in line for line in lines)


@pytest.mark.usefixtures("fake_gadgets")
def test_error_in_the_header_names_the_scan(log):
    node = configuration(gadget="coil_sensitivity")
    for running in (scan_server, running_worker):
        with running() as started:
            listener = started[0] if isinstance(started, tuple) else started
            with dial(listener) as peer:
                if running is scan_server:
                    document = pipeline_xml(external("parametric_maps")).encode()
                    peer.sendall(opening(document, "<x/>") + CLOSE)
                else:
                    peer.sendall(opening(node, "<x/>") + CLOSE)
                while peer.recv(2**16):
                    pass
    lines = [line for line in log() if "root element" in line]
    assert len(lines) == 2
    for line in lines:
        assert scan_identity(b"<x/>") in line


@pytest.mark.usefixtures("fake_gadgets")
def test_client_and_nodes_use_the_same_scan_name(log):
    """The log also names a scan that waits for memory."""
    headers = [header(), header(ti="21")]
    size = planned_bytes(ScanInfo.from_header(headers[0]))
    budget = WatchedBudget(size + 1, patience=0)
    with running_worker(budget) as (listener, _):
        first = Chain(listener, TWO_NODES, headers[0])
        start, *rest = acquisitions()
        first.send([start], close=False)
        assert budget.held.wait(DEADLINE)
        second = Chain(listener, TWO_NODES, headers[1])
        second.send(acquisitions())
        second.finish()
        first.send(rest)
        first.finish()
    assert first.errors == []
    assert second.errors
    names = [scan_identity(xml.encode(), parse_header(xml)) for xml in headers]
    of_first, of_second = ([line for line in log() if f" {name}" in line] for name in names)
    for gadget in ("coil_sensitivity", "parametric_maps"):
        assert any(f"{names[0]} {gadget}]" in line for line in of_first)
        assert any(f"{names[1]} {gadget}]" in line for line in of_second)
    assert any("memory" in line for line in of_second)
    assert all(any(name in line for name in names) for line in log() if "127.0.0.1" in line)


@pytest.mark.parametrize("where", ["serve", "worker"])
def test_similar_lines_are_counted_for_clients_and_logs(log, chatty, where):
    if where == "serve":
        document = pipeline_xml(external("coil_sensitivity"), external("parametric_maps"))
        with scan_server() as listener, dial(listener) as client:
            wish = counted(5, b'{"mri2qmap": {"dicom": false, "record": true}}')
            client.sendall(opening(document.encode()) + wish + data() + CLOSE)
            answer = receive_all(client)
        texts = [m.text for m in answer if isinstance(m, Text)]
        (record,) = (json.loads(m.text) for m in answer if isinstance(m, Record))
        kept = [line.partition(" ")[2] for line in record["log"]]
        assert sum("chatter" in line for line in kept) == 4
    else:
        with running_worker() as (listener, _):
            chain = Chain(listener, TWO_NODES, header())
            chain.send(acquisitions())
            chain.finish()
        texts = chain.texts
    told = [text for text in texts if "chatter" in text]
    assert told == [
        *(f"MRI2Qmap: acquisition {number}: chatter\\nof it\n" for number in range(3)),
        "MRI2Qmap: ... and 197 more similar lines, the last: acquisition 199: chatter\\nof it\n",
    ]
    assert all(text.endswith("\n") and text.count("\n") == 1 for text in texts)
    assert sum("chatter" in line for line in log()) == 4


def test_warnings_of_a_server_go_to_its_log(monkeypatch, tmp_path):
    """One line with time and level, as in a separate process."""
    code = (
        "import os, signal, threading, warnings\n"
        "from mri2qmap.cli import main, serving\n"
        "def warned(text):\n"
        "    if 'listening' in text:\n"
        "        warnings.warn('an old\\nfunction', stacklevel=1)\n"
        "        os.kill(os.getpid(), signal.SIGTERM)\n"
        "serving.say = warned\n"
        "raise SystemExit(main.main(['worker', '--port', '0', '--device', 'cpu']))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, env=environment()
    )
    assert done.returncode == 0, done.stderr
    (line,) = (line for line in done.stderr.splitlines() if "an old" in line)
    assert re.match(rf"{TIME} WARNING \[-\] py\.warnings: .*UserWarning: an old\\nfunction", line)


@pytest.fixture
def levels():
    """Put the levels back that `configure_logging` changes."""
    loggers = [logging.getLogger(), logging.getLogger("mri2qmap")]
    before = [logger.level for logger in loggers]
    yield
    for logger, level in zip(loggers, before, strict=True):
        logger.setLevel(level)


@pytest.mark.usefixtures("levels")
def test_handlers_of_an_embedding_program_are_unchanged():
    handler = logging.handlers.MemoryHandler(10)
    formatter = logging.Formatter("theirs %(message)s")
    handler.setFormatter(formatter)
    root = logging.getLogger()
    root.addHandler(handler)
    try:
        configure_logging()
    finally:
        root.removeHandler(handler)
    assert handler.formatter is formatter


@pytest.mark.usefixtures("levels")
def test_other_packages_log_warnings_only_though_gadgetron_asks_for_all():
    logging.getLogger().setLevel(logging.DEBUG)  # as python -m gadgetron does
    configure_logging()
    assert logging.getLogger("highdicom.base").getEffectiveLevel() == logging.WARNING
    assert logging.getLogger("mri2qmap.hosts").getEffectiveLevel() == logging.INFO


@pytest.mark.usefixtures("fake_gadgets")
def test_texts_for_the_standard_client_end_with_a_newline(small_pipeline):
    texts = []

    class Stock(RemoteReconstruction):
        """Prints texts without a separator."""

        def _process(self, message):
            if isinstance(message, Text):
                texts.append(message.text)
            return super()._process(message)

    with scan_server() as listener:
        document = ConfigDocument(pipeline_document(small_pipeline))
        remote = Stock(connect("127.0.0.1", listener.port), document, header().encode())
        list(remote.run(acquisitions()))
    assert texts
    assert all(text.endswith("\n") and text.count("\n") == 1 for text in texts)


def test_text_of_a_peer_cannot_imitate_a_log_line(log):
    logging.getLogger("mri2qmap.test").error("bad name %s", "x\n2026-01-01 ERROR \x1b[31mfire")
    (line,) = log()
    assert line.endswith(r"bad name x\n2026-01-01 ERROR \x1b[31mfire")
    assert printable("Ünïcode ok") == "Ünïcode ok"


def test_log_context_is_per_thread(log):
    def work():
        add_log_context(peer="10.0.0.1:7", scan="scan 1")
        logging.getLogger("mri2qmap.test").error("one")

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    logging.getLogger("mri2qmap.test").error("two")
    one, two = log()
    assert "[10.0.0.1:7 scan 1]" in one
    assert "[-]" in two


def test_lines_of_a_run_have_time_stamps():
    reporter = TerminalReporter()
    reporter.log("first")
    reporter.lines.extend(["second"])
    assert reporter.lines == ["first", "second"]
    stamped = logged_lines(reporter)
    assert json.loads(json.dumps(stamped)) == stamped
    for line, text in zip(stamped, ("first", "second"), strict=True):
        assert re.fullmatch(f"{TIME} {text}", line)
    with pytest.raises(TypeError):
        TimedLines().insert(0, "earlier")
