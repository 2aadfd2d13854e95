"""Validation: PSNR after denoising images of subjects that are not used for training."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from mri2qmap.denoiser.network import ConditionalResidualUNet
from mri2qmap.denoiser.volume import denoise_volumes
from mri2qmap.evaluation.metrics import masked_psnr
from mri2qmap.training.training_images import TrainingVolume

VALIDATION_SIGMAS = (0.02, 0.05, 0.1, 0.2)

Scores = dict[tuple[str, float], float]
#: Function of a network, on its device, that returns its scores.
Validate = Callable[[ConditionalResidualUNet], Scores]


def validate(
    network: ConditionalResidualUNet, volumes: Sequence[TrainingVolume], device: torch.device
) -> Scores:
    """Measure the PSNR after denoising white Gaussian noise.

    Parameters
    ----------
    network : ConditionalResidualUNet
        Network on ``device``.
    volumes : sequence of TrainingVolume
        True images; the noise is reproducible.
    device : torch.device
        Device of the computation.

    Returns
    -------
    dict
        (contrast, sigma) -> PSNR [dB] over all volumes, see :func:`masked_psnr`, for the available
        contrasts.
    """
    pairs: dict[tuple[str, float], list[tuple[Tensor, Tensor]]] = {}
    generator = torch.Generator().manual_seed(0)
    names = network.config.contrasts
    for volume in volumes:
        contrasts = [name for name, there in zip(names, volume.present, strict=True) if there]
        truth = volume.images[volume.present]
        for sigma in VALIDATION_SIGMAS:
            noisy = truth + sigma * torch.randn(truth.shape, generator=generator)
            restored = denoise_volumes(
                network,
                noisy.to(device),
                sigma,
                contrasts,
                generator=generator,
                scale=torch.ones(len(contrasts)),
            ).cpu()
            for contrast, image, true in zip(contrasts, restored, truth, strict=True):
                pair = image.flatten(), true.flatten()
                pairs.setdefault((contrast, sigma), []).append(pair)
    scores = {}
    for sigma in VALIDATION_SIGMAS:
        for contrast in names:
            if found := pairs.get((contrast, sigma)):
                restored, truth = (torch.cat(part) for part in zip(*found, strict=True))
                scores[contrast, sigma] = masked_psnr(restored, truth)
    return scores
