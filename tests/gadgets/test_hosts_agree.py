"""The same scan and pipeline in all hosts give the same maps."""

import ismrmrd
import numpy as np
import pytest
from helpers.chain_server import Chain
from helpers.live import DEADLINE, running_worker, scan_server

from mri2qmap.files.mrd_file import MrdFile
from mri2qmap.hosts.client import RemoteReconstruction
from mri2qmap.hosts.connecting import connect
from mri2qmap.hosts.in_process import InProcessHost
from mri2qmap.hosts.protocol import ConfigDocument
from mri2qmap.mrsignal.dictionary import DictionarySettings
from mri2qmap.pipeline.acquisition_checks import checked_acquisitions
from mri2qmap.pipeline.memory_budget import MemoryBudget
from mri2qmap.pipeline.memory_plan import planned_bytes
from mri2qmap.pipeline.pipeline_file import parse_pipeline, pipeline_document
from mri2qmap.pipeline.scan_header import ScanInfo

#: Quick, with the denoiser and every item.
CHANGES = {
    "pnp_admm": {"iterations": "3", "atom_step": "0.2", "consistency": "true"},
    "combined_matching": {"atom_step": "0.2"},
    "parametric_maps": {"dicom": "none"},
}


def document(name: str, transport: str | None = None) -> bytes:
    changes = {gadget: dict(values) for gadget, values in CHANGES.items()}
    if transport is not None:
        for gadget in (
            "coil_sensitivity",
            "subspace_compression",
            "toeplitz_cg",
            "pnp_admm",
            "combined_matching",
        ):
            changes.setdefault(gadget, {})["transport"] = transport
    return pipeline_document(name, changes)


def maps(items) -> dict[str, np.ndarray]:
    found = {i.meta["SeriesDescription"]: i.data for i in items if isinstance(i, ismrmrd.Image)}
    assert len(found) >= 3
    return found


@pytest.fixture(scope="module")
def scanned(noisy_scan):
    """Header and items of a scan, and its maps made in process."""
    scan, items, _, path = noisy_scan
    pipeline = parse_pipeline(document("mri2qmap"), "mri2qmap", "mri2qmap.xml")
    host = InProcessHost(pipeline, scan)
    with MrdFile(path) as file:
        header = file.header
    return header, items, maps(host.run(checked_acquisitions(items, scan)))


def check(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    """T1 and T2 within one step of the table in 99.9 % of the voxels."""
    assert found.keys() == expected.keys()
    step = 1 + DictionarySettings(step=0.2).step
    for name in found:
        if "T1map" in name or "T2map" in name:
            inside = expected[name] > 0
            assert inside.mean() > 0.05
            ratio = found[name][inside] / expected[name][inside]
            assert np.mean((ratio < 1.001 * step) & (ratio > 0.999 / step)) > 0.999
    (name,) = (name for name in found if "inconsistency" in name)
    medians = [np.median(images[name][images[name] > 0]) for images in (found, expected)]
    assert medians[0] == pytest.approx(medians[1], rel=0.02)


def test_through_our_server(scanned):
    header, items, expected = scanned
    with scan_server() as listener:
        peer = connect("127.0.0.1", listener.port)
        remote = RemoteReconstruction(peer, ConfigDocument(document("mri2qmap")), header)
        found = maps(remote.run(items))
    check(found, expected)
    assert remote.record is not None
    assert remote.record["last_acquisition_to_last_map_s"] > 0


@pytest.mark.parametrize("transport", ["reference", "value"])
def test_through_the_nodes_of_the_worker(scanned, transport):
    header, items, expected = scanned
    with running_worker() as (listener, worker):
        chain = Chain(listener, document("mri2qmap_connect", transport), header.decode())
        chain.send(items)
        chain.finish()
        assert chain.errors == []
        check(maps(chain.items), expected)
        assert len(worker.item_store) == 0
    assert any("pnp_admm" in text for text in chain.texts)


def test_twins_at_the_worker_with_memory_for_one(scanned):
    header, items, expected = scanned
    one = planned_bytes(ScanInfo.from_header(header))
    budget = MemoryBudget(one + one // 2, patience=DEADLINE)
    with running_worker(budget) as (listener, worker):
        documents = [document("mri2qmap_connect", "reference")] * 2
        chains = [Chain(listener, of_one, header.decode()) for of_one in documents]
        for chain in chains:
            chain.send(items)
        for chain in chains:
            chain.finish()
            assert chain.errors == []
            check(maps(chain.items), expected)
        assert len(worker.item_store) == len(worker.sessions) == 0
