"""UIDs follow from what determines the maps: the data, all settings, weights and versions."""

import json
from dataclasses import replace

import ismrmrd
import numpy as np
import pytest
import torch
from helpers.chain_server import Chain
from helpers.live import running_worker

from mri2qmap.denoiser.checkpoint import save_denoiser
from mri2qmap.denoiser.network import ConditionalResidualUNet, DenoiserConfig
from mri2qmap.errors import Mri2QmapError
from mri2qmap.files.mrd_file import MrdFile
from mri2qmap.hosts.in_process import InProcessHost
from mri2qmap.mrsignal.matching_settings import MatchingSettings
from mri2qmap.pipeline import provenance
from mri2qmap.pipeline.acquisition_checks import checked_acquisitions
from mri2qmap.pipeline.items import DicomObject, Provenance
from mri2qmap.pipeline.pipeline_file import pipeline_document, read_pipeline
from mri2qmap.pipeline.provenance import DataDigest, with_gadget
from mri2qmap.pnp_admm import PnpAdmmSettings
from mri2qmap.toeplitz_cg import ToeplitzCgSettings

CPU = torch.device("cpu")
QUICK = {
    "pnp_admm": {"iterations": "1", "atom_step": "0.2", "denoiser": "none"},
    "combined_matching": {"atom_step": "0.2"},
    "parametric_maps": {"dicom": "classic", "mrd": "none", "nifti": "false"},
}


def uids(scan, items, **changes) -> list[tuple[str, str]]:
    overrides = {**QUICK, **changes}
    host = InProcessHost(read_pipeline("mri2qmap", overrides), scan)
    datasets = [
        item.dataset
        for item in host.run(checked_acquisitions(items, scan))
        if isinstance(item, DicomObject)
    ]
    assert len(datasets) > 16
    return [(dataset.SeriesInstanceUID, dataset.SOPInstanceUID) for dataset in datasets]


def with_other_noise(items) -> list:
    """A copy of a scan in which one sample of one readout differs a little."""
    changed = list(items)
    last = items[-1]
    data = last.data.copy()
    data[0, 0] *= 1 + 1e-6
    changed[-1] = ismrmrd.Acquisition(last.getHead(), data, last.traj.copy())
    return changed


def test_the_same_run_has_the_same_uids_and_others_have_others(noisy_scan):
    scan, items, _, _ = noisy_scan
    runs = {
        "first": uids(scan, items),
        "other data": uids(scan, with_other_noise(items)),
        "earlier gadget": uids(scan, items, toeplitz_cg={"iterations": "9"}),
        "ADMM": uids(scan, items, pnp_admm={**QUICK["pnp_admm"], "coupling": "5"}),
    }
    assert uids(scan, items) == runs["first"]
    for kind in (0, 1):
        found = [set(pairs[kind] for pairs in run) for run in runs.values()]
        assert len(set.union(*found)) == sum(map(len, found))


def network(path, seed):
    torch.manual_seed(seed)
    config = DenoiserConfig(channels=(4, 8), blocks=(1, 1))
    save_denoiser(path, ConditionalResidualUNet(config), {})


def test_weights_count_and_their_name_does_not(tmp_path):
    one, same, other = (tmp_path / f"{name}.safetensors" for name in ("one", "same", "other"))
    network(one, 1)
    network(other, 2)
    same.write_bytes(one.read_bytes())
    begin = Provenance("0" * 64)
    digests = [
        with_gadget(begin, "pnp_admm", PnpAdmmSettings(denoiser=str(path)), CPU).digest
        for path in (one, same, other)
    ]
    assert digests[0] == digests[1] != digests[2]


def test_a_field_map_counts(tmp_path):
    settings = MatchingSettings(b1_map=str(tmp_path / "b1.nii.gz"))
    digests = []
    for content in (b"one", b"other"):
        (tmp_path / "b1.nii.gz").write_bytes(content)
        digests.append(with_gadget(Provenance(""), "combined_matching", settings, CPU).digest)
    assert digests[0] != digests[1]


def test_versions_and_the_order_of_gadgets_count(monkeypatch):
    def through(*names):
        passed = Provenance("0" * 64)
        for name in names:
            passed = with_gadget(passed, name, ToeplitzCgSettings(), CPU)
        return passed.digest

    assert through("a", "b") == through("a", "b") != through("b", "a")
    before = through("a")
    monkeypatch.setattr(provenance.mri2qmap, "__version__", "0.0.0")
    assert through("a") != before


def test_the_number_of_threads_counts():
    """Sums that they share out differ in the last digits, and then some voxels get another atom."""
    before = torch.get_num_threads()
    digests = set()
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            digests.add(with_gadget(Provenance("0"), "a", ToeplitzCgSettings(), CPU).digest)
    finally:
        torch.set_num_threads(before)
    assert len(digests) == 2


def test_every_part_of_an_acquisition_counts(noisy_scan):
    *_, acquisition = noisy_scan[1]
    head, data, trajectory = acquisition.getHead(), acquisition.data, acquisition.traj
    moved = acquisition.getHead()
    moved.idx.contrast += 1
    variants = [
        ismrmrd.Acquisition(head, data, trajectory),
        ismrmrd.Acquisition(moved, data, trajectory),
        ismrmrd.Acquisition(head, np.conj(data), trajectory),
        ismrmrd.Acquisition(head, data, -trajectory),
    ]
    digests = set()
    for variant in variants:
        digest = DataDigest()
        digest.add(variant)
        digests.add(digest.hexdigest())
    assert len(digests) == len(variants)


def test_nodes_of_a_server_refuse_settings_that_contradict_an_earlier_node(noisy_scan):
    """Each node is told its own settings only, and maps of both kinds must not be mixed."""
    _, items, _, path = noisy_scan
    document = pipeline_document("mri2qmap_connect", QUICK)
    changed = document.replace(b'name="atom_step" value="0.2"', b'name="atom_step" value="0.3"', 1)
    assert changed != document
    with MrdFile(path) as file:
        header = file.header
    with running_worker() as (listener, _):
        chain = Chain(listener, changed, header.decode())
        chain.send(items)
        chain.finish()
    assert any("disagree on atom_step" in error for error in chain.errors)
    assert not any(isinstance(item, ismrmrd.Image) for item in chain.items)


def test_later_gadgets_learn_the_settings_of_earlier_ones():
    passed = with_gadget(Provenance("0" * 64), "toeplitz_cg", ToeplitzCgSettings(iterations=7), CPU)
    passed = replace(passed, incomplete="1 of 2 groups missing")
    passed = with_gadget(passed, "pnp_admm", PnpAdmmSettings(denoiser="none"), CPU)
    known = json.loads(passed.settings)
    assert known["toeplitz_cg"]["iterations"] == 7
    assert passed.incomplete == "1 of 2 groups missing"
    with pytest.raises(Mri2QmapError, match="disagree on b1 "):
        with_gadget(passed, "combined_matching", MatchingSettings(b1=0.9), CPU)
