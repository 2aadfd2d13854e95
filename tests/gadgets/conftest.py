"""A small scan with known tissues, for the gadgets and the whole chain."""

import pytest
from helpers.gpu_fixtures import gpu, single_precision  # noqa: F401 - fixtures
from helpers.phantoms import write_ball

from mri2qmap.anatomy.voxel_model import Region
from mri2qmap.files.mrd_file import MrdFile
from mri2qmap.mrsignal.sequence import default_sequence
from mri2qmap.pipeline.acquisition_kinds import is_noise_scan
from mri2qmap.pipeline.scan_header import ScanInfo
from mri2qmap.simulation.mrd_writer import write_scan
from mri2qmap.simulation.simulator import NoiseModel, SimulationSettings, simulate

N = 16
FRAMES = 120


@pytest.fixture(scope="session")
def label_file(tmp_path_factory):
    """A ball of white matter with a grey half, 2 mm voxels."""
    return write_ball(tmp_path_factory.mktemp("anatomy") / "ball.nii.gz")


@pytest.fixture(scope="session")
def make_scan(label_file, tmp_path_factory):
    """Function that simulates, writes and opens a scan: (scan, items, simulation, path)."""

    def make(frames=FRAMES, **changes):
        settings = SimulationSettings(
            **{
                "anatomy": str(label_file),
                "region": Region.BRAIN,
                "matrix": (N, N, N),
                "field_of_view": (0.128, 0.128, 0.128),
                "coils": 4,
                "acceleration": 0.1,
                "groups": 2,
                "noise": 0.0,
                "noise_model": NoiseModel.AUTO,
                **changes,
            }
        )
        simulation = simulate(settings, default_sequence(frames))
        path = tmp_path_factory.mktemp("scan") / "scan.h5"
        write_scan(path, simulation.scan)
        with MrdFile(path) as file:
            scan = ScanInfo.from_header(file.header)
            items = list(file.items())
        return scan, items, simulation, path

    return make


@pytest.fixture(scope="session")
def noisy_scan(make_scan):
    """Four coils with correlated noise, and noise scans."""
    return make_scan(noise=0.05)


@pytest.fixture(scope="session")
def eight_coils(make_scan):
    """Eight coils with correlated noise, five groups: scan, noise scans, imaging, simulation."""
    scan, items, simulation, _ = make_scan(coils=8, acceleration=1.0, groups=5, noise=0.25, seed=1)
    noise = [a for a in items if is_noise_scan(a)]
    return scan, noise, [a for a in items if not is_noise_scan(a)], simulation
