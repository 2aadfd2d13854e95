"""The filter of TSMIs: what it removes, what it keeps, and volumes of any size."""

import math

import pytest
import torch

from mri2qmap.denoiser import nonlocal_wiener
from mri2qmap.denoiser.tsmi_wiener import TsmiWiener

SHAPE = (3, 14, 12, 10)
SIGMA = 0.1


@pytest.fixture(autouse=True)
def near_search(monkeypatch):
    monkeypatch.setattr(nonlocal_wiener, "_REACH", 4)


def noise(seed, shape=SHAPE):
    """Standard deviation 1 in real and in imaginary parts."""
    generator = torch.Generator().manual_seed(seed)
    return math.sqrt(2) * torch.randn(shape, dtype=torch.complex64, generator=generator)


@pytest.fixture(scope="module")
def clean():
    """Two tissues and a smooth phase; the third coefficient is much weaker than the noise."""
    _, nz, ny, nx = SHAPE
    z, y, x = torch.meshgrid(torch.arange(nz), torch.arange(ny), torch.arange(nx), indexing="ij")
    tissue = torch.sigmoid(1.5 * (x + 0.5 * y - 0.3 * z - 6.0))
    levels = torch.tensor([[1.0, 0.5], [0.2, -0.4], [1e-4, 2e-4]])
    images = levels[:, 0, None, None, None] * tissue + levels[:, 1, None, None, None] * (1 - tissue)
    return torch.polar(torch.ones(SHAPE[1:]), 0.1 * x + 0.05 * y) * images


def rms(tsmi):
    return float(tsmi.abs().square().mean().sqrt())


@pytest.mark.parametrize("unit", [1e-9, 1.0, 1e9])
def test_noise_is_removed_in_any_unit(clean, unit):
    noisy = clean + SIGMA * noise(0)
    restored = TsmiWiener(unit * clean, unit * SIGMA)(unit * noisy) / unit
    assert rms(restored - clean) < 0.3 * rms(noisy - clean)


@pytest.mark.parametrize("unit", [1e-9, 1.0, 3e5])
def test_a_sheet_of_one_voxel_in_an_empty_volume(unit):
    """Its intensity scale is not that of its values; no cube outside the volume may be used."""
    guide = torch.zeros(3, 16, 16, 16, dtype=torch.complex64)
    guide[:, 8, 4:12, 4:12] = unit * torch.tensor([3.0, 1.0, 0.3])[:, None, None]
    restored = TsmiWiener(guide, 0.05 * unit)(guide)
    assert bool(restored.isfinite().all())
    assert rms(restored - guide) < 0.1 * rms(guide)


def test_where_the_guide_has_nothing_the_result_is_that_of_the_guide(clean):
    restored = TsmiWiener(clean, SIGMA)(clean + SIGMA * noise(1))
    assert rms(restored[2] - clean[2]) < 1e-3 * SIGMA


def test_what_the_guide_lacks_returns_in_part(clean):
    """A guide that is too bright everywhere: the means of groups are shared."""
    restored = TsmiWiener(1.1 * clean, SIGMA)(clean)
    ratio = float((restored[0] / clean[0]).real.mean())
    assert 1.01 < ratio < 1.06


def test_it_is_affine(clean):
    restore = TsmiWiener(clean, SIGMA)
    first, second = clean + SIGMA * noise(2), SIGMA * noise(3)
    mixed = restore(0.4 * first + 0.6 * second)
    torch.testing.assert_close(
        mixed, 0.4 * restore(first) + 0.6 * restore(second), atol=1e-5, rtol=0
    )


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 20, 9), (4, 8, 2), (7, 7, 7)])
def test_short_sides(shape):
    guide = torch.ones(2, *shape, dtype=torch.complex64)
    noisy = guide + SIGMA * noise(4, (2, *shape))
    restored = TsmiWiener(guide, SIGMA)(noisy)
    assert restored.shape == guide.shape
    assert rms(restored - guide) < 0.9 * rms(noisy - guide)


@pytest.mark.parametrize("sigma", [0.0, 1e-30, 0.1])
def test_an_empty_guide(sigma):
    guide = torch.zeros(SHAPE, dtype=torch.complex64)
    restored = TsmiWiener(guide, sigma)(guide)
    assert torch.equal(restored, guide)


def test_bad_input_is_refused(clean):
    with pytest.raises(ValueError, match=r"complex \(s, z, y, x\)"):
        TsmiWiener(clean.real, SIGMA)
    with pytest.raises(ValueError, match="not finite"):
        TsmiWiener(clean * math.nan, SIGMA)
    with pytest.raises(ValueError, match="expected that of the guide"):
        TsmiWiener(clean, SIGMA)(clean[:2])
