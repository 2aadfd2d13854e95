"""Anatomies: label maps, tissue fractions and phantoms, with the parameters of their tissues."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mri2qmap.machine.lazy_exports import lazy_exports

if TYPE_CHECKING:
    from mri2qmap.anatomy.anatomy import Anatomy
    from mri2qmap.anatomy.label_maps import LabelMap, load_label_map
    from mri2qmap.anatomy.sources import find_anatomies, load_anatomy
    from mri2qmap.anatomy.tissues import Tissue
    from mri2qmap.anatomy.voxel_model import Region, TissueFractions, tissue_fractions

__all__ = [
    "Anatomy",
    "LabelMap",
    "Region",
    "Tissue",
    "TissueFractions",
    "find_anatomies",
    "load_anatomy",
    "load_label_map",
    "tissue_fractions",
]

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "Anatomy": "anatomy",
        "LabelMap": "label_maps",
        "Region": "voxel_model",
        "Tissue": "tissues",
        "TissueFractions": "voxel_model",
        "find_anatomies": "sources",
        "load_anatomy": "sources",
        "load_label_map": "label_maps",
        "tissue_fractions": "voxel_model",
    },
)
