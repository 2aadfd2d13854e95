"""Gadget: MRI2Qmap, the plug-and-play ADMM with a denoiser of weighted images."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mri2qmap.denoiser.checkpoint import load_denoiser, model_path
from mri2qmap.denoiser.volume import admm_denoiser
from mri2qmap.errors import Mri2QmapError
from mri2qmap.files.b1_map import dictionary_loader
from mri2qmap.mrsignal.matching_settings import MatchingSettings
from mri2qmap.normal_equations import NormalEquations, collect_normal_equations
from mri2qmap.pipeline.item_flow import ItemFlow
from mri2qmap.pipeline.items import (
    AdjointTsmi,
    CoilMaps,
    Item,
    ToeplitzKernels,
    Tsmi,
    WeightedImages,
)
from mri2qmap.pipeline.scan_header import ScanInfo
from mri2qmap.recon.plug_and_play import Denoise, PlugAndPlayParameters, plug_and_play


@dataclass(frozen=True)
class PnpAdmmSettings(MatchingSettings):
    """Settings of `pnp_admm`, beside those of `MatchingSettings`.

    See `mri2qmap.recon.plug_and_play` for the algorithm.

    Attributes
    ----------
    denoiser
        Name of a model in the models folder, or the path of a checkpoint; "none" leaves the
        prior out, which is MRF-ADMM.
    iterations
        ADMM iterations.
    cg_iterations, cg_tolerance
        Limits of each k-space update: steps and relative residual.
    coupling
        lambda, in units of the noise of X0, see `PlugAndPlayParameters`.
    sigma_start, sigma_end
        Noise levels of the first and the last iteration, relative to the brightest tissue.
    weight_t1w, weight_t2w, weight_pdw
        Weights of the contrasts against the TSMI.
    final_sigma, final_weight
        Noise level, in units of the noise of X0, at which the images for `combined_matching` are
        restored, with the mean over mirror images, and the factor of their weights there.
    total_variation
        Strength of the total variation of the TSMI, in units of the noise of X0; 0, as in the
        paper, leaves it out.
    edge_contrast
        Jump between neighbours of the restored images, relative to their brightness, at which it
        becomes weaker; 0 makes it the same everywhere. Without it, or without a denoiser, half the
        strength is better.
    preconditioned
        Whether the k-space updates are preconditioned; better not without any prior.
    patch
        Edge of the patches that are denoised at a time [voxels].
    seed
        Of the random shifts of the patches.
    """

    denoiser: str = "small"
    iterations: int = PlugAndPlayParameters.iterations
    cg_iterations: int = PlugAndPlayParameters.cg_iterations
    cg_tolerance: float = PlugAndPlayParameters.cg_tolerance
    coupling: float = PlugAndPlayParameters.coupling
    sigma_start: float = PlugAndPlayParameters.sigma_start
    sigma_end: float = PlugAndPlayParameters.sigma_end
    weight_t1w: float = PlugAndPlayParameters.weights[0]
    weight_t2w: float = PlugAndPlayParameters.weights[1]
    weight_pdw: float = PlugAndPlayParameters.weights[2]
    final_sigma: float = PlugAndPlayParameters.final_sigma
    final_weight: float = PlugAndPlayParameters.final_weight
    total_variation: float = PlugAndPlayParameters.total_variation
    edge_contrast: float = PlugAndPlayParameters.edge_contrast
    preconditioned: bool = PlugAndPlayParameters.preconditioned
    patch: int = 64
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("iterations", "cg_iterations", "patch"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        if not 0 <= self.cg_tolerance < 1:
            raise ValueError(f"cg_tolerance must lie in [0, 1), got {self.cg_tolerance}")
        if self.coupling <= 0:
            raise ValueError(f"coupling must be positive, got {self.coupling}")
        if not 0 < self.sigma_end <= self.sigma_start <= 1:
            raise ValueError(
                "0 < sigma_end <= sigma_start <= 1 is expected, got "
                f"sigma_start={self.sigma_start}, sigma_end={self.sigma_end}"
            )
        if min(self.weights) < 0:
            raise ValueError(f"weights must be 0 or more, got {self.weights}")
        if not 0 < self.final_sigma < math.inf:
            raise ValueError(f"final_sigma must be positive, got {self.final_sigma}")
        if not 0 <= self.final_weight < math.inf:
            raise ValueError(f"final_weight must be 0 or more, got {self.final_weight}")
        if not 0 <= self.total_variation < math.inf:
            raise ValueError(f"total_variation must be 0 or more, got {self.total_variation}")
        if not 0 <= self.edge_contrast < math.inf:
            raise ValueError(f"edge_contrast must be 0 or more, got {self.edge_contrast}")

    @property
    def item_flow(self) -> ItemFlow:
        """Items that come and go."""
        system = (CoilMaps, AdjointTsmi, ToeplitzKernels)
        images = () if self.denoiser == "none" else (WeightedImages,)
        return ItemFlow((*system, Tsmi), (Tsmi, *images), ends=system)

    def input_files(self) -> dict[str, Path]:
        """See `MatchingSettings.input_files`."""
        models = {} if self.denoiser == "none" else {"denoiser": model_path(self.denoiser)}
        return super().input_files() | models

    @property
    def weights(self) -> tuple[float, float, float]:
        """Weights in the order of `Contrast`."""
        return (self.weight_t1w, self.weight_t2w, self.weight_pdw)


def pnp_admm(items: Iterator[Item], scan: ScanInfo, settings: PnpAdmmSettings) -> Iterator[Item]:
    """Refine X0 by Algorithm 1 of the paper; yield X as a `Tsmi` and V as `WeightedImages`.

    Consumes `CoilMaps`, `AdjointTsmi`, `ToeplitzKernels` and the initial `Tsmi`. Without a
    denoiser, no weighted images are yielded. Other items are passed on.

    Raises
    ------
    Mri2QmapError
        If a part of the system or the initial TSMI is missing, if the denoiser or a B1 map cannot
        be used, or if the iterations diverge.
    """
    denoise, final_denoiser = _denoisers(settings, scan)  # reports a missing model now
    load = dictionary_loader(scan, settings, "pnp_admm")
    system = NormalEquations()
    yield from collect_normal_equations(items, system, "pnp_admm")
    if system.solution is None:
        raise Mri2QmapError(
            "pnp_admm: no initial TSMI arrived; the pipeline needs toeplitz_cg before this gadget"
        )
    dictionary = load(system.solution)
    step_done = scan.report.steps(settings.iterations, "ADMM")
    try:
        result = plug_and_play(
            system.gram(),
            system.adjoint.tsmi,
            system.solution.tsmi,
            dictionary,
            denoise,
            PlugAndPlayParameters(
                iterations=settings.iterations,
                cg_iterations=settings.cg_iterations,
                cg_tolerance=settings.cg_tolerance,
                coupling=settings.coupling,
                sigma_start=settings.sigma_start,
                sigma_end=settings.sigma_end,
                weights=settings.weights,
                final_sigma=settings.final_sigma,
                final_weight=settings.final_weight,
                total_variation=settings.total_variation,
                edge_contrast=settings.edge_contrast,
                preconditioned=settings.preconditioned,
            ),
            on_iteration=step_done,
            search=settings.searcher(),
            final_denoiser=final_denoiser,
        )
    except FloatingPointError as error:
        raise Mri2QmapError(
            f"pnp_admm: the iterations diverge ({error}); try a smaller coupling or sigma_start"
        ) from error
    geometry = system.adjoint.geometry
    yield Tsmi(result.tsmi, geometry)
    if result.images is not None:
        t1w, t2w, pdw = result.weights
        yield WeightedImages(result.images, (t1w, t2w, pdw), geometry, settings.echoes)


def _denoisers(
    settings: PnpAdmmSettings, scan: ScanInfo
) -> tuple[Denoise, Denoise] | tuple[None, None]:
    """Denoisers for the loop and for the images at the end."""
    if settings.denoiser == "none":
        return None, None
    network = load_denoiser(settings.denoiser, scan.device).network
    return (
        admm_denoiser(network, settings.seed, settings.patch),
        admm_denoiser(network, settings.seed, settings.patch, flip_average=True),
    )
