"""Many scans through server and worker, with hostile peers beside them."""

import random
import time
from contextlib import ExitStack
from pathlib import Path

import ismrmrd
import numpy as np
import pytest
from helpers.chain_server import Chain
from helpers.hostile_peers import HOSTILE_PEERS
from helpers.live import opening, own_server
from helpers.server_side import configuration
from helpers.waiting import eventually

from mri2qmap.files.mrd_file import MrdFile
from mri2qmap.hosts.client import RemoteReconstruction
from mri2qmap.hosts.connecting import connect
from mri2qmap.hosts.protocol import ConfigDocument
from mri2qmap.pipeline.pipeline_file import pipeline_document

SCANS = 100
LEVEL_AFTER = 10
"""Scans after which memory must not grow any more."""
MOST_PEERS = 4
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


def resources(process) -> tuple[int, int, int]:
    """Resident memory [bytes], number of threads and of file descriptors of a process."""
    folder = Path(f"/proc/{process.pid}")
    lines = (folder / "status").read_text().splitlines()
    values = dict(line.split(":", 1) for line in lines)
    descriptors = len(list((folder / "fd").iterdir()))
    return 1024 * int(values["VmRSS"].split()[0]), int(values["Threads"]), descriptors


def level(process, run, before) -> tuple[int, int, int]:
    """Resources when the peers have gone; of memory, the least after some scans: it varies."""
    least = []
    for _ in range(SCANS_FOR_LEVEL):
        run()
        least.append(resources(process)[0])
    if before is None:
        time.sleep(QUIET)
    else:
        eventually(
            lambda: all(n <= m for n, m in zip(resources(process)[1:], before[1:], strict=True)),
            "threads or descriptors remain",
            SETTLED,
        )
    memory, *others = resources(process)
    return min(*least, memory), *others


def maps(items) -> dict[str, np.ndarray]:
    return {i.meta["SeriesDescription"]: i.data for i in items if isinstance(i, ismrmrd.Image)}


def check(found, expected) -> None:
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_array_equal(found[name], values)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="there is no /proc")
def test_soak(noisy_scan, tmp_path):
    """All maps are the same; memory, threads and file descriptors are those of the beginning."""
    _, items, _, path = noisy_scan
    with MrdFile(path) as file:
        header = file.header
    whole = pipeline_document("mri2qmap", CHANGES)
    nodes = pipeline_document("mri2qmap_connect", {**CHANGES, **REFERENCES})
    chance = random.Random(0)
    options = "--device", "cpu", "--threads", "1", "--memory", "1000GB"

    def through_server(port: int):
        remote = RemoteReconstruction(connect("127.0.0.1", port), ConfigDocument(whole), header)
        return maps(remote.run(items))

    def through_worker(server):
        chain = Chain(server, nodes, header.decode())
        chain.send(items)
        chain.finish()
        assert chain.errors == []
        return maps(chain.items)

    with ExitStack() as stack:
        log = stack.enter_context((tmp_path / "log").open("w"))
        serve, worker = (
            stack.enter_context(own_server(name, *options, errors=log))
            for name in ("serve", "worker")
        )
        servers = {
            "serve": (serve, lambda: through_server(serve.port), opening(whole)),
            "worker": (
                worker,
                lambda: through_worker(worker),
                opening(configuration(gadget="coil_sensitivity", **TRANSPORT), header.decode()),
            ),
        }
        expected = {name: run() for name, (_, run, _) in servers.items()}
        levels = {}
        for number in range(1, SCANS + 1):
            name = ("serve", "worker")[number % 2]
            server, run, first = servers[name]
            kinds = chance.choices(list(HOSTILE_PEERS), k=chance.randint(0, MOST_PEERS))
            print(number, name, *kinds)
            with ExitStack() as peers:
                for kind in kinds:
                    peers.enter_context(HOSTILE_PEERS[kind](server.port, first))
                check(run(), expected[name])
            if number in (LEVEL_AFTER, SCANS):
                for key, (one, run, _) in servers.items():
                    found = level(one.process, run, levels.get(key))
                    print(key, number, found)
                    assert found[0] <= 1.05 * levels.setdefault(key, found)[0], key
