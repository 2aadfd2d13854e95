"""Restoration of TSMIs with a network, for ARNet and MRF-PnP."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from mri2qmap.denoiser.checkpoint import Task, load_denoiser
from mri2qmap.denoiser.network import ConditionalResidualUNet
from mri2qmap.denoiser.tsmi_images import TsmiUnits, tsmi_channels
from mri2qmap.denoiser.volume import denoise_volumes
from mri2qmap.errors import Mri2QmapError
from mri2qmap.mrsignal.sequence import Sequence

#: Constant noise level passed to networks that remove artefacts.
ARTEFACT_SIGMA = 0.1
#: Relative tolerance in the comparison of sequences, whose numbers are rounded in headers.
_SEQUENCE_TOLERANCE = 1e-4


def restore_images(
    network: ConditionalResidualUNet,
    images: Tensor,
    sigma: float,
    *,
    flip_average: bool = True,
    patch: int = 64,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Restore the images (2 s, z, y, x) of a TSMI in its units; see :func:`denoise_volumes`."""
    return denoise_volumes(
        network,
        images,
        sigma,
        network.config.contrasts,
        patch=patch,
        generator=generator,
        scale=torch.ones(len(images)),
        flip_average=flip_average,
    )


def load_tsmi_network(
    name: str, task: Task, sequence: Sequence, device: torch.device, patch: int | None = None
) -> ConditionalResidualUNet:
    """Load a network that restores TSMIs.

    Parameters
    ----------
    name : str
        Name or path, see :func:`model_path`.
    task : Task
        Purpose that the network must have been trained for.
    sequence : Sequence
        Sequence of the scan; the network must have been trained for the same.
    device : torch.device
        Device of the network.
    patch : int, optional
        Side of the patches it will be given [voxels].

    Raises
    ------
    Mri2QmapError
        If it cannot be loaded, needs larger patches, or was trained for another task or sequence.
    """
    denoiser = load_denoiser(name, device, task, patch)
    wanted, numbers = np.array(denoiser.info.get("sequence", [])), sequence.numbers()
    if wanted.shape != numbers.shape or not np.allclose(
        numbers, wanted, rtol=_SEQUENCE_TOLERANCE, atol=0
    ):
        raise Mri2QmapError(
            f"denoiser {name}: it was trained for another sequence (flip angles, times), whose"
            " subspace coefficients differ; train a network on recordings of this sequence"
        )
    return denoiser.network


def check_coefficients(network: ConditionalResidualUNet, coefficients: int) -> None:
    """Check that a network restores TSMIs with this number of coefficients.

    Raises
    ------
    Mri2QmapError
        If it does not.
    """
    if network.config.contrasts != tsmi_channels(coefficients):
        raise Mri2QmapError(
            f"the network restores TSMIs of {len(network.config.contrasts) // 2} coefficients, but"
            f" this TSMI has {coefficients}; set subspace_compression.coefficients"
        )


def remove_artefacts(
    network: ConditionalResidualUNet, tsmi: Tensor, seed: int = 0, patch: int = 64
) -> Tensor:
    """Remove undersampling artefacts from a TSMI (ARNet).

    Parameters
    ----------
    network : ConditionalResidualUNet
        Network trained for :attr:`Task.TSMI_ARTEFACTS`.
    tsmi : Tensor
        (s, z, y, x) complex64 least-squares TSMI.
    seed : int
        Seed of the random offset of the patches.
    patch : int
        Largest side of the patches [voxels].

    Returns
    -------
    Tensor
        (s, z, y, x) complex64.

    Raises
    ------
    Mri2QmapError
        If the network is for another number of coefficients.

    Notes
    -----
    MRI2Qmap paper, supplement S.III. The result is averaged over flips (test-time augmentation) of
    non-overlapping patches at one random offset, where the paper uses overlapping patches.
    """
    check_coefficients(network, len(tsmi))
    units = TsmiUnits.of(tsmi)
    generator = torch.Generator().manual_seed(seed)
    restored = restore_images(
        network, units.images(tsmi), ARTEFACT_SIGMA, patch=patch, generator=generator
    )
    return units.tsmi(restored)


def tsmi_denoiser(
    network: ConditionalResidualUNet,
    initial: Tensor,
    sigma: float,
    generator: torch.Generator,
    patch: int = 64,
) -> Callable[[Tensor], Tensor]:
    """Return a denoiser of TSMIs for an iterative reconstruction (MRF-PnP).

    Parameters
    ----------
    network : ConditionalResidualUNet
        Network trained for :attr:`Task.TSMI_NOISE`.
    initial : Tensor
        (s, z, y, x) complex64 TSMI that defines the scale and phase of all later ones.
    sigma : float
        Noise level of real and imaginary parts, relative to the intensity scale of ``initial``.
    generator : torch.Generator
        Generator of the random offsets of the patches; each call draws a new offset.
    patch : int
        Largest side of the patches [voxels].

    Raises
    ------
    Mri2QmapError
        If the network is for another number of coefficients.
    """
    check_coefficients(network, len(initial))
    units = TsmiUnits.of(initial)

    def denoise(tsmi: Tensor) -> Tensor:
        restored = restore_images(
            network, units.images(tsmi), sigma, flip_average=False, patch=patch, generator=generator
        )
        return units.tsmi(restored)

    return denoise
