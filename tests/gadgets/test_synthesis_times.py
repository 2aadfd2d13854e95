"""Repetition and echo times of the weighted images, from the settings to the maps."""

import pytest

from mri2qmap.coil_sensitivity import CoilSensitivitySettings, coil_sensitivity
from mri2qmap.combined_matching import CombinedMatchingSettings, combined_matching
from mri2qmap.errors import Mri2QmapError
from mri2qmap.mrsignal.synthesis import synthesise
from mri2qmap.pipeline.items import ParameterMaps, Tsmi, WeightedImages
from mri2qmap.pnp_admm import PnpAdmmSettings, pnp_admm
from mri2qmap.subspace_compression import SubspaceCompressionSettings, subspace_compression
from mri2qmap.toeplitz_cg import ToeplitzCgSettings, toeplitz_cg

ECHOES = {"tr_t1w": 0.4, "te_t1w": 0.012, "te_t2w": 0.11, "tr_pdw": 4.0}


def of_type(items, kind):
    (found,) = [i for i in items if isinstance(i, kind)]
    return found


def difference(value, reference):
    return float((value - reference).norm() / reference.norm())


@pytest.fixture(scope="module")
def least_squares(noisy_scan):
    """The scan, and the items that `pnp_admm` takes."""
    scan, items, _, _ = noisy_scan
    stream = coil_sensitivity(iter(items), scan, CoilSensitivitySettings())
    stream = subspace_compression(stream, scan, SubspaceCompressionSettings())
    return scan, list(toeplitz_cg(stream, scan, ToeplitzCgSettings()))


def restored(least_squares, **changes):
    scan, items = least_squares
    return list(pnp_admm(iter(items), scan, PnpAdmmSettings(iterations=1, patch=16, **changes)))


def test_weighted_images_are_of_the_times_that_were_chosen(least_squares):
    items = restored(least_squares, **ECHOES)
    settings = CombinedMatchingSettings(**ECHOES)
    assert of_type(items, WeightedImages).echoes == settings.echoes
    maps = of_type(list(combined_matching(iter(items), least_squares[0], settings)), ParameterMaps)
    assert maps.echoes == settings.echoes
    expected = synthesise(maps.proton_density, maps.t1, maps.t2, echoes=settings.echoes)
    assert difference(maps.weighted, expected.nan_to_num()) < 2e-5


@pytest.mark.parametrize("changed", ECHOES)
def test_the_iterations_heed_every_time(least_squares, changed):
    first = of_type(restored(least_squares), Tsmi).tsmi
    other = of_type(restored(least_squares, **{changed: ECHOES[changed]}), Tsmi).tsmi
    assert difference(other, first) > 1e-5


def test_weighted_images_of_other_times_are_refused(least_squares):
    items = restored(least_squares, te_t2w=0.12)
    words = r"images have .*te_t2w 0.12.* settings are .*te_t2w 0.1,"
    with pytest.raises(Mri2QmapError, match=words):
        list(combined_matching(iter(items), least_squares[0], CombinedMatchingSettings()))
