"""OpenRecon and FIRE hosts: their conversation byte by byte, and the client of others."""

import json
import os
import re
import socket
import struct
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import h5py
import ismrmrd
import numpy as np
import pytest
from helpers.live import CLOSE, DEADLINE, counted, data, dial, scan_server

from mri2qmap.files.mrd_file import MrdFile
from mri2qmap.hosts.deadlines import DEFAULT_DEADLINES
from mri2qmap.hosts.error_text import ERROR_PREFIX, reported_error
from mri2qmap.hosts.protocol import Text
from mri2qmap.pipeline.pipeline_file import parse_pipeline

CLIENT = os.environ.get("MRI2QMAP_FIRE_CLIENT", "")
TEXT, IMAGE = 5, 1022


@pytest.fixture(scope="module")
def scanned(make_scan):
    """Header, items and file of a scan."""
    _, items, _, path = make_scan(noise=0.05, groups=1)
    with MrdFile(path) as file:
        return file.header, items, path


@pytest.fixture(scope="module")
def server():
    with scan_server() as listener:
        yield listener


def name(configuration: str) -> bytes:
    return struct.pack("<H1024s", 1, configuration.encode())


def sent_by_host(configuration: str, header: bytes, text: str | None) -> bytes:
    """All up to the data, as hosts send it: NULs after header and text."""
    said = b"" if text is None else counted(TEXT, text.encode() + b"\0")
    return name(configuration) + counted(3, header + b"\0") + said


def parameters(**values: object) -> str:
    return json.dumps({"version": "1.1.0", "parameters": values})


class HostAnswer:
    """What a host receives: texts, and header, attributes and pixels of images."""

    def __init__(self, connection: socket.socket) -> None:
        self.texts: list[str] = []
        self.images: list[tuple[ismrmrd.ImageHeader, ismrmrd.Meta, np.ndarray]] = []
        with connection.makefile("rb") as stream:
            while (identifier := self._number(stream, "<H")) != 4:
                if identifier == TEXT:
                    self.texts.append(stream.read(self._number(stream, "<I")).decode())
                elif identifier == IMAGE:
                    self._read_image(stream)
                else:  # a host knows no other messages
                    pytest.fail(f"a message {identifier} arrived")
            assert stream.read() == b""

    @staticmethod
    def _number(stream, form: str) -> int:
        (number,) = struct.unpack(form, stream.read(struct.calcsize(form)))
        return number

    def _read_image(self, stream) -> None:
        head = ismrmrd.ImageHeader.from_buffer_copy(stream.read(198))
        meta = ismrmrd.Meta.deserialize(stream.read(self._number(stream, "<Q")).decode())
        assert (head.data_type, head.channels, head.matrix_size[2]) == (1, 1, 1)
        shape = (head.matrix_size[1], head.matrix_size[0])
        pixels = np.frombuffer(stream.read(2 * shape[0] * shape[1]), "<u2").reshape(shape)
        self.images.append((head, meta, pixels))

    @property
    def series(self) -> dict[str, np.ndarray]:
        """Volumes (slice, y, x), by their description."""
        found: dict[str, list[np.ndarray]] = {}
        for head, meta, pixels in self.images:
            slices = found.setdefault(meta["SeriesDescription"], [])
            assert head.slice == len(slices)
            slices.append(pixels)
        return {description: np.stack(slices) for description, slices in found.items()}


def ask(server, *parts: bytes) -> HostAnswer:
    with dial(server) as connection:
        connection.settimeout(4 * DEADLINE)
        connection.sendall(b"".join(parts))
        return HostAnswer(connection)


def test_conversation_of_a_host(server, scanned):
    header, items, _ = scanned
    text = parameters(config="svdmrf", uncertainty="True", syntheticimages=False, iterations=0)
    answer = ask(server, sent_by_host("openrecon", header, text), data(items), CLOSE)
    series = answer.series
    assert len(series) == 6  # T1, T2, proton density, match quality, two standard deviations
    assert sum("standard deviation" in description for description in series) == 2
    assert all("SVDMRF" in description for description in series)
    assert {volume.shape for volume in series.values()} == {(16, 16, 16)}
    (t1,) = (v for description, v in series.items() if description.startswith("T1 map"))
    assert 500 < np.median(t1[t1 > 0]) < 2000  # ms
    for head, meta, _ in answer.images:
        assert head.image_type == ismrmrd.IMTYPE_MAGNITUDE
        assert meta["Keep_image_geometry"] == "1"
        assert meta["NumberOfSlices"] == "16"
        assert meta["DataRole"][0] == "Quantitative"
    assert answer.texts
    assert all(text.startswith("DBG MRI2Qmap: ") for text in answer.texts)
    assert not any(map(reported_error, answer.texts))
    (chosen,) = (text for text in answer.texts if "OpenRecon parameters" in text)
    assert "config=svdmrf, iterations=0, uncertainty=true" in chosen


def test_pixels_are_those_of_the_same_pipeline_without_a_host(server, scanned):
    """A FIRE client names the pipeline, and its parameters keep it."""
    header, items, _ = scanned
    named = ask(
        server, sent_by_host("svdmrf", header, parameters(maskthreshold=0)), data(items), CLOSE
    )
    chosen = ask(
        server,
        sent_by_host("openrecon.xml", header, parameters(config="svdmrf", maskthreshold="0")),
        data(items),
        CLOSE,
    )
    assert named.series.keys() == chosen.series.keys()
    for description, volume in named.series.items():
        assert np.array_equal(volume, chosen.series[description])
        if description.startswith("T1 map"):
            assert (volume > 0).mean() > 0.9  # without a mask


@pytest.mark.parametrize(
    ("configuration", "text", "words"),
    [
        ("openrecon", parameters(confg="lrtv"), 'did you mean "config"'),
        ("openrecon", parameters(config="b1map"), "config is 'b1map': one of mri2qmap"),
        ("openrecon", parameters(iterations=1000), "iterations is 1000: a whole number"),
        ("openrecon", parameters(config="svdmrf", iterations=3), "nothing that it changes"),
        ("openrecon", '{"parameters": "config"}', "an object with a value"),
        ("openrecon", '{"parameters": {"config": "lrtv", "config": "llr"}}', "given twice"),
        ("openrecon", "hello", "text after the header is 'hello': JSON with an object"),
        ("openrecon", "", "JSON with an object"),
        ("openrecon", '{"version": "1.1.0"}', "JSON with an object"),
        ("openrecon", '{"mri2qmap": {"dicon": true}}', 'did you mean "dicom"'),
        ("lrtv", parameters(customconfig=""), '"customconfig" is not known'),
        ("openrecon/lrtv", parameters(), "there is no pipeline"),
    ],
)
def test_wrong_parameters_end_the_scan_with_an_error(server, scanned, configuration, text, words):
    header, items, _ = scanned
    answer = ask(server, sent_by_host(configuration, header, text), data(items[:5]), CLOSE)
    assert answer.images == []
    (said,) = answer.texts
    assert words in said
    assert reported_error(said)
    flag = "" if "/" in configuration else "ERR "
    assert said.startswith(f"{flag}{ERROR_PREFIX}: ")


def test_parameters_after_data_are_refused(server, scanned):
    header, items, _ = scanned
    late = counted(TEXT, parameters(config="svdmrf").encode() + b"\0")
    for configuration in ("openrecon", "svdmrf"):
        answer = ask(
            server, sent_by_host(configuration, header, None), data(items[:3]), late, CLOSE
        )
        assert answer.images == []
        assert "arrived within the scan; they are expected directly after" in answer.texts[-1]


def test_parameters_without_a_scan_are_no_crash(server, scanned):
    header, _, _ = scanned
    answer = ask(server, sent_by_host("openrecon", header, parameters()), CLOSE)
    assert "has no imaging acquisitions" in answer.texts[-1]
    answer = ask(server, sent_by_host("openrecon", header, None), CLOSE)
    assert "config=mri2qmap" in answer.texts[0]
    assert "has no imaging acquisitions" in answer.texts[-1]


def test_a_host_that_sends_no_parameters_gets_those_of_the_label(server, scanned):
    header, _, _ = scanned
    noise = ismrmrd.Acquisition.from_array(np.zeros((4, 8), np.complex64))
    answer = ask(server, sent_by_host("openrecon", header, None), data([noise]), CLOSE)
    assert "config=mri2qmap, iterations=0, uncertainty=false" in answer.texts[0]


def test_a_host_may_wait_with_its_data_for_longer_than_with_its_parameters(scanned):
    header, _, _ = scanned
    with (
        scan_server(deadlines=replace(DEFAULT_DEADLINES, handshake=0.5)) as server,
        dial(server) as connection,
    ):
        connection.sendall(sent_by_host("openrecon", header, None))
        with connection.makefile("rb") as stream:
            assert stream.read(2) == struct.pack("<H", TEXT)
            (length,) = struct.unpack("<I", stream.read(4))
            assert b"config=mri2qmap" in stream.read(length)
        connection.sendall(CLOSE)


def test_a_named_pipeline_without_parameters_stays_as_it_is(server, scanned):
    """Only a text with parameters makes a client an OpenRecon host."""
    header, items, _ = scanned
    for text in (None, "hello"):
        with dial(server) as connection:
            connection.sendall(sent_by_host("lrtv", header, text) + data(items[:2]) + CLOSE)
            content = connection.makefile("rb").read()
        assert b"OpenRecon" not in content
        assert b"DBG" not in content
        assert ERROR_PREFIX.encode() in content  # of an incomplete scan


class Queue:
    """Takes one scan, and says so."""

    def receive(self, header, pipeline, scan, items, memory, peer):
        self.pipeline, self.document = pipeline
        self.count = sum(1 for _ in items)
        return "abc"

    def answer(self, identifier, wishes):
        assert not wishes.dicom
        yield Text(f"{identifier} waits")


def test_what_the_operator_chose_goes_into_the_queue(scanned):
    header, items, _ = scanned
    queue = Queue()
    text = parameters(config="lrtv", iterations=3)
    with scan_server(queue=queue) as server:
        answer = ask(server, sent_by_host("queue_openrecon", header, text), data(items), CLOSE)
    assert answer.texts[-1] == "DBG abc waits"
    assert queue.count == len(items)
    for pipeline in (queue.pipeline, parse_pipeline(queue.document, "lrtv", "test")):
        settings = {node.name: node.settings for node in pipeline.nodes}
        assert settings["toeplitz_cg"].prior_iterations == 3
        assert settings["parametric_maps"].mrd_layout == "slices"


@pytest.mark.skipif(
    not CLIENT, reason="MRI2QMAP_FIRE_CLIENT does not name a folder of python-ismrmrd-server"
)
@pytest.mark.parametrize("wrong", [False, True])
def test_client_of_python_ismrmrd_server(server, scanned, tmp_path, wrong):
    _, _, scan = scanned
    text = parameters(config="svdmrf", uncertainty="yes" if wrong else "True")
    (tmp_path / "openrecon.json").write_text(text)
    command = [
        *(sys.executable, str(Path(CLIENT) / "client.py"), str(scan), "--config=openrecon"),
        *("-a", "127.0.0.1", "-p", str(server.port), "-o", "maps.h5", "-G", "maps"),
    ]
    run = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, timeout=DEADLINE, check=False
    )
    said = run.stdout + run.stderr
    assert run.returncode == 0, said
    assert "Session complete" in said
    assert "Traceback" not in said
    received = int(re.search(r"Received +(\d+) images", said)[1])
    if wrong:
        assert received == 0
        assert "ERR MRI2Qmap error: OpenRecon parameter uncertainty is 'yes'" in said
        return
    assert received == 9 * 16
    with h5py.File(tmp_path / "maps.h5") as file:
        series = [group for key, group in file["maps"].items() if key.startswith("image_")]
        assert {group["data"].shape for group in series} == {(16, 1, 1, 16, 16)}
        assert {group["data"].dtype for group in series} == {np.dtype(np.uint16)}
