"""Comparing maps with the truth."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mri2qmap.machine.lazy_exports import lazy_exports

if TYPE_CHECKING:
    from mri2qmap.evaluation.borders import border_sharpness, border_zone
    from mri2qmap.evaluation.figures import comparison_figure
    from mri2qmap.evaluation.lesions import compare_lesions
    from mri2qmap.evaluation.lower_bounds import match_voxels, within_sampled_sphere
    from mri2qmap.evaluation.maps import Maps
    from mri2qmap.evaluation.metrics import (
        Agreement,
        agreement,
        cosine_distance,
        mape,
        masked_psnr,
        psnr_ssim,
        structural_similarity,
    )
    from mri2qmap.evaluation.texture import (
        Band,
        TextureGain,
        local_deviation_ratio,
        spectrum_ratio,
        texture_gain,
    )

__all__ = [
    "Agreement",
    "Band",
    "Maps",
    "TextureGain",
    "agreement",
    "border_sharpness",
    "border_zone",
    "compare_lesions",
    "comparison_figure",
    "cosine_distance",
    "local_deviation_ratio",
    "mape",
    "masked_psnr",
    "match_voxels",
    "psnr_ssim",
    "spectrum_ratio",
    "structural_similarity",
    "texture_gain",
    "within_sampled_sphere",
]

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "Agreement": "metrics",
        "Band": "texture",
        "Maps": "maps",
        "TextureGain": "texture",
        "agreement": "metrics",
        "border_sharpness": "borders",
        "border_zone": "borders",
        "compare_lesions": "lesions",
        "comparison_figure": "figures",
        "cosine_distance": "metrics",
        "local_deviation_ratio": "texture",
        "mape": "metrics",
        "masked_psnr": "metrics",
        "match_voxels": "lower_bounds",
        "psnr_ssim": "metrics",
        "spectrum_ratio": "texture",
        "structural_similarity": "metrics",
        "texture_gain": "texture",
        "within_sampled_sphere": "lower_bounds",
    },
)
