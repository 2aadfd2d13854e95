"""The image denoiser: network, classical pre-filters, application to volumes, checkpoints."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mri2qmap.machine.lazy_exports import lazy_exports

if TYPE_CHECKING:
    from mri2qmap.denoiser.checkpoint import (
        Denoiser,
        Task,
        load_denoiser,
        model_path,
        save_denoiser,
    )
    from mri2qmap.denoiser.network import ConditionalResidualUNet, DenoiserConfig
    from mri2qmap.denoiser.volume import admm_denoiser, denoise_volumes

__all__ = [
    "ConditionalResidualUNet",
    "Denoiser",
    "DenoiserConfig",
    "Task",
    "admm_denoiser",
    "denoise_volumes",
    "load_denoiser",
    "model_path",
    "save_denoiser",
]

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "ConditionalResidualUNet": "network",
        "Denoiser": "checkpoint",
        "DenoiserConfig": "network",
        "Task": "checkpoint",
        "admm_denoiser": "volume",
        "denoise_volumes": "volume",
        "load_denoiser": "checkpoint",
        "model_path": "checkpoint",
        "save_denoiser": "checkpoint",
    },
)
