"""Under a real Gadgetron server, with our client and its own, where there is one on the PATH."""

import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import ismrmrd
import pytest
from gadgets.test_hosts_agree import check, document, maps, scanned
from stream.live import running_worker

import mri2qmap
from mri2qmap.errors import Mri2QmapError
from mri2qmap.stream.client import RemoteReconstruction
from mri2qmap.stream.message_socket import MessageSocket, connect
from mri2qmap.stream.protocol import ConfigDocument

__all__ = ["scanned"]

pytestmark = pytest.mark.skipif(
    shutil.which("gadgetron") is None, reason="no gadgetron server on the PATH"
)
START = 60
CLIENT = "gadgetron_ismrmrd_client"


@pytest.fixture(scope="module")
def gadgetron(tmp_path_factory):
    """Port of a server that runs as a site's would, with this Python for its nodes."""
    folder = tmp_path_factory.mktemp("gadgetron")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    package = str(Path(mri2qmap.__file__).parents[1])
    environment = {
        **os.environ,
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        "PYTHONPATH": os.pathsep.join([package, os.environ.get("PYTHONPATH", "")]),
    }
    with (folder / "log.txt").open("w") as log:
        process = subprocess.Popen(
            ["gadgetron", "-p", str(port), "--disable_storage", "true", "-W", str(folder)],
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        deadline = time.monotonic() + START
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                assert process.poll() is None, (folder / "log.txt").read_text()
                assert time.monotonic() < deadline, "the server does not listen"
                time.sleep(0.1)
        yield port
        process.terminate()
        process.wait(START)


@pytest.fixture
def worker():
    with running_worker() as (listener, running):
        yield listener, running


def connected(listener, hand_over: str = "reference") -> bytes:
    return document("mri2qmap_connect", hand_over).replace(b"18000", str(listener.port).encode())


def reconstruct(port: int, configuration: bytes, header: bytes, items: list):
    remote = RemoteReconstruction(connect("127.0.0.1", port), ConfigDocument(configuration), header)
    return maps(remote.run(items)), remote


def test_execute(gadgetron, scanned):
    header, items, expected = scanned
    found, remote = reconstruct(gadgetron, document("mri2qmap_execute"), header, items)
    check(found, expected)
    assert any("ADMM" in text for text in remote.texts)


@pytest.mark.parametrize("hand_over", ["reference", "value"])
def test_connect(gadgetron, worker, scanned, hand_over):
    header, items, expected = scanned
    listener, running = worker
    for _ in range(2):
        configuration = connected(listener, hand_over)
        found, remote = reconstruct(gadgetron, configuration, header, items)
        check(found, expected)
        assert len(running.references) == 0
    assert any("combined_matching" in text for text in remote.texts)


@pytest.mark.parametrize("start", ["execute", "connect"])
def test_an_error_in_a_gadget_reaches_the_client(gadgetron, worker, scanned, start):
    header, items, _ = scanned
    configuration = document("mri2qmap_execute")
    if start == "connect":
        configuration = connected(worker[0])
    configuration = configuration.replace(b'name="coupling" value="', b'name="coupling" value="-')
    begin = time.monotonic()
    with pytest.raises(Mri2QmapError, match="gadget pnp_admm: coupling must be positive"):
        reconstruct(gadgetron, configuration, header, items)
    assert time.monotonic() - begin < 20
    assert len(worker[1].references) <= 4  # what the gadgets before it have left, for a while


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
    assert listener.wait(START) or len(listener) == 0


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
    done = subprocess.run(
        [CLIENT, "-p", str(gadgetron), "-f", str(path), "-C", str(configuration), "-o", str(out)],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = []
    with ismrmrd.Dataset(str(out), _group(out), create_if_needed=False) as file:
        for name in file.list():
            if name.startswith("image"):
                number = file.number_of_images(name)
                found += [file.read_image(name, i) for i in range(number)]
    check(maps(found), expected)


def _group(path: Path) -> str:
    import h5py

    with h5py.File(path) as file:
        return next(iter(file))
