import math

import pytest
import torch

from mri2qmap.evaluation.psnr import OBJECT, masked_psnr


def test_known_answer_counts_the_object_only():
    truth = torch.zeros(4, 4, 4)
    truth[:2] = 0.7
    restored = truth + 0.1 * (truth > 0) + 5.0 * (truth == 0)
    assert masked_psnr(restored, truth) == pytest.approx(20, abs=1e-4)


def test_volumes_together_count_by_their_mean_squared_error():
    truth = torch.full((2, 3, 3, 3), 0.5)
    restored = truth + torch.tensor([0.0, 0.1])[:, None, None, None]
    expected = -10 * math.log10(0.005)
    assert masked_psnr(restored, truth) == pytest.approx(expected, abs=1e-4)


def test_limits():
    truth = torch.full((2, 2, 2), 2 * OBJECT)
    assert masked_psnr(truth, truth) == math.inf
    assert math.isnan(masked_psnr(truth, torch.full_like(truth, OBJECT / 2)))
    with pytest.raises(ValueError, match="truth"):
        masked_psnr(truth[0], truth)
