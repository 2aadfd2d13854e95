"""Standard deviations of T1 and T2, from the setting to the maps."""

import pytest
import torch

from mri2qmap.combined_matching import CombinedMatchingSettings, combined_matching
from mri2qmap.errors import Mri2QmapError
from mri2qmap.mrsignal.dictionary import load_dictionary
from mri2qmap.mrsignal.matching import match
from mri2qmap.mrsignal.uncertainty import match_uncertainty
from mri2qmap.pipeline.geometry import Geometry
from mri2qmap.pipeline.items import Tsmi, WeightedImages
from mri2qmap.pipeline.settings import parse_settings
from mri2qmap.recon.object_mask import SIGNAL, object_mask
from mri2qmap.recon.variation_uncertainty import variation_uncertainty

GEOMETRY = Geometry((2, 3, 4), (1e-3,) * 3, (0.0,) * 3, (1.0, 0, 0), (0, 1.0, 0), (0, 0, 1.0))
WEIGHTS = (0.5, 2.0, 0.1)
STEP = {"atom_step": 0.2}


@pytest.fixture(scope="module")
def items():
    generator = torch.Generator().manual_seed(0)
    tsmi = torch.randn(5, *GEOMETRY.matrix, dtype=torch.complex64, generator=generator)
    images = torch.rand(3, *GEOMETRY.matrix, generator=generator)
    return [Tsmi(tsmi, GEOMETRY), WeightedImages(images, WEIGHTS, GEOMETRY)]


def maps_of(items, scan, **settings):
    (maps,) = combined_matching(iter(items), scan, CombinedMatchingSettings(**STEP, **settings))
    return maps


@pytest.mark.parametrize("with_images", [True, False])
def test_maps_have_them_where_they_are_asked_for(items, noisy_scan, with_images):
    scan = noisy_scan[0]
    chosen = items if with_images else items[:1]
    plain = maps_of(chosen, scan)
    assert plain.t1_std is None
    assert plain.t2_std is None
    maps = maps_of(chosen, scan, uncertainty=True, uncertainty_factor=3.0)
    for name in ("t1", "t2", "proton_density", "match_quality", "weighted"):
        assert torch.equal(getattr(maps, name), getattr(plain, name))
    dictionary = load_dictionary(scan.sequence, CombinedMatchingSettings(**STEP).dictionary(5))
    tsmi, weights = items[0].tsmi, WEIGHTS if with_images else (0.0, 0.0, 0.0)
    found = match(tsmi, dictionary, items[1].images if with_images else None, weights)
    of_noise = match_uncertainty(found, dictionary, weights, 1 / 3 if with_images else 1.0)
    inside = torch.from_numpy(object_mask(found.proton_density.abs().numpy(), SIGNAL))
    of_variation = variation_uncertainty(found.t1, found.t2, inside)
    for ours, *both in zip((maps.t1_std, maps.t2_std), of_noise, of_variation, strict=True):
        torch.testing.assert_close(ours, 3 * torch.maximum(*both))


def test_too_few_coefficients_are_told(items, noisy_scan):
    two = [Tsmi(items[0].tsmi[:2], GEOMETRY)]
    with pytest.raises(Mri2QmapError, match="combined_matching: uncertainty: 2 coefficients"):
        maps_of(two, noisy_scan[0], uncertainty=True)


def test_the_settings_are_read_and_checked():
    def parse(**properties):
        return parse_settings(CombinedMatchingSettings, properties, "combined_matching")

    assert parse(uncertainty="true", uncertainty_factor="2").uncertainty
    assert not parse().uncertainty
    for wrong in ("0", "-1", "inf", "nan"):
        with pytest.raises(Mri2QmapError, match="uncertainty_factor"):
            parse(uncertainty_factor=wrong)
    with pytest.raises(Mri2QmapError, match=r"b1"):
        parse(b1="9")
