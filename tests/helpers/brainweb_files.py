"""Tiny fuzzy models in BrainWeb's formats, and functions that write them."""

import gzip
from pathlib import Path

import h5py
import nibabel as nib
import numpy as np
from helpers.phantoms import affine_ras, labels_ras
from numpy.typing import NDArray
from scipy.io import netcdf_file

from mri2qmap.anatomy.fraction_maps import RawGrid

STEP_MM = 10.0
GRID = RawGrid(labels_ras().shape, STEP_MM, tuple(affine_ras()[:3, 3]))
SPACES = ("xspace", "yspace", "zspace")


def fuzzy_model() -> dict[str, NDArray[np.uint8]]:
    """Maps (x, y, z) of the phantom, scaled to 255, by BrainWeb's names, with a fuzzy border."""
    labels = labels_ras()
    maps = {
        name: np.where(np.isin(labels, found), 255, 0).astype(np.uint8)
        for name, found in {
            "bck_v": 0,
            "csf_v": 24,
            "gm_v": 3,
            "wm_v": 2,
            "muscles_skin_v": 511,
            "skull_v": 515,
            "vessels": 30,
        }.items()
    }
    maps["gm_v"][12, 4:20, 3:15], maps["wm_v"][12, 4:20, 3:15] = 102, 153
    return maps


def write_raw(path: Path, values: NDArray[np.uint8], signed: bool = True) -> Path:
    """Write bytes, x fastest; signed as in the 20 brains, where -128 is zero."""
    codes = values ^ 0x80 if signed else values
    return _write(path, codes.transpose().tobytes())


def write_nifti(path: Path, values: NDArray[np.uint8]) -> Path:
    """Write a NIfTI file with values from 0 to 255."""
    nib.save(nib.Nifti1Image(values, affine_ras()), path)
    return path


def write_minc1(
    path: Path, values: NDArray[np.uint8], highest: float = 1.0, order: str = "zyx"
) -> Path:
    """Write MINC 1 of signed bytes; array axes in the given order, the scale slice by slice."""
    axes = ["xyz".index(axis) for axis in order]
    names = [SPACES[axis] for axis in axes]
    data = values.transpose(axes)
    plain = path.with_name(path.name.removesuffix(".gz"))
    with netcdf_file(plain, "w") as file:
        for axis, name, length in zip(axes, names, data.shape, strict=True):
            file.createDimension(name, length)
            dimension = file.createVariable(name, "d", ())
            dimension.spacing, dimension.alignment = b"regular__", b"centre"
            dimension.step, dimension.start = STEP_MM, GRID.start_mm[axis]
        image = file.createVariable("image", "b", tuple(names))
        image.signtype, image.valid_range = b"signed__", np.array([-128.0, 127.0])
        image[:] = (data ^ 0x80).view(np.int8)
        for name, value in (("image-max", highest), ("image-min", 0.0)):
            scale = file.createVariable(name, "d", (names[0],))
            scale[:] = np.full(data.shape[0], value)
    if plain != path:
        path.write_bytes(gzip.compress(plain.read_bytes()))
        plain.unlink()
    return path


def write_minc2(path: Path, values: NDArray[np.uint8], flipped: bool = False) -> Path:
    """Write MINC 2 of unsigned bytes; with `flipped`, x increases to the left."""
    plain = path.with_name(path.name.removesuffix(".gz"))
    order = np.bytes_("zspace,yspace,xspace")
    start, step = list(GRID.start_mm), [STEP_MM] * 3
    if flipped:
        values = values[::-1]
        start[0], step[0] = start[0] + (values.shape[0] - 1) * STEP_MM, -STEP_MM
    with h5py.File(plain, "w") as file:
        root = file.create_group("minc-2.0")
        for axis, name in enumerate(SPACES):
            dimension = root.create_dataset(f"dimensions/{name}", data=0)
            dimension.attrs["spacing"] = np.bytes_("regular__")
            dimension.attrs["start"], dimension.attrs["step"] = start[axis], step[axis]
        image = root.create_dataset("image/0/image", data=values.transpose())
        image.attrs["dimorder"], image.attrs["valid_range"] = order, np.array([0.0, 255.0])
        for name, value in (("image-max", 1.0), ("image-min", 0.0)):
            root.create_dataset(f"image/0/{name}", data=value)
    if plain != path:
        path.write_bytes(gzip.compress(plain.read_bytes()))
        plain.unlink()
    return path


def write_subject(folder: Path, subject: str = "subject04", ending: str = ".rawb") -> Path:
    """Write all maps of a subject, and its discrete model, under the site's names."""
    folder.mkdir(exist_ok=True)
    write = {".rawb": write_raw, ".mnc": write_minc1, ".nii": write_nifti}[
        ending.removesuffix(".gz")
    ]
    for name, values in fuzzy_model().items():
        write(folder / f"{subject}_{name}{ending}", values)
    (folder / f"{subject}_crisp_v{ending}").write_bytes(b"not read")
    return folder


def _write(path: Path, content: bytes) -> Path:
    path.write_bytes(gzip.compress(content) if path.name.endswith(".gz") else content)
    return path
