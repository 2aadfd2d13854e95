"""Random texture of training volumes."""

import numpy as np
import pytest

from mri2qmap.training.random_texture import Inclusion, RandomTexture, draw_texture

N = 32


def textures(count=40):
    return [draw_texture(N, 1.5, np.random.default_rng(seed)) for seed in range(count)]


def test_strengths_cover_uniform_tissue_and_rough_tissue():
    found = textures()
    spread = np.array([texture.log_t1.std() for texture in found])
    assert (spread == 0).sum() + (spread < 0.01).sum() > 2
    assert (spread > 0.08).any()
    assert spread.max() < 0.5
    roughness = [
        np.diff(t.log_t1, axis=0).std() / t.log_t1.std() for t in found if t.log_t1.std() > 0.01
    ]
    assert min(roughness) < 0.6
    assert max(roughness) > 1.0
    assert any(len(texture.inclusions) > 2 for texture in found)
    assert any(not texture.inclusions for texture in found)


def test_the_same_seed_gives_the_same():
    first, again = (draw_texture(N, 1.5, np.random.default_rng(5)) for _ in range(2))
    np.testing.assert_array_equal(first.log_t2, again.log_t2)
    assert len(first.inclusions) == len(again.inclusions)


def test_fluid_and_air_do_not_vary():
    shape = (N, N, N)
    t1, t2, density = (np.full(shape, value, np.float32) for value in (0.8, 0.07, 0.7))
    t1[:10], t2[:10], density[:10] = 4.0, 2.0, 1.0
    density[-5:] = 0
    share = np.ones(shape, np.float32)
    texture = RandomTexture(
        np.full(shape, 0.1, np.float32),
        np.full(shape, -0.1, np.float32),
        np.full(shape, 0.05, np.float32),
        (Inclusion(0.5 * share, 1.4, 0.15, 0.9),),
    )
    a, b, c = texture.apply(t1, t2, density)
    np.testing.assert_allclose(a[:10], 4.0)
    np.testing.assert_allclose(b[:10], 2.0)
    assert not c[-5:].any()
    middle = slice(12, 20)
    assert a[middle] == pytest.approx(np.sqrt(0.8 * np.exp(0.1) * 1.4), rel=1e-4)
    assert b[middle] == pytest.approx(np.sqrt(0.07 * np.exp(-0.1) * 0.15), rel=1e-4)
    assert c[middle] == pytest.approx(np.sqrt(0.7 * np.exp(0.05) * 0.9), rel=1e-4)


def test_inclusions_are_fractions_with_possible_times():
    for texture in textures(12):
        for inclusion in texture.inclusions:
            assert inclusion.share.min() >= 0
            assert inclusion.share.max() <= 1
            assert 0.01 < inclusion.t2 < inclusion.t1 < 4
