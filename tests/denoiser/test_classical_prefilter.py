from __future__ import annotations

import numpy as np
import torch

from mri2qmap.denoiser.classical_prefilter import classical_prefilter
from mri2qmap.denoiser.dct_wiener import dct_wiener_filter
from mri2qmap.denoiser.nonlocal_means import nonlocal_means

SIGMA = 0.1


def test_each_filter_improves_on_the_previous_one():
    z, y, x = np.meshgrid(*[np.arange(24)] * 3, indexing="ij")
    regions = (x > 11) + 1.0 * (y > 9 + 0.3 * x) + (np.hypot(z - 12, y - 5) < 4)
    tones = np.random.default_rng(0).uniform(0.2, 1, (1, 3, 1, 1, 1))
    clean = torch.from_numpy(np.cos(tones * 2 * regions)).float()
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(1))
    noisy, sigma = clean + SIGMA * noise, torch.tensor([SIGMA])
    local, grouped = classical_prefilter(noisy, sigma)
    assert torch.equal(local, dct_wiener_filter(noisy, sigma))
    averaged = nonlocal_means(noisy, local, sigma)
    steps = (noisy, local, (local + averaged) / 2, grouped)
    errors = [float((step - clean).square().mean()) for step in steps]
    assert errors[1] < 0.3 * errors[0]
    assert errors[2] < errors[1]
    assert errors[3] < 0.9 * errors[2]
