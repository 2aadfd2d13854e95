"""Restoring TSMIs with a network, for the reconstructions that do."""

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

#: Noise level that a network which removes artefacts is told: always the same.
ARTEFACT_SIGMA = 0.1
#: Relative difference below which numbers of two sequences are the same: headers round them.
_SAME = 1e-4


def restore_images(
    network: ConditionalResidualUNet,
    images: Tensor,
    sigma: float,
    *,
    flip_average: bool = True,
    patch: int = 64,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Restore the images of a TSMI (2 s, z, y, x) in its units; see :func:`denoise_volumes`."""
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
    name: str, task: Task, sequence: Sequence, device: torch.device
) -> ConditionalResidualUNet:
    """Load a network that restores TSMIs.

    Parameters
    ----------
    name : str
        As :func:`model_path` takes it.
    task : Task
        What it must have been trained for.
    sequence : Sequence
        What is measured.
    device : torch.device
        Where the network goes.

    Raises
    ------
    Mri2QmapError
        If it cannot be loaded, or was trained for something else.
    """
    denoiser = load_denoiser(name, device, task)
    wanted, numbers = np.array(denoiser.info.get("sequence", [])), sequence.numbers()
    if wanted.shape != numbers.shape or not np.allclose(numbers, wanted, rtol=_SAME, atol=0):
        raise Mri2QmapError(
            f"denoiser {name}: it was trained on TSMIs of another sequence (flip angles, times), in"
            " which coefficients mean something else; train one on recordings of this sequence"
        )
    return denoiser.network


def check_coefficients(network: ConditionalResidualUNet, coefficients: int) -> None:
    """Make sure that a network restores TSMIs of this number of coefficients.

    Raises
    ------
    Mri2QmapError
        If it does not.
    """
    if network.config.contrasts != tsmi_channels(coefficients):
        raise Mri2QmapError(
            f"the network restores TSMIs of {len(network.config.contrasts) // 2} coefficients, and"
            f" this one has {coefficients}; set coefficients of subspace_compression"
        )


def remove_artefacts(
    network: ConditionalResidualUNet, tsmi: Tensor, seed: int = 0, patch: int = 64
) -> Tensor:
    """Remove what undersampling left in a TSMI: ARNet.

    Parameters
    ----------
    network : ConditionalResidualUNet
        Trained for :attr:`Task.TSMI_ARTEFACTS`.
    tsmi : Tensor
        (s, z, y, x) complex64, of least squares.
    seed : int
        Of the random offset of the patches.
    patch : int
        Their largest side.

    Returns
    -------
    Tensor
        (s, z, y, x).

    Raises
    ------
    Mri2QmapError
        If the network is for another number of coefficients.

    Notes
    -----
    MRI2Qmap paper, supplement S.III. The mean over mirror images is taken, and one random offset of
    patches, instead of overlapping ones.
    """
    check_coefficients(network, len(tsmi))
    units = TsmiUnits.of(tsmi)
    generator = torch.Generator().manual_seed(seed)
    restored = restore_images(
        network, units.images(tsmi), ARTEFACT_SIGMA, patch=patch, generator=generator
    )
    return units.tsmi(restored)


def tsmi_denoiser(
    network: ConditionalResidualUNet, initial: Tensor, sigma: float, seed: int = 0, patch: int = 64
) -> Callable[[Tensor], Tensor]:
    """Make a network the prior of a reconstruction of TSMIs: MRF-PnP.

    Parameters
    ----------
    network : ConditionalResidualUNet
        Trained for :attr:`Task.TSMI_NOISE`.
    initial : Tensor
        (s, z, y, x) complex64: scale and phase of all TSMIs to come are taken from it.
    sigma : float
        Noise level of real and imaginary parts, relative to its bright end.
    seed : int
        Of the random offsets of the patches, which go on from one call to the next.
    patch : int
        Their largest side.

    Raises
    ------
    Mri2QmapError
        If the network is for another number of coefficients.
    """
    check_coefficients(network, len(initial))
    units = TsmiUnits.of(initial)
    generator = torch.Generator().manual_seed(seed)

    def denoise(tsmi: Tensor) -> Tensor:
        restored = restore_images(
            network, units.images(tsmi), sigma, flip_average=False, patch=patch, generator=generator
        )
        return units.tsmi(restored)

    return denoise
