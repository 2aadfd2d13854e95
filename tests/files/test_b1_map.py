"""Maps of the transmit field: resampling to the grid of the scan, and refusal of invalid maps."""

import nibabel as nib
import numpy as np
import pytest
from export.scans import oblique_geometry

from mri2qmap.errors import Mri2QmapError
from mri2qmap.files.b1_map import read_b1_map
from mri2qmap.pipeline.geometry import Geometry

GEOMETRY = Geometry((8, 10, 12), (4e-3, 3e-3, 2e-3), position=(0.01, -0.02, 0.03))


def positions(geometry: Geometry) -> np.ndarray:
    """Right-anterior-superior coordinates [mm] of each voxel, (z, y, x, 3)."""
    found = np.empty((*geometry.matrix, 3))
    centre = [n // 2 for n in geometry.matrix]
    step = np.array([geometry.slice_dir, geometry.phase_dir, geometry.read_dir])
    step = step * np.array(geometry.voxel_size)[:, None]
    for index in np.ndindex(geometry.matrix):
        lps = np.array(geometry.position) + (np.array(index) - centre) @ step
        found[index] = 1e3 * lps * (-1, -1, 1)
    return found


def field_at(ras: np.ndarray) -> np.ndarray:
    """A field that trilinear interpolation reproduces exactly."""
    return 1 + ras @ np.array([0.002, -0.003, 0.001])


def write(path, values, affine, **header):
    image = nib.Nifti1Image(np.asarray(values), affine)
    for name, value in header.items():
        image.header[name] = value
    nib.save(image, path)
    return str(path)


def write_field(path, shape, affine):
    """Write `field_at` on a grid (x, y, z)."""
    index = np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij"), -1)
    ras = nib.affines.apply_affine(affine, index)
    return write(path, field_at(ras).astype(np.float32), affine)


def grid_around(geometry: Geometry, spacing: float, turn: np.ndarray, margin: float = 12.0):
    """Shape and affine of a grid with axes `turn` (columns) that contains all voxels of a scan."""
    ras = positions(geometry).reshape(-1, 3)
    axes = turn * spacing
    index = (ras - ras.mean(0)) @ np.linalg.inv(axes).T
    low = np.floor(index.min(0) - margin / spacing)
    affine = np.eye(4)
    affine[:3, :3] = axes
    affine[:3, 3] = ras.mean(0) + axes @ low
    return tuple(np.ceil(index.max(0) + margin / spacing - low).astype(int)), affine


TURNED = np.linalg.qr(np.array([[1.0, 0.2, 0.1], [-0.3, 1, 0.2], [0.1, -0.2, 1]]))[0]


@pytest.mark.parametrize("geometry", [GEOMETRY, oblique_geometry()], ids=["straight", "oblique"])
@pytest.mark.parametrize(
    ("spacing", "turn"),
    [
        (3.0, np.eye(3)),
        (7.5, np.eye(3)),
        (1.7, np.diag([-1.0, -1, 1])),
        (5.0, np.eye(3)[[2, 0, 1]]),
        (4.0, TURNED),
    ],
    ids=["shifted", "coarser", "flipped", "axes swapped", "oblique"],
)
def test_field_is_positioned_by_the_affine(tmp_path, geometry, spacing, turn):
    file = write_field(tmp_path / "b1.nii.gz", *grid_around(geometry, spacing, turn))
    found, outside = read_b1_map(file).on_grid(geometry)
    assert found.shape == geometry.matrix
    assert outside == 0
    np.testing.assert_allclose(found, field_at(positions(geometry)), atol=1e-5)


def test_map_on_the_grid_of_the_scan_is_unchanged(tmp_path):
    values = np.random.default_rng(0).uniform(0.7, 1.3, GEOMETRY.matrix).astype(np.float32)
    file = write(tmp_path / "b1.nii", values.T, GEOMETRY.affine_ras_mm)
    found, outside = read_b1_map(file).on_grid(GEOMETRY)
    np.testing.assert_allclose(found, values, atol=1e-6)
    assert outside == 0


def test_nearest_value_is_used_outside_the_map(tmp_path):
    values = np.linspace(0.8, 1.2, 12, dtype=np.float32)[:, None, None] * np.ones((12, 10, 8))
    file = write(tmp_path / "b1.nii", values[:6], GEOMETRY.affine_ras_mm)
    found, outside = read_b1_map(file).on_grid(GEOMETRY)
    np.testing.assert_allclose(found[:, :, :6], values.T[:, :, :6], atol=1e-6)
    np.testing.assert_allclose(found[:, :, 6:], values[5, 0, 0], atol=1e-6)
    assert outside == pytest.approx(0.5)


def test_nearest_value_is_used_without_a_measurement(tmp_path):
    values = np.linspace(0.8, 1.2, 12, dtype=np.float32)[:, None, None] * np.ones((12, 10, 8))
    values[:3] = 0
    values[8:] = 0
    file = write(tmp_path / "b1.nii", values, GEOMETRY.affine_ras_mm)
    found, _ = read_b1_map(file).on_grid(GEOMETRY)
    np.testing.assert_allclose(found[:, :, :3], values[3, 0, 0], atol=1e-6)
    np.testing.assert_allclose(found[:, :, 8:], values[7, 0, 0], atol=1e-6)


def test_scaled_integers_and_a_single_4d_volume(tmp_path):
    image = nib.Nifti1Image(np.full((4, 4, 4, 1), 105, np.int16), np.diag([40.0, 40, 40, 1]))
    image.header.set_slope_inter(0.01, 0)
    nib.save(image, tmp_path / "b1.nii")
    found, _ = read_b1_map(str(tmp_path / "b1.nii")).on_grid(GEOMETRY)
    np.testing.assert_allclose(found, 1.05, atol=1e-6)


AFFINE = np.diag([3.0, 3.0, 3.0, 1.0])
ONES = np.ones((4, 4, 4), np.float32)


def changed(value):
    values = ONES.copy()
    values[1, 2, 3] = value
    return values


@pytest.mark.parametrize(
    ("values", "affine", "header", "words"),
    [
        (changed(np.nan), AFFINE, {}, "1 values are not finite; set voxels without"),
        (changed(np.inf), AFFINE, {}, "not finite"),
        (changed(0.1), AFFINE, {}, r"1 of 64 values .*0\.3 to 2.*set voxels without a measurement"),
        (changed(-1), AFFINE, {}, "are outside the range"),
        (100 * ONES, AFFINE, {}, "the median is 100: is the map in per cent"),
        (0 * ONES, AFFINE, {}, "0 everywhere"),
        (np.ones((4, 4, 4, 2), np.float32), AFFINE, {}, r"shape is \(4, 4, 4, 2\); one volume"),
        (ONES.astype(np.complex64), AFFINE, {}, "type is complex64"),
        (ONES, None, {}, "does not define its position"),
        (ONES, AFFINE, {"xyzt_units": 1}, "unit of length is meter"),
        (ONES, np.diag([3.0, 3.0, 0.0, 1.0]), {}, "not invertible"),
    ],
)
def test_invalid_map_is_refused(tmp_path, values, affine, header, words):
    path = tmp_path / "b1.nii"
    image = nib.Nifti1Image(values, None)
    if affine is not None:
        image.set_sform(affine, 1)
    for name, value in header.items():
        image.header[name] = value
    nib.save(image, path)
    with pytest.raises(Mri2QmapError, match=words) as error:
        read_b1_map(str(path))
    assert str(path) in str(error.value)


def test_file_that_is_not_a_map_is_refused(tmp_path):
    with pytest.raises(Mri2QmapError, match="does not exist; a NIfTI volume"):
        read_b1_map(str(tmp_path / "none.nii"))
    (tmp_path / "text.nii").write_text("not a volume")
    with pytest.raises(Mri2QmapError, match="cannot be read as NIfTI"):
        read_b1_map(str(tmp_path / "text.nii"))
    nib.save(nib.MGHImage(ONES, AFFINE), tmp_path / "b1.mgz")
    with pytest.raises(Mri2QmapError, match="MGHImage"):
        read_b1_map(str(tmp_path / "b1.mgz"))


def test_map_that_does_not_overlap_the_scan_is_refused(tmp_path):
    far = AFFINE.copy()
    far[:3, 3] = 500
    file = write(tmp_path / "b1.nii", ONES, far)
    with pytest.raises(Mri2QmapError, match=r"centre is at \(50[0-9], .*that of the scan at \("):
        read_b1_map(file).on_grid(GEOMETRY)
