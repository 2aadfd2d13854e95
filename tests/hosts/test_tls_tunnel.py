"""The commands and files of docs/tls.md."""

import re
import shlex
import shutil
import socket
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import ismrmrd
import pytest
from helpers.good_peers import FIRST
from helpers.live import CLOSE, DEADLINE, data, opening, receive_all, scan_server
from helpers.scans import expected_sum
from helpers.waiting import eventually

STUNNEL = shutil.which("stunnel4") or shutil.which("stunnel")
pytestmark = [
    pytest.mark.usefixtures("fake_gadgets"),
    pytest.mark.skipif(STUNNEL is None, reason="stunnel is not installed"),
    pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed"),
]
PAGE = (Path(__file__).parents[2] / "docs/tls.md").read_text()
HOST, PORT = "mri.example.org", "9443"


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        return found.getsockname()[1]


def blocks(kind: str) -> list[str]:
    return re.findall(rf"```{kind}\n(.*?)```", PAGE, re.DOTALL)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    folder = tmp_path_factory.mktemp("certificates")
    (commands,) = blocks("console")
    for command in commands.replace("\\\n", " ").splitlines():
        assert command.startswith("$ openssl ")
        subprocess.run(shlex.split(command[2:]), cwd=folder, check=True, capture_output=True)
    return folder


@contextmanager
def tunnel(text: str, folder: Path, name: str, port: int) -> Iterator[None]:
    path = folder / f"{name}.conf"
    path.write_text(text)
    with (folder / f"{name}.log").open("w") as log:
        process = subprocess.Popen([STUNNEL, str(path)], stdout=log, stderr=log)
        try:
            eventually(lambda: listens(port), f"stunnel does not listen: {text}")
            yield
        finally:
            process.terminate()
            process.wait(DEADLINE)


def listens(port: int) -> bool:
    with socket.socket() as found:
        return found.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture
def tunnelled(certificates) -> Iterator[tuple[int, int]]:
    """Port of the tunnel for clients, and of the one between the hosts."""
    near, between = free_port(), free_port()
    server, client = (text.replace("/etc/mri2qmap", str(certificates)) for text in blocks("ini"))
    client = client.replace("127.0.0.1:9002", f"127.0.0.1:{near}")
    client = client.replace(f"{HOST}:{PORT}", f"127.0.0.1:{between}")
    with scan_server() as listener:
        server = server.replace(PORT, f"127.0.0.1:{between}").replace("9002", str(listener.port))
        with (
            tunnel(server, certificates, "server", between),
            tunnel(client, certificates, "client", near),
        ):
            yield near, between


def scan_through(port: int) -> float:
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.settimeout(DEADLINE)
        connection.sendall(FIRST + data() + CLOSE)
        (image,) = (m for m in receive_all(connection) if isinstance(m, ismrmrd.Image))
        return float(image.data[0, 0, 0, 0])


def test_a_scan_passes_through_the_tunnel(tunnelled):
    assert scan_through(tunnelled[0]) == pytest.approx(expected_sum(2), rel=1e-5)


def greeting(port: int, context: ssl.SSLContext, name: str = HOST) -> bytes:
    """What a server answers to a query."""
    with (
        socket.create_connection(("127.0.0.1", port), DEADLINE) as plain,
        context.wrap_socket(plain, server_hostname=name) as connection,
    ):
        connection.sendall(opening(b"<nothing/>"))
        return connection.recv(1000)


def test_only_certificates_of_the_site_are_accepted(tunnelled, certificates):
    context = ssl.create_default_context(cafile=certificates / "ca.pem")
    with pytest.raises((ssl.SSLError, ConnectionError)):
        greeting(tunnelled[1], context)
    context.load_cert_chain(certificates / "client.pem", certificates / "client.key")
    assert b"MRI2Qmap error" in greeting(tunnelled[1], context)
    with pytest.raises(ssl.SSLCertVerificationError):
        greeting(tunnelled[1], context, "another.example.org")
