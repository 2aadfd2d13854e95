"""The maps do not depend on the scale of the samples, up to where single precision ends."""

import ismrmrd
import numpy as np
import pytest
from helpers.every_pipeline import CASES

import mri2qmap
from mri2qmap.errors import Mri2QmapError
from mri2qmap.pipeline.acquisition_kinds import is_noise_scan

PIPELINES = ("svdmrf", "lrtv", "llr", "mrf_admm", "mri2qmap")


@pytest.fixture(scope="module")
def scan():
    """A scan of few samples in two coils, with noise scans."""
    made = mri2qmap.simulate(matrix=16, field_of_view=0.22, coils=2, frames=40, progress=False)
    return made.scan.header, list(made.scan.acquisitions)


def times(scan, imaging, noise):
    """The scan with its samples multiplied; a factor of 0 leaves the noise scans out."""
    header, acquisitions = scan
    made = []
    for acquisition in acquisitions:
        factor = noise if is_noise_scan(acquisition) else imaging
        if factor:
            largest = np.finfo(np.float32).max
            parts = acquisition.data.view(np.float32).astype(np.float64) * factor
            data = parts.clip(-largest, largest).astype(np.float32).view(np.complex64)
            made.append(ismrmrd.Acquisition(acquisition.getHead(), data, acquisition.traj))
    return mri2qmap.Scan(header, made)


def maps(scan, pipeline, imaging, noise):
    return mri2qmap.reconstruct(
        times(scan, imaging, noise),
        pipeline=pipeline,
        settings=CASES[pipeline],
        device="cpu",
        progress=False,
    )


def changed(found, reference):
    """Share of the voxels with signal whose T1 or T2 differs by more than 1 % of the largest."""
    density = np.abs(reference.proton_density)
    inside = density > 0.2 * density.max()
    return max(
        float(np.mean(np.abs(one - two)[inside] > 0.01 * two.max()))
        for one, two in ((found.t1, reference.t1), (found.t2, reference.t2))
    )


def same(found, reference):
    return np.array_equal(found.t1, reference.t1) and np.array_equal(found.t2, reference.t2)


@pytest.mark.parametrize("pipeline", PIPELINES)
def test_the_maps_of_a_scan_with_noise_scans_do_not_depend_on_the_scale(scan, pipeline):
    """Noise of variance one is the unit: the maps are the same bit by bit, as is their scale."""
    reference = maps(scan, pipeline, 1.0, 1.0)
    for factor in (2.0**-40, 2.0**40):  # 1e-12 and 1e12 without rounding of the samples
        found = maps(scan, pipeline, factor, factor)
        assert same(found, reference)
        np.testing.assert_array_equal(found.proton_density, reference.proton_density)
    rounded = maps(scan, pipeline, 1e12, 1e12)
    assert changed(rounded, reference) < 0.03  # which of two matches, rounding decides
    assert not same(rounded, reference)


@pytest.mark.parametrize("pipeline", PIPELINES)
def test_nor_do_those_of_a_scan_without_noise_scans(scan, pipeline):
    """Proton density has the scale of the samples."""
    reference = maps(scan, pipeline, 1.0, 0.0)
    for factor in (2.0**-40, 2.0**40):
        found = maps(scan, pipeline, factor, 0.0)
        assert changed(found, reference) < 0.03
        densities = np.abs(found.proton_density).max(), np.abs(reference.proton_density).max()
        assert densities[0] / densities[1] == pytest.approx(factor, rel=0.01)


REFUSED = {
    "imaging and noise": (
        lambda factor: (factor, factor),
        {
            **dict.fromkeys((1e-44, 1e-40, 1e-30, 1e-20), "noise of at least 1e-20"),
            1e-16: "nearly zero, the largest part",
            **dict.fromkeys((1e20, 1e30, 1e38), "parts of at most 1e\\+14"),
        },
    ),
    "imaging": (
        lambda factor: (factor, 1.0),
        {
            **dict.fromkeys((1e-44, 1e-30, 1e-12), "0.001 to 1e\\+12 times is expected"),
            **dict.fromkeys((1e20, 1e38), "parts of at most 1e\\+14"),
        },
    ),
    "noise": (
        lambda factor: (1.0, factor),
        {
            **dict.fromkeys((1e-44, 1e-40, 1e-30), "noise of at least 1e-20"),
            **dict.fromkeys((1e-16, 1e8), "0.001 to 1e\\+12 times is expected"),
            **dict.fromkeys((1e20, 1e38), "parts of at most 1e\\+14"),
        },
    ),
    "imaging without noise": (
        lambda factor: (factor, 0.0),
        {
            **dict.fromkeys((1e-44, 1e-30, 1e-20), "nearly zero, the largest part"),
            **dict.fromkeys((1e20, 1e38), "parts of at most 1e\\+14"),
        },
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_other_scales_are_refused_with_a_remedy(scan, kind):
    factors, messages = REFUSED[kind]
    for factor, message in messages.items():
        with pytest.raises(Mri2QmapError, match=message) as caught:
            maps(scan, "lrtv", *factors(factor))
        text = str(caught.value)
        assert "\n" not in text
        assert any(remedy in text for remedy in ("by one number", "correct the conversion")), text
