"""Many scans at a site where everything fails now and then."""

from __future__ import annotations

import contextlib
import os
import random
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import ismrmrd
import numpy as np
import pytest
from helpers.chain_server import Chain
from helpers.hostile_peers import HOSTILE_PEERS, connected
from helpers.live import data, opening
from helpers.server_side import configuration
from helpers.site import FilledDisk, Service
from helpers.waiting import eventually

from mri2qmap.errors import Mri2QmapError
from mri2qmap.files.mrd_file import MrdFile
from mri2qmap.hosts.client import RemoteReconstruction
from mri2qmap.hosts.connecting import connect
from mri2qmap.hosts.protocol import ConfigDocument
from mri2qmap.hosts.session_opening import Order
from mri2qmap.pipeline.pipeline_file import pipeline_document
from mri2qmap.scan_queue.queued_scan import QueuedScan, State

pytestmark = pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="there is no /proc")

SCANS = int(os.environ.get("MRI2QMAP_SOAK", "60"))
AT_ONCE = 3
WITH_KILLS = 2 * SCANS // 5
"""The first scans, in which servers are killed."""
LEVEL = SCANS // 2
"""Scans after which memory must not grow any more."""
VARIANTS = 4
MOST_PEERS = 4
ATTEMPTS = 8
LATEST = 300.0
"""Longest time in which a scan with a receipt is reconstructed [s]."""
SETTLED = 60.0
"""Time in which connections of peers that have gone must end [s]."""
QUIET = 10.0
"""Time after which the first level is taken [s]."""
SCANS_FOR_LEVEL = 5
CHANGES = {
    "pnp_admm": {"iterations": "2", "atom_step": "0.2"},
    "combined_matching": {"atom_step": "0.2"},
    "parametric_maps": {"dicom": "none"},
}
TRANSPORT = {"transport": "reference"}
REFERENCES = {
    gadget: {**CHANGES.get(gadget, {}), **TRANSPORT}
    for gadget in (
        "coil_sensitivity",
        "subspace_compression",
        "toeplitz_cg",
        "pnp_admm",
        "combined_matching",
    )
}
Maps = dict[str, np.ndarray]


@dataclass(frozen=True)
class Data:
    """One kind of scan: others have other maps."""

    header: bytes
    items: list

    def numbered(self, number: int) -> bytes:
        """Return the header of a measurement."""
        before, found, after = self.header.partition(b"<measurementID>")
        assert found
        return before + found + b"%d." % number + after


class Site:
    """A server with a queue, and a worker for the nodes of a Gadgetron server."""

    def __init__(self, serve: Service, worker: Service, disk: FilledDisk | None) -> None:
        self.services = {"serve": serve, "queue": serve, "worker": worker}
        self.disk = disk
        self.whole = pipeline_document("mri2qmap", CHANGES)
        self.nodes = pipeline_document("mri2qmap_connect", {**CHANGES, **REFERENCES})

    def opening(self, route: str, header: bytes) -> bytes:
        """Return what a peer of a server sends first."""
        if route == "worker":
            node = configuration(gadget="coil_sensitivity", **TRANSPORT)
            return opening(node, header.decode())
        return opening(self.whole, header.decode())

    def serve(self, header: bytes, items, pace: Pace) -> Maps:
        remote = self._remote(header, Order.NOW)
        return maps(pace.slowly(remote.run(pace.slowly(items))))

    def worker(self, header: bytes, items, pace: Pace) -> Maps:
        port = self.services["worker"]
        chain = Chain(port, self.nodes, header.decode(), may_break=True)
        try:
            chain.send(list(items) if not pace.pause else [*pace.slowly(items)])
            if pace.broken_node is not None:
                chain.break_off([chain.nodes[pace.broken_node]])
            chain.finish()
        finally:
            chain.hang_up()
        if chain.errors or chain.lost:
            raise Mri2QmapError(" ".join(chain.errors) or f"nodes {chain.lost} have ended")
        return maps(chain.items)

    def queue(self, header: bytes, items, pace: Pace) -> str:
        """Return the receipt."""
        remote = self._remote(header, Order.LATER)
        assert not list(remote.run(pace.slowly(items)))
        assert remote.record is not None
        return remote.record["queued"]

    def retrieve(self, header: bytes, identifier: str) -> Maps:
        remote = self._remote(header, Order.RETRIEVAL, identifier)
        return maps(remote.run([]))

    def _remote(self, header: bytes, order: Order, identifier: str = "") -> RemoteReconstruction:
        peer = connect("127.0.0.1", self.services["serve"].port)
        document = ConfigDocument(self.whole)
        return RemoteReconstruction(peer, document, header, order=order, identifier=identifier)


@dataclass
class Pace:
    """How a client sends and reads, and which of its nodes is killed within the scan."""

    pause: float = 0.0
    broken_node: int | None = None

    def slowly(self, items) -> Iterator:
        for number, item in enumerate(items):
            if self.pause and number % 20 == 0:
                time.sleep(self.pause)
            yield item


def maps(items) -> Maps:
    return {i.meta["SeriesDescription"]: i.data for i in items if isinstance(i, ismrmrd.Image)}


def client_gone(site: Site, route: str, kind: Data, chance: random.Random) -> None:
    """Send a part of a scan, or all of it, and be gone."""
    content = data(kind.items)
    with connected(site.services[route].port) as connection, contextlib.suppress(OSError):
        connection.sendall(site.opening(route, kind.header))
        connection.sendall(content[: int(len(content) * chance.choice([0.0, 0.3, 0.9, 1.0]))])
        time.sleep(chance.choice([0.0, 0.5]))


@contextmanager
def killed(service: Service, chance: random.Random) -> Iterator[None]:
    """Kill a server during the context."""
    timer = threading.Timer(chance.uniform(0.1, 2.0), service.kill)
    timer.start()
    try:
        yield
    finally:
        timer.join()


@contextmanager
def hostile(site: Site, route: str, kind: Data, chance: random.Random) -> Iterator[None]:
    """Let hostile peers, such as one that sends garbage, hold the server during the context."""
    first = site.opening(route, kind.header)
    with ExitStack() as peers:
        for name in chance.choices(list(HOSTILE_PEERS), k=chance.randint(1, MOST_PEERS)):
            with contextlib.suppress(ConnectionError):  # the server was killed
                peers.enter_context(HOSTILE_PEERS[name](site.services[route].port, first))
        yield


FAULTS = {
    "none": {"serve", "worker", "queue"},
    "client gone": {"serve", "worker", "queue"},
    "node killed": {"worker"},
    "server killed": {"serve", "worker", "queue"},
    "disk full": {"queue"},
    "hostile peers": {"serve", "worker", "queue"},
    "slow client": {"serve", "worker", "queue"},
}
ROUTES = ("serve", "serve", "worker", "worker", "queue")


@dataclass
class Soak:
    """Runs scans, and counts what became of them."""

    site: Site
    kinds: list[Data]
    expected: list[Maps] = field(default_factory=list)
    counts: Counter = field(default_factory=Counter)
    receipts: dict[str, tuple[bytes, int]] = field(default_factory=dict)

    def scan(self, number: int) -> None:
        """Run one scan with a fault, and send it again until its maps are there."""
        chance = random.Random(number)
        which = chance.randrange(len(self.kinds))
        route = chance.choice(ROUTES)
        faults = [fault for fault, routes in FAULTS.items() if route in routes]
        if number > WITH_KILLS:
            faults.remove("server killed")
        if self.site.disk is None and "disk full" in faults:
            faults.remove("disk full")
        fault = chance.choice(faults)
        self.counts[route, fault] += 1
        kind = self.kinds[which]
        header = kind.numbered(number)
        for attempt in range(ATTEMPTS):
            begin = time.monotonic()
            pace = Pace()
            strikes = fault if attempt == 0 else "none"
            try:
                with self._strike(strikes, route, kind, pace, chance):
                    if route == "queue":
                        receipt = self.site.queue(header, kind.items, pace)
                        self.receipts[receipt] = header, which
                        return
                    found = getattr(self.site, route)(header, kind.items, pace)
            except (Mri2QmapError, OSError) as error:
                self.counts[route, f"failed with {fault}"] += 1
                self._excuse(error, strikes, route, begin)
                time.sleep(1.0)
                continue
            self.check(found, which)
            return
        pytest.fail(f"scan {number} ({route}, {fault}) failed {ATTEMPTS} times")

    def check(self, found: Maps, which: int) -> None:
        """Compare maps with those of the same scan alone: they are equal bit by bit."""
        expected = self.expected[which]
        assert found.keys() == expected.keys()
        for name, values in expected.items():
            np.testing.assert_array_equal(found[name], values, name)

    def fetch(self, receipt: str) -> Maps:
        """Fetch the maps of a scan in the queue when they are there."""
        header, _ = self.receipts[receipt]
        end = time.monotonic() + LATEST
        while time.monotonic() < end:
            begin = time.monotonic()
            try:
                return self.site.retrieve(header, receipt)
            except (Mri2QmapError, OSError) as error:
                if "there are no maps of" not in str(error):
                    self._excuse(error, "none", "queue", begin)
            time.sleep(1.0)
        return pytest.fail(f"there are no maps of {receipt} after {LATEST:g} s")

    def _strike(
        self, fault: str, route: str, kind: Data, pace: Pace, chance: random.Random
    ) -> AbstractContextManager[None]:
        site = self.site
        if fault == "client gone":
            client_gone(site, route, kind, chance)
        elif fault == "node killed":
            pace.broken_node = chance.randrange(len(REFERENCES))
        elif fault == "slow client":
            pace.pause = chance.choice([0.02, 0.1])
        elif fault == "server killed":
            return killed(site.services[route], chance)
        elif fault == "disk full":
            assert site.disk is not None
            return site.disk.full()
        elif fault == "hostile peers":
            return hostile(site, route, kind, chance)
        return nullcontext()

    def _excuse(self, error: Exception, fault: str, route: str, begin: float) -> None:
        """Fail unless there is a reason for an error."""
        if fault == "node killed" or self.site.services[route].was_killed_since(begin):
            return
        disk = self.site.disk
        full = route == "queue" and disk is not None and disk.was_full_since(begin)
        assert full, f"{route}, {fault}: {error}"


def resources(process: subprocess.Popen) -> tuple[int, int, int]:
    """Resident memory [bytes], number of threads and of file descriptors of a process."""
    folder = Path(f"/proc/{process.pid}")
    lines = (folder / "status").read_text().splitlines()
    values = dict(line.split(":", 1) for line in lines)
    descriptors = len(list((folder / "fd").iterdir()))
    return 1024 * int(values["VmRSS"].split()[0]), int(values["Threads"]), descriptors


def level(process: subprocess.Popen, run: Callable[[], object]) -> tuple[int, int, int]:
    """Resources when the peers have gone; of memory, the least after some scans: it varies."""
    least = []
    for _ in range(SCANS_FOR_LEVEL):
        run()
        least.append(resources(process)[0])
    time.sleep(QUIET)
    memory, *others = resources(process)
    return min(*least, memory), *others


def refuse_growth(
    process: subprocess.Popen, run: Callable[[], object], before: tuple[int, int, int], name: str
) -> None:
    """Fail unless the resources are those of before, at the latest some time after a few scans.

    A server returns memory to the system after a scan, when its client has already gone.
    """
    for _ in range(SCANS_FOR_LEVEL):
        run()
    most = 1.05 * before[0], *before[1:]
    eventually(
        lambda: all(n <= m for n, m in zip(resources(process), most, strict=True)),
        f"{name}: memory, threads or descriptors remain more than {most}",
        SETTLED,
    )


@pytest.fixture
def disk(tmp_path) -> Iterator[tuple[Path, FilledDisk | None]]:
    """Folder for the queue, on a disk of its own that can be filled if one can be mounted here."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1600m", "tmpfs", str(folder)]
    mounted = subprocess.run(command, capture_output=True, check=False).returncode == 0
    yield folder, FilledDisk(folder) if mounted else None
    if mounted:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_soak(make_scan, disk, tmp_path):
    """No scan is lost, mixed up with another, or wrong; nothing grows, and nothing remains."""
    kinds = []
    for seed in range(VARIANTS):
        _, items, _, path = make_scan(noise=0.05, seed=seed)
        with MrdFile(path) as file:
            kinds.append(Data(file.header, items))
    options = ("--device", "cpu", "--threads", "1", "--memory", "1000GB")
    queue, filled = disk[0] / "queue", disk[1]
    log = tmp_path / "log"
    with (
        Service("serve", (*options, "--queue", str(queue)), log) as serve,
        Service("worker", options, log) as worker,
    ):
        site = Site(serve, worker, filled)
        soak = Soak(site, kinds)
        soak.expected = [site.serve(kind.header, kind.items, Pace()) for kind in kinds]
        alone = {
            "serve": lambda: soak.check(site.serve(kinds[0].header, kinds[0].items, Pace()), 0),
            "worker": lambda: soak.check(site.worker(kinds[0].header, kinds[0].items, Pace()), 0),
        }
        levels: dict[str, tuple[int, int, int]] = {}
        begin = 0
        for end in (LEVEL, SCANS):
            with ThreadPoolExecutor(AT_ONCE) as clients:
                list(clients.map(soak.scan, range(begin + 1, end + 1)))
            begin = end
            for receipt, (_, which) in soak.receipts.items():
                soak.check(soak.fetch(receipt), which)
            for name, run in alone.items():
                process = site.services[name].process
                if name in levels:
                    refuse_growth(process, run, levels[name], name)
                else:
                    levels[name] = level(process, run)
                print(name, end, levels[name], resources(process))
        for what, count in sorted(soak.counts.items()):
            print(*what, count)
        assert [serve.end(SETTLED), worker.end(SETTLED)] == [0, 0]
    scans = [QueuedScan(folder) for folder in queue.iterdir() if folder.is_dir()]
    assert {scan.identifier for scan in scans} == soak.receipts.keys()
    assert {scan.record.state for scan in scans} == {State.DONE}
    assert "Traceback" not in log.read_text()
