"""Under a real Gadgetron server, with our client and its own, where there is one on the PATH."""

import contextlib
import os
import shutil
import signal
import subprocess
from pathlib import Path

import h5py
import ismrmrd
import pytest
from gadgets.test_hosts_agree import CHANGES, check, document, maps, scanned
from gadgets.test_scan_profiles_in_all_hosts import document as section_document
from gadgets.test_scan_profiles_in_all_hosts import foreign, same
from helpers.live import START, gadgetron_server, own_server, running_worker
from helpers.waiting import eventually

from mri2qmap.errors import Mri2QmapError
from mri2qmap.hosts.client import RemoteReconstruction
from mri2qmap.hosts.connecting import connect
from mri2qmap.hosts.message_socket import MessageSocket
from mri2qmap.hosts.protocol import ConfigDocument
from mri2qmap.hosts.run_record import remote_record
from mri2qmap.pipeline.pipeline_file import GADGETS, pipeline_document
from mri2qmap.pipeline.server_pipeline import server_pipeline
from mri2qmap.pipeline.xml_document import parse_xml, xml_bytes

__all__ = ["foreign", "scanned"]

pytestmark = pytest.mark.skipif(
    shutil.which("gadgetron") is None, reason="no gadgetron server on the PATH"
)
CLIENT = "gadgetron_ismrmrd_client"


@pytest.fixture(scope="module")
def gadgetron_process(tmp_path_factory):
    with gadgetron_server(tmp_path_factory.mktemp("gadgetron")) as server:
        yield server


@pytest.fixture(scope="module")
def gadgetron(gadgetron_process):
    """Port of the server."""
    return gadgetron_process.port


@pytest.fixture
def worker():
    with running_worker() as (listener, running):
        yield listener, running


def at_worker(configuration: bytes, listener) -> bytes:
    return configuration.replace(b"18000", str(listener.port).encode())


def connected(listener, transport: str = "reference") -> bytes:
    return at_worker(document("mri2qmap_connect", transport), listener)


def reconstruct(port: int, configuration: bytes, header: bytes, items: list):
    remote = RemoteReconstruction(connect("127.0.0.1", port), ConfigDocument(configuration), header)
    return maps(remote.run(items)), remote


def test_execute(gadgetron, scanned):
    header, items, expected = scanned
    found, remote = reconstruct(gadgetron, document("mri2qmap_execute"), header, items)
    check(found, expected)
    assert any("ADMM" in text for text in remote.texts)


@pytest.mark.parametrize("transport", ["reference", "value"])
def test_connect(gadgetron, worker, scanned, transport):
    header, items, expected = scanned
    listener, running = worker
    for _ in range(2):
        configuration = connected(listener, transport)
        found, remote = reconstruct(gadgetron, configuration, header, items)
        check(found, expected)
        assert len(running.item_store) == 0
    nodes = remote_record(remote, "server", "configuration")["nodes"]
    assert sorted(node["name"] for node in nodes) == sorted(GADGETS)
    assert all(0 <= node["ready_s"] < node["total_s"] for node in nodes)


@pytest.mark.parametrize("start", ["execute", "connect"])
def test_a_scan_in_another_convention(gadgetron, worker, foreign, start, tmp_path):
    """The server ignores a section of the file, and passes that of each node to the node."""
    profile, header, items, _, expected = foreign
    file = tmp_path / "own.xml"
    file.write_bytes(section_document(profile))
    content = at_worker(server_pipeline(file, start), worker[0])
    found, _ = reconstruct(gadgetron, content, header.encode(), items)
    same(found, expected)
    root = parse_xml(content, "own")
    root.children.insert(1, parse_xml(section_document(profile), "own").all("scan")[0])
    found, _ = reconstruct(gadgetron, xml_bytes(root), header.encode(), items)
    same(found, expected)


def broken(start: str, listener) -> bytes:
    """Configuration with a setting that the gadget refuses."""
    changes = {**CHANGES, "pnp_admm": {**CHANGES["pnp_admm"], "coupling": "-1"}}
    return at_worker(pipeline_document(f"mri2qmap_{start}", changes), listener)


def assert_nothing_remains(worker) -> None:
    listener, running = worker
    eventually(lambda: len(listener) == 0, "nodes remain", START)
    assert len(running.sessions) == len(running.item_store) == running.sessions.budget.reserved == 0


@pytest.mark.parametrize("start", ["execute", "connect"])
def test_an_error_in_a_gadget_reaches_the_client(gadgetron, worker, scanned, start):
    header, items, _ = scanned
    with pytest.raises(Mri2QmapError, match="gadget pnp_admm: coupling must be positive"):
        reconstruct(gadgetron, broken(start, worker[0]), header, items)
    assert_nothing_remains(worker)


@pytest.mark.parametrize("start", ["execute", "connect"])
def test_an_incomplete_scan_is_an_error(gadgetron, worker, scanned, start):
    header, items, _ = scanned
    configuration = at_worker(document(f"mri2qmap_{start}"), worker[0])
    with pytest.raises(Mri2QmapError, match="gadget coil_sensitivity: the scan is incomplete"):
        reconstruct(gadgetron, configuration, header, items[: len(items) - 20])
    assert_nothing_remains(worker)


def test_a_killed_client_leaves_the_worker_in_order(gadgetron, worker, scanned):
    header, items, expected = scanned
    listener, _ = worker
    remote = RemoteReconstruction(
        connect("127.0.0.1", gadgetron), ConfigDocument(connected(listener)), header
    )
    peer: MessageSocket = remote._peer
    for message in remote._opening:
        peer.send(message)
    for item in items[: len(items) // 2]:
        peer.send(item)
    peer.drop()
    found, _ = reconstruct(gadgetron, connected(listener), header, items)
    check(found, expected)
    assert_nothing_remains(worker)


def node_processes(server: subprocess.Popen, gadget: str) -> list[int]:
    """The processes of a gadget that the server, or a process of its own, has started."""
    parents, named = {}, []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it may end meanwhile
            number = int(folder.name)
            parents[number] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            if gadget.encode() in (folder / "cmdline").read_bytes().split(b"\0"):
                named.append(number)

    def is_of_the_server(number: int) -> bool:
        while number in parents and number != server.pid:
            number = parents[number]
        return number == server.pid

    return [number for number in named if is_of_the_server(number)]


@pytest.mark.parametrize("gadget", ["coil_sensitivity", "pnp_admm", "parametric_maps"])
def test_a_killed_node_fails_this_scan_and_not_the_next(gadgetron_process, scanned, gadget):
    header, items, expected = scanned
    server = gadgetron_process
    configuration = document("mri2qmap_execute")
    nodes: dict[str, int] = {}

    def all_found() -> bool:
        found = {name: node_processes(server.process, name) for name in GADGETS}
        nodes.update({name: of[0] for name, of in found.items() if of})
        return len(nodes) == len(GADGETS)

    def killed_half_way():
        for number, item in enumerate(items):
            if number == len(items) // 2:
                eventually(all_found, "the server does not start all nodes", START)
                os.kill(nodes[gadget], signal.SIGKILL)
            yield item

    with pytest.raises(Mri2QmapError, match="server"):
        reconstruct(server.port, configuration, header, killed_half_way())
    eventually(
        lambda: not any(Path(f"/proc/{number}/cmdline").exists() for number in nodes.values()),
        "nodes of the broken scan live on",
        START,
    )
    found, _ = reconstruct(server.port, configuration, header, items)
    check(found, expected)


def test_a_killed_worker_fails_this_scan_and_a_new_one_serves_the_next(gadgetron, scanned):
    header, items, expected = scanned
    # Each has a port of its own: somebody else may take a free one once it is left.
    with own_server("worker", "--device", "cpu") as server:

        def killed_half_way():
            for number, item in enumerate(items):
                if number == len(items) // 2:
                    server.process.kill()
                yield item

        with pytest.raises(Mri2QmapError, match="server"):
            reconstruct(gadgetron, connected(server), header, killed_half_way())
    with own_server("worker", "--device", "cpu") as server:
        found, _ = reconstruct(gadgetron, connected(server), header, items)
    check(found, expected)


def stock_client(port: int, scan: Path, configuration: Path, out: Path, tries: int = 5):
    """Run the server's own client.

    It can miss that it is connected. After a time (option -t) it then closes the socket and fails
    at the first write, before it has sent anything, so it is run again.
    """
    command = [CLIENT, "-t", "2000", "-p", str(port), "-f", str(scan), "-C", str(configuration)]
    for _ in range(tries):
        done = subprocess.run(
            [*command, "-o", str(out)], capture_output=True, text=True, timeout=120
        )
        if "Bad file descriptor" not in done.stderr:
            break
    return done


@pytest.mark.skipif(shutil.which(CLIENT) is None, reason=f"no {CLIENT} on the PATH")
@pytest.mark.parametrize("start", ["execute", "connect"])
def test_the_stock_client(gadgetron, worker, scanned, noisy_scan, tmp_path, start):
    _, _, expected = scanned
    path = noisy_scan[3]
    configuration = tmp_path / "local.xml"
    configuration.write_bytes(
        document("mri2qmap_execute") if start == "execute" else connected(worker[0])
    )
    out = tmp_path / "out.h5"
    done = stock_client(gadgetron, path, configuration, out)
    assert done.returncode == 0, done.stdout + done.stderr
    found = []
    with ismrmrd.Dataset(str(out), _group(out), create_if_needed=False) as file:
        for name in file.list():
            if name.startswith("image"):
                number = file.number_of_images(name)
                found += [file.read_image(name, i) for i in range(number)]
    check(maps(found), expected)


@pytest.mark.skipif(shutil.which(CLIENT) is None, reason=f"no {CLIENT} on the PATH")
@pytest.mark.parametrize("start", ["execute", "connect"])
@pytest.mark.parametrize("fault", ["gadget", "scan"])
def test_the_stock_client_hears_of_errors(gadgetron, worker, noisy_scan, tmp_path, start, fault):
    path = noisy_scan[3]
    configuration = tmp_path / "local.xml"
    if fault == "gadget":
        configuration.write_bytes(broken(start, worker[0]))
        words = "gadget pnp_admm: coupling must be positive"
    else:
        configuration.write_bytes(at_worker(document(f"mri2qmap_{start}"), worker[0]))
        path = tmp_path / "incomplete.h5"
        path.write_bytes(noisy_scan[3].read_bytes())
        with h5py.File(path, "r+") as file:
            data = file["dataset/data"]
            data.resize(len(data) - 20, axis=0)
        words = "gadget coil_sensitivity: "
    done = stock_client(gadgetron, path, configuration, tmp_path / "out.h5")
    assert f"MRI2Qmap error: {words}" in done.stdout + done.stderr
    assert_nothing_remains(worker)


def _group(path: Path) -> str:
    with h5py.File(path) as file:
        return next(iter(file))
