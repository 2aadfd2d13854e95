"""Record a session of a real Gadgetron server for `test_recorded_session`.

Run manually with a server on the PATH:  python tests/hosts/record_session.py

The scan is that of `helpers.scans`, the pipeline has two ``<connect>`` nodes with the toy gadgets
of that module, so that every byte is known. Two proxies record the traffic: between client and
server, and between server and each node.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from helpers.live import running_worker
from helpers.scans import acquisitions, fake_modules, header

from mri2qmap.hosts.client import RemoteReconstruction
from mri2qmap.hosts.connecting import connect
from mri2qmap.hosts.protocol import ConfigDocument

FOLDER = Path(__file__).parent / "recorded"
READERS = "".join(
    f"<reader>{slot}<dll>gadgetron_core_readers</dll><classname>{name}</classname></reader>"
    for name, slot in (
        ("AcquisitionReader", ""),
        ("WaveformReader", ""),
        ("ImageReader", ""),
        ("TextReader", "<slot>2005</slot>"),
    )
)


def node(gadget: str, port: int, **properties: object) -> str:
    inner = "".join(
        f'<property name="{name}" value="{value}"/>'
        for name, value in {"gadget": gadget, **properties}.items()
    )
    return (
        f'<external><connect address="127.0.0.1" port="{port}"/><readers>{READERS}</readers>'
        f"<configuration>{inner}</configuration></external>"
    )


def pipeline(port: int, fail_with: str = "nothing") -> bytes:
    return (
        '<?xml version="1.0"?><configuration><version>2</version>'
        f"<readers>{READERS.partition('</reader>')[0]}</reader></readers>"
        "<writers><writer><dll>gadgetron_core_writers</dll><classname>ImageWriter</classname>"
        "</writer></writers><stream>"
        + node("coil_sensitivity", port, factor=2, fail_with=fail_with)
        + node("parametric_maps", port, dicom="false")
        + "</stream></configuration>"
    ).encode()


class Proxy:
    """Forwards every connection and records the data of both sides."""

    def __init__(self, port: int) -> None:
        self.server = socket.create_server(("127.0.0.1", 0))
        self.port = self.server.getsockname()[1]
        self.target = port
        self.said: list[dict[str, bytes]] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            near, _ = self.server.accept()
            far = socket.create_connection(("127.0.0.1", self.target))
            said = {"caller": b"", "called": b""}
            self.said.append(said)
            for source, sink, who in ((near, far, "caller"), (far, near, "called")):
                threading.Thread(
                    target=self._carry, args=(source, sink, said, who), daemon=True
                ).start()

    def _carry(self, source, sink, said, who) -> None:
        while content := source.recv(2**16):
            said[who] += content
            sink.sendall(content)
        sink.shutdown(socket.SHUT_WR)


def main() -> None:
    sys.modules.update(fake_modules())
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    folder = tempfile.mkdtemp()
    server = subprocess.Popen(
        ["gadgetron", "-p", str(port), "--disable_storage", "true", "-W", folder],
        env={**os.environ},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    time.sleep(3)
    FOLDER.mkdir(exist_ok=True)
    try:
        with running_worker() as (listener, _):
            for name, fail_with in (("scan", "nothing"), ("failure", "user")):
                nodes, clients = Proxy(listener.port), Proxy(port)
                remote = RemoteReconstruction(
                    connect("127.0.0.1", clients.port),
                    ConfigDocument(pipeline(nodes.port, fail_with)),
                    header().encode(),
                )
                try:
                    print(name, [type(item).__name__ for item in remote.run(acquisitions())])
                except Exception as error:
                    print(name, error)
                time.sleep(1)
                for number, said in enumerate(nodes.said):
                    (FOLDER / f"{name}_to_node_{number}.bin").write_bytes(said["caller"])
                    (FOLDER / f"{name}_from_node_{number}.bin").write_bytes(said["called"])
                (FOLDER / f"{name}_to_client.bin").write_bytes(clients.said[0]["called"])
                (FOLDER / f"{name}_from_client.bin").write_bytes(clients.said[0]["caller"])
    finally:
        server.terminate()
        server.wait()


if __name__ == "__main__":
    main()
