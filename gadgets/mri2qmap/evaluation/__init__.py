"""Comparing maps with the truth."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mri2qmap.machine.lazy_exports import lazy_exports

if TYPE_CHECKING:
    from mri2qmap.evaluation.figures import comparison_figure
    from mri2qmap.evaluation.lower_bounds import match_voxels, within_sampled_sphere
    from mri2qmap.evaluation.maps import Maps
    from mri2qmap.evaluation.metrics import (
        cosine_distance,
        mape,
        masked_psnr,
        psnr_ssim,
        structural_similarity,
    )

__all__ = [
    "Maps",
    "comparison_figure",
    "cosine_distance",
    "mape",
    "masked_psnr",
    "match_voxels",
    "psnr_ssim",
    "structural_similarity",
    "within_sampled_sphere",
]

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "Maps": "maps",
        "comparison_figure": "figures",
        "cosine_distance": "metrics",
        "mape": "metrics",
        "masked_psnr": "metrics",
        "match_voxels": "lower_bounds",
        "psnr_ssim": "metrics",
        "structural_similarity": "metrics",
        "within_sampled_sphere": "lower_bounds",
    },
)
