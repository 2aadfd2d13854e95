"""The client gives up a server that is silent, but not one that computes for long."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import ismrmrd
import numpy as np
import pytest
from helpers.live import DEADLINE, scan_server
from helpers.scans import acquisitions, external, header, pipeline_xml, write_scan

from mri2qmap.cli.main import main
from mri2qmap.cli.remote_replay import client_deadlines
from mri2qmap.errors import Mri2QmapError
from mri2qmap.hosts.client import RemoteReconstruction
from mri2qmap.hosts.connecting import connect
from mri2qmap.hosts.deadlines import Deadlines
from mri2qmap.hosts.protocol import ConfigDocument
from mri2qmap.pipeline.progress import Reporter

pytestmark = pytest.mark.usefixtures("fake_gadgets")

PIPELINE = pipeline_xml(external("coil_sensitivity"), external("parametric_maps")).encode()


@contextmanager
def silent_server(reads: bool) -> Iterator[int]:
    """A server that accepts one client and says nothing; yield its port."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                connection.settimeout(DEADLINE)
                while reads and connection.recv(2**16):
                    pass
                left.wait(DEADLINE)

        left = threading.Event()
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield server.getsockname()[1]
        left.set()
        thread.join(DEADLINE)


def remote(port: int, timeout: float, report: Reporter | None = None) -> RemoteReconstruction:
    peer = connect("127.0.0.1", port, client_deadlines(timeout))
    return RemoteReconstruction(peer, ConfigDocument(PIPELINE), header().encode(), report)


def long_scan() -> list[ismrmrd.Acquisition]:
    """More than the buffers of a connection hold."""
    return [ismrmrd.Acquisition.from_array(np.ones((16, 60000), np.complex64))] * 4


def test_a_server_that_says_nothing_is_given_up_in_one_line(tmp_path, capsys):
    scan = write_scan(tmp_path / "scan.h5")
    with silent_server(reads=True) as port:
        server = ["--server", f"127.0.0.1:{port}", "--timeout", "0.4"]
        server += ["--configuration", "of_the_site"]
        assert main(["replay", str(scan), "-o", str(tmp_path / "maps"), *server]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "the server sends nothing for 0.4 s" in line
    assert "--timeout" in line
    assert not (tmp_path / "maps").exists()


def test_a_server_that_does_not_read_is_given_up():
    with (
        silent_server(reads=False) as port,
        pytest.raises(Mri2QmapError, match=r"neither reads nor sends anything for 0\.4 s"),
    ):
        list(remote(port, 0.4).run(long_scan()))


def test_a_pause_of_the_scan_is_not_the_silence_of_the_server():
    """A Gadgetron server may say nothing while the client waits for the scanner."""
    pause = threading.Event()

    def paused() -> Iterator[ismrmrd.Acquisition]:
        first, *rest = acquisitions()
        yield first
        pause.wait(2.0)
        yield from rest

    with scan_server(deadlines=Deadlines(heartbeat=0.1)) as listener:  # none while it waits
        items = list(remote(listener.port, 1.0).run(paused()))
    assert any(isinstance(item, ismrmrd.Image) for item in items)


def test_heartbeats_keep_a_client_from_giving_up(endless_maps):
    class EnoughError(Exception):
        pass

    class Counting(Reporter):
        beats = 0

        def log(self, text: str) -> None:
            self.beats += "still at work: ADMM" in text
            if self.beats == 15:
                raise EnoughError

    with scan_server(deadlines=Deadlines(heartbeat=0.2)) as listener, pytest.raises(EnoughError):
        list(remote(listener.port, 2.0, Counting()).run(acquisitions()))


@pytest.mark.parametrize("value", ["0", "-1", "nan", "x"])
def test_impossible_timeouts_are_refused(tmp_path, capsys, value):
    scan = write_scan(tmp_path / "scan.h5")
    command = ["replay", str(scan), "--server", "127.0.0.1:1", "-o", str(tmp_path / "maps")]
    try:
        code = main([*command, f"--timeout={value}"])
    except SystemExit as end:  # not a number
        code = end.code
    assert code == 2
    assert "--timeout" in capsys.readouterr().err


def test_the_timeout_is_for_a_server(tmp_path, capsys):
    scan = write_scan(tmp_path / "scan.h5")
    for scans in ([str(scan)], [str(scan), str(scan)]):
        assert main(["replay", *scans, "-o", str(tmp_path / "maps"), "--timeout", "1"]) == 2
    assert "--timeout need --server" in capsys.readouterr().err
