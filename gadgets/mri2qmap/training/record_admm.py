"""Reconstruct simulated heads and record the inputs of the denoiser.

Each recording is of a different random scan (`mri2qmap.training.random_scans`) and uses randomly
drawn ADMM parameters.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from mri2qmap.anatomy.label_maps import LabelMap
from mri2qmap.denoiser.network import CONTRASTS, ConditionalResidualUNet
from mri2qmap.denoiser.volume import denoise_volumes, intensity_scale
from mri2qmap.mrsignal.dictionary import Dictionary
from mri2qmap.mrsignal.matching import match
from mri2qmap.mrsignal.sequence import Sequence
from mri2qmap.recon.plug_and_play import plug_and_play
from mri2qmap.recon.plug_and_play_parameters import PlugAndPlayParameters
from mri2qmap.training.admm_recordings import AdmmRecording
from mri2qmap.training.random_scans import ScanRanges, draw_scan, log_uniform


@dataclass(frozen=True)
class RecordingSettings(ScanRanges):
    """Ranges of the parameters of a recording.

    Coupling and total variation are drawn log-uniformly, the others added here uniformly.

    Attributes
    ----------
    matrix, voxel_mm, acceleration, noise, ball_share
        See `ScanRanges`.
    iterations, cg_iterations
        ADMM iterations, and most conjugate-gradient steps in each.
    coupling, total_variation
        lambda and mu of the ADMM.
    edge_contrasts
        Edge contrasts of the total variation, of which one is drawn.
    weight
        Weight of all three contrasts.
    truth_share
        Fraction beta of the true images in the output of the denoiser, beta truth + (1 - beta)
        D(images): the iterations then proceed as with a better denoiser, such as the one to be
        trained.
    """

    iterations: tuple[int, int] = (12, 12)
    cg_iterations: tuple[int, int] = (8, 8)
    coupling: tuple[float, float] = (2.0, 8.0)
    total_variation: tuple[float, float] = (4.0, 22.0)
    edge_contrasts: tuple[float, ...] = (0.0, 0.12)
    weight: tuple[float, float] = (0.5, 2.0)
    truth_share: tuple[float, float] = (0.0, 0.4)


def record_admm(
    anatomy: LabelMap,
    network: ConditionalResidualUNet,
    sequence: Sequence,
    dictionary: Dictionary,
    settings: RecordingSettings,
    rng: np.random.Generator,
) -> AdmmRecording:
    """Run Algorithm 1 on a simulated scan and record every input of the denoiser.

    The true weighted images are synthesised from the match of the noiseless TSMI, so that they are
    consistent with it in every voxel, including voxels of mixed tissue.

    Parameters
    ----------
    anatomy
        Label map of the head.
    network
        Denoiser of the reconstruction.
    sequence, dictionary
        Sequence and dictionary.
    settings
        Ranges of the parameters.
    rng
        Random number generator.

    Raises
    ------
    Mri2QmapError
        If all fields of view drawn are almost empty.
    """
    scan = draw_scan(anatomy, sequence, dictionary, settings, rng)
    truth = match(scan.truth, dictionary).weighted_images(dictionary)
    unit = intensity_scale(truth)

    generator = torch.Generator().manual_seed(int(rng.integers(2**31)))
    inputs, scales, sigmas = [], [], []
    share = rng.uniform(*settings.truth_share)

    def denoise(images: torch.Tensor, sigma: float) -> torch.Tensor:
        scale = intensity_scale(images)
        inputs.append((images / scale[:, None, None, None]).half())
        scales.append(scale / unit)
        sigmas.append(sigma)
        restored = denoise_volumes(
            network, images, sigma, CONTRASTS, synthesised=True, generator=generator, scale=scale
        )
        return share * truth + (1 - share) * restored

    iterations = int(rng.integers(*settings.iterations, endpoint=True))
    cg_iterations = int(rng.integers(*settings.cg_iterations, endpoint=True))
    coupling = log_uniform(settings.coupling, rng)
    weight = float(rng.uniform(*settings.weight))
    parameters = PlugAndPlayParameters(
        iterations=iterations,
        cg_iterations=cg_iterations,
        coupling=coupling,
        weight_t1w=weight,
        weight_t2w=weight,
        weight_pdw=weight,
        total_variation=log_uniform(settings.total_variation, rng),
        edge_contrast=float(rng.choice(settings.edge_contrasts)),
        nonlocal_iterations=0,
    )
    problem = scan.problem
    plug_and_play(problem.gram, problem.adjoint, problem.solve(), dictionary, denoise, parameters)
    return AdmmRecording(
        (truth / unit[:, None, None, None]).half(),
        torch.stack(inputs),
        torch.stack(scales),
        torch.tensor(sigmas),
    )
