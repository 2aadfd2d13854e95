import socket
import threading

import ismrmrd
import numpy as np
import pytest
from helpers.live import CLOSE
from helpers.scans import external, header, pipeline_xml
from helpers.server_side import message as item_bytes
from helpers.waiting import DEADLINE

from mri2qmap.errors import Mri2QmapError
from mri2qmap.hosts.external_node import node_properties
from mri2qmap.hosts.inbox import Inbox
from mri2qmap.hosts.message_socket import MessageSocket
from mri2qmap.hosts.protocol import ConfigDocument, ConfigFile
from mri2qmap.hosts.session_opening import read_opening
from mri2qmap.machine import giving_way
from mri2qmap.machine.cancellation import Cancellation
from mri2qmap.machine.file_access import INSTALLED_FILES
from mri2qmap.machine.networks import network_of
from mri2qmap.pipeline import reading_turns
from mri2qmap.pipeline.reading_turns import reading_turn
from mri2qmap.pipeline.scan_header import ScanInfo, parse_scan_header
from mri2qmap.pipeline.scan_limits import SCAN_LIMITS
from mri2qmap.pipeline.scan_log import own_log_context
from mri2qmap.pipeline.scan_profile import ScanProfile
from mri2qmap.pipeline.standard_scan import standard_scan

PEER = "10.0.0.7:5021"


@pytest.fixture
def turns(monkeypatch):
    """Owners and lengths of the turns, and the pauses in them."""
    taken, pauses = [], []
    monkeypatch.setattr(giving_way.time, "sleep", pauses.append)
    for turns in (reading_turns._short_turns, reading_turns._long_turns):

        def recorded(owner, seconds, turn=turns.turn):
            taken.append((owner, seconds))
            return turn(owner, seconds)

        monkeypatch.setattr(turns, "turn", recorded)
    return taken, pauses


def with_elements(count):
    return header().encode().replace(b"</ismrmrdHeader>", b"<a/>" * count + b"</ismrmrdHeader>")


@pytest.mark.parametrize("count", [0, 20_000])
def test_headers_of_peers_are_read_in_turns_and_with_pauses(turns, count):
    taken, pauses = turns
    with own_log_context(peer=PEER):
        scan = parse_scan_header(with_elements(count), "cpu")
    assert scan.matrix == ScanInfo.from_header(header(), "cpu").matrix
    ((owner, seconds),) = taken
    assert owner == "10.0.0.7"
    assert seconds == pytest.approx(1e-5 * count / 2, rel=0.3, abs=1e-3)
    assert pauses or not count


def test_pipelines_of_peers_are_read_in_turns(turns, fake_gadgets):
    document = pipeline_xml(external("coil_sensitivity"), external("parametric_maps")).encode()
    with own_log_context(peer=PEER):
        read_opening(lambda: ConfigDocument(document), INSTALLED_FILES)
        node_properties(b"<configuration/>", "pnp_admm")
    assert [owner for owner, _ in turns[0]] == ["10.0.0.7"] * 2


def test_pipelines_that_the_site_keeps_are_read_in_turns_of_the_peer_that_names_them(turns):
    with own_log_context(peer=PEER):
        read_opening(lambda: ConfigFile("lrtv"), INSTALLED_FILES)
    ((owner, seconds),) = turns[0]
    assert owner == "10.0.0.7"
    assert seconds > 1e-4


def test_metadata_of_images_of_peers_are_read_in_turns(turns):
    image = ismrmrd.Image.from_array(np.zeros((1, 1, 1, 1), np.float32))
    image.meta = ismrmrd.Meta({"name": "value"})
    theirs, ours = socket.socketpair()
    with theirs, own_log_context(peer=PEER):
        peer = MessageSocket(ours)
        theirs.sendall(item_bytes(image) + CLOSE)
        assert [dict(message.meta) for message in Inbox(peer)] == [{"name": "value"}]
        peer.drop()
    assert [owner for owner, _ in turns[0]] == ["10.0.0.7"]


def test_documents_of_this_machine_are_read_at_once(turns):
    with own_log_context():
        parse_scan_header(with_elements(20_000), "cpu")
    assert turns == ([], [])


def test_a_short_document_does_not_wait_for_a_long_one():
    with own_log_context(peer=PEER), reading_turn(b"<a/>" * 100_000):
        assert reading_turns._long_turns._held
        other = threading.Thread(target=read_short)
        other.start()
        other.join(DEADLINE)
        assert not other.is_alive()


def read_short():
    with own_log_context(peer="10.0.0.8:1"), reading_turn(b"<a/>"):
        assert reading_turns._short_turns._held


def test_a_turn_within_a_turn_is_none(turns):
    with own_log_context(peer=PEER), reading_turn(b"<a/>"), reading_turn(b"<a/>"):
        pass
    assert len(turns[0]) == 1


def test_reading_ends_when_the_peer_is_gone():
    cancellation = Cancellation()
    cancellation.cancel(ConnectionError("the peer is gone"))
    document = with_elements(60_000)
    with own_log_context(peer=PEER), cancellation.active(), pytest.raises(ConnectionError):
        parse_scan_header(document, "cpu")


@pytest.mark.parametrize(
    ("host", "network"),
    [
        ("10.0.0.7", "10.0.0.7"),
        ("::ffff:10.0.0.7", "10.0.0.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::7%eth0", "2001:db8:1:2::/64"),
        ("::1", "::1"),
        ("peer", "peer"),
        ("", ""),
    ],
)
def test_addresses_that_one_peer_can_choose_count_as_one(host, network):
    assert network_of(host) == network


class TestNumbersOfAScanProfile:
    """A small header or pipeline must not become one of hundreds of thousands of elements."""

    def header_with(self, count):
        numbers = "1 " * count
        parameter = f"<name>train</name><value>{numbers}</value>"
        extra = f"<userParameters><userParameterString>{parameter}</userParameterString>"
        return header(extra=f"{extra}</userParameters>").encode()

    @pytest.mark.parametrize("key", ["flip_angles", "repetition_times", "echo_times"])
    def test_in_the_header(self, key):
        profile = ScanProfile(name="own", **{f"{key}_from": "train"})
        most = SCAN_LIMITS.frames
        document, _ = standard_scan(self.header_with(most), profile)
        assert document.count(b"<flipAngle_deg>" if key == "flip_angles" else b"<T") >= most
        for count in (most + 1, 115_000):
            with pytest.raises(Mri2QmapError, match=f"holds more than {most} numbers"):
                standard_scan(self.header_with(count), profile)

    @pytest.mark.parametrize("key", ["flip_angles", "repetition_times", "echo_times"])
    def test_in_the_profile(self, key):
        ScanProfile(name="own", **{key: (1.0,) * SCAN_LIMITS.frames})
        with pytest.raises(ValueError, match=f"{key} has 8193 values"):
            ScanProfile(name="own", **{key: (1.0,) * (SCAN_LIMITS.frames + 1)})
