import math
import os
import re
import socket
import struct
import subprocess
import sys
import threading
from pathlib import Path

import ismrmrd
import numpy as np
import pytest
import torch
from gadgetron.external import Connection
from helpers.scans import acquisitions, expected_sum, header, readout, with_sample, with_trajectory
from helpers.server_side import configuration, conversation, read_answer

from mri2qmap.errors import Mri2QmapError
from mri2qmap.hosts import external_node, inbox
from mri2qmap.hosts.message_socket import MessageSocket
from mri2qmap.hosts.protocol import RelayedText
from mri2qmap.hosts.wire import encode
from mri2qmap.pipeline.geometry import Geometry
from mri2qmap.pipeline.items import ParameterMaps
from mri2qmap.pipeline.pipeline_file import GADGETS
from mri2qmap.pipeline.scan_header import parse_header
from mri2qmap.pipeline.scan_log import scan_identity

DEADLINE = 20


class Node(threading.Thread):
    """Runs a gadget on one end of a socket pair, like `python3 -m gadgetron`."""

    def __init__(self, gadget: str, end: socket.socket) -> None:
        super().__init__(daemon=True)
        self.gadget, self.end = gadget, end
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            with Connection(self.end) as connection:
                getattr(external_node, self.gadget)(connection)
        except BaseException as error:
            self.error = error


def serve(gadget: str, sent: bytes, hang_up: bool = False):
    """Send `sent` to a node; return its answer and the error it ended with."""
    ours, theirs = socket.socketpair()
    ours.settimeout(DEADLINE)
    node = Node(gadget, theirs)
    node.start()
    sender = threading.Thread(target=ours.sendall, args=(sent,), daemon=True)
    sender.start()
    answer = None
    if hang_up:
        sender.join(DEADLINE)
        ours.close()
    else:
        answer = read_answer(ours)
        sender.join(DEADLINE)
    node.join(DEADLINE)
    assert not node.is_alive(), "the node does not end"
    ours.close()
    return answer, node.error


@pytest.fixture(autouse=True)
def short_delay(monkeypatch):
    monkeypatch.setattr(external_node, "ERROR_DELAY", 0.01)


def test_every_gadget_has_a_node():
    for name in GADGETS:
        assert getattr(external_node, name).__name__ == name


@pytest.mark.usefixtures("fake_gadgets")
def test_node_runs_the_gadget_with_its_settings():
    config = configuration(factor=2)
    answer, error = serve("coil_sensitivity", conversation(config, header(), acquisitions()))
    assert error is None
    assert answer.errors == []
    assert answer.closed
    *came, provenance = answer.items
    assert provenance.meta["mri2qmap_item"] == "Provenance"
    for sent, received in zip(acquisitions(), came, strict=True):
        assert received.getHead() == sent.getHead()
        np.testing.assert_array_equal(received.data, 2 * sent.data)
        np.testing.assert_array_equal(received.traj, sent.traj)


def test_output_of_a_node_is_accepted_by_the_next():
    """Nodes know only their own settings: the first one checks and renumbers for all."""
    items = [*acquisitions(), readout(0, 1), readout(1, 1)]
    for item in items:
        item.idx.set, item.idx.segment = item.idx.segment, 0
    items[-2].idx.average = items[-1].idx.average = 1
    settings = {"group_counter": "set", "merged_counters": "average", "incomplete": "warn"}
    first = configuration(**settings)
    answer, error = serve("coil_sensitivity", conversation(first, header(), items))
    assert (error, answer.errors) == (None, [])
    by_kind = {m.meta["mri2qmap_item"]: m for m in answer.items if isinstance(m, ismrmrd.Image)}
    assert by_kind["Provenance"].meta["mri2qmap_incomplete"].startswith("2 frames of")
    sent = [m for m in answer.items if isinstance(m, ismrmrd.Acquisition)]
    assert sorted(a.idx.segment for a in sent) == [0] * 4 + [1] * 6
    second = conversation(configuration(coefficients=3), header(), answer.items)
    answer, error = serve("subspace_compression", second)
    assert (error, answer.errors) == (None, [])
    kinds = [m.meta["mri2qmap_item"] for m in answer.items]
    assert {"CoilMaps", "AdjointTsmi", "ToeplitzKernels", "Provenance"} <= set(kinds)


@pytest.mark.usefixtures("fake_gadgets")
def test_waveforms_pass_and_files_are_not_sent():
    wave = ismrmrd.Waveform.from_array(np.arange(4, dtype=np.uint32)[None])
    sent = conversation(configuration(), header(), [wave, *acquisitions()])
    answer, error = serve("parametric_maps", sent)
    assert error is None
    received, image = answer.items  # neither the NIfTI volume nor the DICOM object
    assert received == wave
    assert image.data[0, 0, 0, 0] == pytest.approx(expected_sum(), rel=1e-5)
    assert image.meta["ImageComment"] == "sum"


TALK = configuration(), header(), acquisitions()
UNKNOWN = struct.pack("<H", 999)
CLOSE = struct.pack("<H", 4)


@pytest.mark.usefixtures("fake_gadgets")
@pytest.mark.parametrize(
    ("sent", "words"),
    [
        (
            conversation(configuration(factr=2), *TALK[1:]),
            ['property "factr" is not known', "factor"],
        ),
        (conversation(configuration(factor="x"), *TALK[1:]), ['factor="x"', "finite number"]),
        (conversation(b"<configuration", *TALK[1:]), ["<configuration>", "not well-formed"]),
        (
            conversation(TALK[0], header(angles="1 2 3"), TALK[2]),
            ["ISMRMRD header", "number of frames"],
        ),
        (conversation(configuration(fail_with="user"), *TALK[1:]), ["cannot be amplified"]),
        (
            conversation(configuration(fail_with="bug"), *TALK[1:]),
            ["ZeroDivisionError: division by zero"],
        ),
        (conversation(*TALK[:2], with_sample(4, math.nan)), ["acquisition 4", "nan"]),
        (conversation(*TALK[:2], with_trajectory(lambda k: k[:, :0])), ["no trajectory"]),
        (conversation(*TALK, end=UNKNOWN), ["unknown identifier 999"]),
        (conversation(configuration(fail_with="bug"), *TALK[1:], end=UNKNOWN), ["ZeroDivision"]),
    ],
)
def test_error_is_sent_to_the_server_with_gadget_and_cause(sent, words):
    answer, error = serve("coil_sensitivity", sent)
    assert error is not None  # the process ends with an error, too
    assert len(answer.errors) == 1
    assert answer.errors[0].startswith("MRI2Qmap error: gadget coil_sensitivity")
    for word in words:
        assert word in answer.errors[0]
    assert answer.closed


@pytest.mark.usefixtures("fake_gadgets")
def test_error_is_sent_after_the_end_of_the_input(monkeypatch):
    failed, input_ended = threading.Event(), []

    class Watched(inbox.Inbox):
        def discard(self, timeout=None):
            failed.set()
            super().discard(timeout)
            input_ended.append(self._ended)

    monkeypatch.setattr(external_node, "Inbox", Watched)
    ours, theirs = socket.socketpair()
    ours.settimeout(DEADLINE)
    node = Node("coil_sensitivity", theirs)
    node.start()
    whole = conversation(configuration(fail_with="user"), header(), acquisitions())
    ours.sendall(whole[:-2])
    assert failed.wait(DEADLINE)
    ours.setblocking(False)
    with pytest.raises(BlockingIOError):
        ours.recv(1)
    ours.settimeout(DEADLINE)
    ours.sendall(whole[-2:])
    assert "cannot be amplified" in read_answer(ours).errors[0]
    assert input_ended == [True]
    node.join(DEADLINE)
    ours.close()


@pytest.mark.usefixtures("fake_gadgets")
@pytest.mark.parametrize(
    ("properties", "words"),
    [
        ({"transport": "reference"}, "nodes of mri2qmap worker only"),
        ({"transport": "x"}, 'transport="x"'),
        ({"factor": "-1"}, "factor must be positive"),
        ({"fail_with": "user"}, "cannot be amplified"),
    ],
)
def test_error_goes_to_the_client_as_text_at_once_if_the_node_has_a_reader(properties, words):
    ours, theirs = socket.socketpair()
    ours.settimeout(DEADLINE)
    node = Node("coil_sensitivity", theirs)
    node.start()
    whole = conversation(configuration(report="text", **properties), header(), acquisitions())
    ours.sendall(whole[:-2])
    text = MessageSocket(ours).receive(DEADLINE)
    assert isinstance(text, RelayedText)  # while the input goes on
    assert text.text.startswith("MRI2Qmap error: gadget coil_sensitivity")
    assert words in text.text
    ours.sendall(whole[-2:])
    assert [words in error for error in read_answer(ours).errors] == [True]
    node.join(DEADLINE)
    ours.close()


@pytest.mark.usefixtures("fake_gadgets")
@pytest.mark.parametrize("missing", [1, 2, 3, 100])
def test_node_ends_when_the_server_disconnects(missing):
    whole = conversation(configuration(), header(), acquisitions())
    _, error = serve("coil_sensitivity", whole[:-missing], hang_up=True)
    assert isinstance(error, ConnectionError)


@pytest.mark.usefixtures("fake_gadgets")
@pytest.mark.parametrize(
    ("silence", "words"), [(0.3, "no data came for 0.3 s"), (-1, "silence -1: a positive number")]
)
def test_silent_scan_is_given_up(silence, words):
    half = conversation(configuration(silence=silence), header(), acquisitions()[:3], end=b"")
    answer, error = serve("coil_sensitivity", half + (b"" if silence > 0 else CLOSE))
    assert words in str(error)
    assert words in answer.errors[0]


@pytest.mark.usefixtures("fake_gadgets")
def test_a_node_that_waits_for_other_nodes_is_not_silent():
    ours, theirs = socket.socketpair()
    ours.settimeout(DEADLINE)
    node = Node("parametric_maps", theirs)
    node.start()
    whole = conversation(configuration(silence=0.2), header(), acquisitions())
    ours.sendall(whole[:-2])
    node.join(0.8)
    assert node.is_alive()
    ours.sendall(whole[-2:])
    answer = read_answer(ours)
    assert (answer.errors, len(answer.items)) == ([], 1)
    node.join(DEADLINE)
    ours.close()


@pytest.mark.usefixtures("fake_gadgets")
def test_incomplete_item_is_an_error():
    maps = parameter_maps()
    answer, error = serve(
        "parametric_maps", conversation(configuration(), header(), encode(maps)[:2])
    )
    assert isinstance(error, Mri2QmapError)
    assert "within an item of type ParameterMaps" in answer.errors[0]


def parameter_maps() -> ParameterMaps:
    shape = (8, 8, 8)
    return ParameterMaps(
        t1=torch.linspace(0.3, 4, 512).reshape(shape),
        t2=torch.linspace(0.02, 0.3, 512).reshape(shape),
        proton_density=torch.ones(shape, dtype=torch.complex64),
        match_quality=torch.ones(shape),
        weighted=torch.ones(3, *shape),
        geometry=Geometry(shape, (2e-3, 2e-3, 2e-3)),
    )


def test_gadget_runs_as_a_process_of_the_server():
    with socket.create_server(("localhost", 0)) as listener:
        listener.settimeout(60)
        package = Path(external_node.__file__).parents[2]
        path = os.pathsep.join([str(package), os.environ.get("PYTHONPATH", "")])
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "gadgetron", str(listener.getsockname()[1])),
                *("mri2qmap.hosts.external_node", "parametric_maps"),
            ],
            env={**os.environ, "PYTHONPATH": path},
            stderr=subprocess.PIPE,
        )
        try:
            connection, _ = listener.accept()
            connection.settimeout(60)
            with connection:
                config = configuration(dicom="none", synthetic_images="false")
                connection.sendall(conversation(config, header(), encode(parameter_maps())))
                answer = read_answer(connection)
            _, log = process.communicate(timeout=60)
        finally:
            process.kill()
            process.communicate()
    assert process.returncode == 0, log.decode()
    identity = scan_identity(header().encode(), parse_header(header()))
    line = rf"\d{{4}}-\d\d-\d\dT\S+Z INFO \[{identity} parametric_maps\] .*1 items in"
    assert re.search(line, log.decode())
    assert answer.errors == []
    assert answer.closed
    t1 = next(image for image in answer.items if "T1" in str(image.meta))
    np.testing.assert_allclose(t1.data[0], 1e3 * parameter_maps().t1.numpy(), rtol=1e-6)
