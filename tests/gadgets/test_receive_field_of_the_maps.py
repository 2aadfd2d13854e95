"""The receive field, from the coils of a scan to what the outputs say of it."""

import ismrmrd
import numpy as np
import pytest
import torch
from export.scans import parametric, series

from mri2qmap.coil_sensitivity import CoilSensitivitySettings, coil_sensitivity
from mri2qmap.combined_matching import CombinedMatchingSettings, combined_matching
from mri2qmap.errors import Mri2QmapError
from mri2qmap.export.nifti_sidecar import read_receive_field
from mri2qmap.files.output_folder import OutputFolder
from mri2qmap.parametric_maps import ParametricMapsSettings, parametric_maps
from mri2qmap.pipeline.items import NiftiVolume, Provenance, Tsmi
from mri2qmap.pipeline.settings import parse_settings
from mri2qmap.simulation.coils import coil_sensitivities
from mri2qmap.simulation.coils import receive_field as true_field
from mri2qmap.subspace_compression import SubspaceCompressionSettings, subspace_compression
from mri2qmap.toeplitz_cg import ToeplitzCgSettings, toeplitz_cg


@pytest.fixture(scope="module")
def eight_coils(make_scan):
    """A scan without noise by eight coils, and its TSMI."""
    scan, items, simulation, _ = make_scan(coils=8)
    stream = coil_sensitivity(iter(items), scan, CoilSensitivitySettings())
    stream = subspace_compression(stream, scan, SubspaceCompressionSettings())
    found = list(toeplitz_cg(stream, scan, ToeplitzCgSettings(iterations=30)))
    (tsmi,) = (item for item in found if isinstance(item, Tsmi))
    return scan, tsmi, simulation


def matched(eight_coils, **settings):
    scan, tsmi, _ = eight_coils
    (maps,) = combined_matching(iter([tsmi]), scan, CombinedMatchingSettings(**settings))
    return maps


def test_proton_density_and_weighted_images_are_free_of_it(eight_coils):
    kept = matched(eight_coils, receive_field="kept")
    removed = matched(eight_coils)
    mapped = matched(eight_coils, receive_field="mapped")
    assert (kept.receive_field, removed.receive_field, mapped.receive_field) == (
        "kept",
        "removed",
        "removed",
    )
    assert kept.receive_field_map is None
    assert removed.receive_field_map is None
    field = mapped.receive_field_map
    torch.testing.assert_close(removed.proton_density * field, kept.proton_density)
    torch.testing.assert_close(removed.weighted * field, kept.weighted)
    for name in ("t1", "t2", "match_quality"):
        assert torch.equal(getattr(removed, name), getattr(kept, name))
    inside = eight_coils[2].truth.proton_density() > 0.7
    true = np.log(true_field(coil_sensitivities(kept.geometry, 8))[inside])
    assert np.std(np.log(field.numpy()[inside]) - true) < 0.5 * np.std(true)


def test_an_object_that_is_too_small_keeps_it_and_says_so(eight_coils, monkeypatch):
    lines = []
    scan, tsmi, _ = eight_coils
    monkeypatch.setattr(type(scan.report), "log", lambda self, line: lines.append(line))
    tsmi = Tsmi(torch.zeros_like(tsmi.tsmi), tsmi.geometry)
    (maps,) = combined_matching(iter([tsmi]), scan, CombinedMatchingSettings())
    assert maps.receive_field == "kept"
    assert any("too few voxels for an estimate of the receive field" in line for line in lines)


@pytest.mark.parametrize(
    ("chosen", "state", "words"),
    [
        ("removed", "removed", "the receive field, estimated from PD and T1, is removed"),
        ("mapped", "removed", "the receive field, estimated from PD and T1, is removed"),
        ("kept", "kept", "it contains the receive field"),
    ],
)
def test_all_outputs_tell(eight_coils, tmp_path, chosen, state, words):
    scan = eight_coils[0]
    maps = matched(eight_coils, receive_field=chosen)
    settings = ParametricMapsSettings(mrd="both")
    items = list(parametric_maps(iter([Provenance("0" * 64), maps]), scan, settings))
    for quantity in ("PDmap", "T1w", "PDw"):
        assert words in series(items, quantity)[0].DerivationDescription
    assert words in parametric(items, "PDmap").DerivationDescription
    assert "receive field" not in series(items, "T1map")[0].DerivationDescription
    told = {
        item.meta["DataRole"][1]: item.meta.get("mri2qmap_receive_field")
        for item in items
        if isinstance(item, ismrmrd.Image)
    }
    assert {role for role, text in told.items() if text == state} == {"PD", "T1W", "T2W", "PDW"}
    assert {text for role, text in told.items() if text != state} == {None}
    volumes = [item for item in items if isinstance(item, NiftiVolume)]
    sidecars = {item.name: item.sidecar for item in volumes}
    assert sidecars["PDmap.nii.gz"]["ReceiveField"] == state
    assert "ReceiveField" not in sidecars["T2map.nii.gz"]
    assert ("receivefield.nii.gz" in sidecars) == (chosen == "mapped")
    with OutputFolder(tmp_path / "out", b"<h/>") as folder:
        for item in volumes:
            folder.write(item)
        folder.finish({})
    assert read_receive_field(tmp_path / "out" / "nifti" / "PDmap.nii.gz") == state
    assert read_receive_field(tmp_path / "out" / "nifti" / "T1map.nii.gz") == ""


def test_the_setting_is_checked():
    with pytest.raises(Mri2QmapError, match="one of removed, mapped, kept is expected"):
        parse_settings(CombinedMatchingSettings, {"receive_field": "yes"}, "combined_matching")
