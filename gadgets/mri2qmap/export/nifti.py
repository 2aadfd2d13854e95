"""NIfTI volumes with BIDS names and units."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

import mri2qmap
from mri2qmap.export.nifti_sidecar import nifti_unit
from mri2qmap.export.planes import patient_affine
from mri2qmap.export.series_identity import PARTIAL, incomplete_warning
from mri2qmap.export.volumes import QuantityVolume
from mri2qmap.pipeline.geometry import Geometry

if TYPE_CHECKING:
    import nibabel as nib

_DESCRIPTION_BYTES = 79
_SCANNER_COORDINATES = 1


def nifti_affine(geometry: Geometry) -> NDArray[np.float64]:
    """Map from voxel indices (x, y, z, 1) to right-anterior-superior coordinates [mm]."""
    affine: NDArray[np.float64] = np.diag([-1.0, -1.0, 1.0, 1.0]) @ patient_affine(geometry)
    return affine


def nifti_image(volume: QuantityVolume, incomplete: str = "") -> nib.Nifti1Image:
    """Convert a volume to NIfTI: float32 (x, y, z), T1 and T2 in seconds as required by BIDS.

    Both affines map voxel indices to right-anterior-superior scanner coordinates (RAS) [mm].

    Parameters
    ----------
    volume
        Volume to convert.
    incomplete
        Description of the missing readouts; empty for a complete scan. If it is not empty, the
        header fields descrip and aux_file begin with `PARTIAL`, and a header extension of type
        comment contains the full text.
    """
    import nibabel as nib  # only this gadget needs it

    affine = nifti_affine(volume.geometry)
    data = np.ascontiguousarray(volume.values.transpose(2, 1, 0))
    new_image: Any = nib.Nifti1Image  # without type annotations
    image = new_image(data, affine)
    image.set_sform(affine, code=_SCANNER_COORDINATES)
    image.set_qform(affine, code=_SCANNER_COORDINATES)
    image.header.set_xyzt_units(xyz="mm")
    spec = volume.spec
    description = f"{spec.label} [{nifti_unit(volume)}], mri2qmap {mri2qmap.__version__}"
    if incomplete:
        warning = incomplete_warning(incomplete)
        description = f"{PARTIAL} {description}. {warning}"
        image.header["aux_file"] = PARTIAL
        image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", warning.encode()))
    image.header["descrip"] = description.encode("ascii", "replace")[:_DESCRIPTION_BYTES]
    low, high = (limit / spec.to_unit for limit in volume.window)
    image.header["cal_min"], image.header["cal_max"] = low, high
    finished: nib.Nifti1Image = image
    return finished


def nifti_name(volume: QuantityVolume) -> str:
    """Return the file name, for example ``T1map.nii.gz``."""
    return f"{volume.quantity}.nii.gz"
