import numpy as np
import pytest

from mri2qmap.anatomy.sources import NIST
from mri2qmap.anatomy.system_phantom import (
    SPHERE_RADIUS_MM,
    SPHERES,
    sphere_centres_mm,
    system_phantom,
)
from mri2qmap.anatomy.voxel_model import Region, tissue_fractions
from mri2qmap.simulation.simulator import SimulationSettings, simulate


@pytest.fixture(scope="module")
def truth():
    return tissue_fractions(system_phantom(), Region.BRAIN, (48, 48, 48), (0.144,) * 3)


def test_spheres_are_separate_and_within_the_ball():
    centres = np.array(sphere_centres_mm())
    assert len(centres) == len(SPHERES) == 28
    distances = np.linalg.norm(centres[:, None] - centres[None], axis=2) + 1e3 * np.eye(28)
    assert distances.min() > 2 * SPHERE_RADIUS_MM + 2
    assert np.linalg.norm(centres, axis=1).max() + SPHERE_RADIUS_MM < 68


def test_every_sphere_has_its_position_and_volume(truth):
    assert truth.tissues == SPHERES
    grid = np.stack(np.meshgrid(*[(np.arange(48) - 24) * 3.0] * 3, indexing="ij"))[::-1]
    expected = 4 / 3 * np.pi * SPHERE_RADIUS_MM**3 / 27
    for sphere, centre in zip(SPHERES, sphere_centres_mm(), strict=True):
        share = truth.fractions[truth.tissues.index(sphere)]
        assert share.sum() == pytest.approx(expected, rel=0.03)
        # Grid axes x, y, z: left, posterior, head; positions: right, anterior, head.
        found = np.array([(g * share).sum() for g in grid]) / share.sum() * (-1, -1, 1)
        np.testing.assert_allclose(found, centre, atol=0.8)


def test_the_phantom_can_be_simulated():
    settings = SimulationSettings(
        anatomy=NIST, matrix=(32,) * 3, field_of_view=(0.144,) * 3, coils=1, noise=0.0
    )
    simulation = simulate(settings)
    assert simulation.truth.name == "NIST system phantom"
    assert np.isfinite(simulation.scan.kspace).all()
    found = simulation.truth.t1()
    assert found.max() == pytest.approx(max(s.t1 for s in SPHERES), rel=1e-3)
