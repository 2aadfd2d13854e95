"""Export of the maps as DICOM, MRD images and NIfTI."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mri2qmap.machine.lazy_exports import lazy_exports

if TYPE_CHECKING:
    from mri2qmap.export.classic_dicom import classic_series
    from mri2qmap.export.mrd_images import float_images, integer_images
    from mri2qmap.export.nifti import nifti_image
    from mri2qmap.export.parametric_dicom import parametric_map
    from mri2qmap.export.quantity import QUANTITIES, Quantity, QuantitySpec
    from mri2qmap.export.series_identity import ExportRun
    from mri2qmap.export.volumes import ExportVolumes, QuantityVolume, export_volumes

__all__ = [
    "QUANTITIES",
    "ExportRun",
    "ExportVolumes",
    "Quantity",
    "QuantitySpec",
    "QuantityVolume",
    "classic_series",
    "export_volumes",
    "float_images",
    "integer_images",
    "nifti_image",
    "parametric_map",
]

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "ExportRun": "series_identity",
        "ExportVolumes": "volumes",
        "QUANTITIES": "quantity",
        "Quantity": "quantity",
        "QuantitySpec": "quantity",
        "QuantityVolume": "volumes",
        "classic_series": "classic_dicom",
        "export_volumes": "volumes",
        "float_images": "mrd_images",
        "integer_images": "mrd_images",
        "nifti_image": "nifti",
        "parametric_map": "parametric_dicom",
    },
)
