"""Gadget: TSMI by conjugate gradients with the Toeplitz gram; LRTV, LLR, ARNet and MRF-PnP."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from mri2qmap.denoiser.checkpoint import Task, model_path
from mri2qmap.denoiser.network import ConditionalResidualUNet
from mri2qmap.denoiser.tsmi_restoration import (
    load_tsmi_network,
    remove_artefacts,
    tsmi_denoiser,
)
from mri2qmap.errors import Mri2QmapError
from mri2qmap.machine.file_access import ModelFile
from mri2qmap.machine.value_checks import (
    MOST_ITERATIONS,
    refuse_unless_below_one,
    refuse_unless_counts,
    refuse_unless_fractions,
    refuse_unless_one_of,
    refuse_unless_seeds,
)
from mri2qmap.normal_equations import NormalEquations, collect_normal_equations
from mri2qmap.operators.toeplitz import ToeplitzGram
from mri2qmap.pipeline.item_flow import ItemFlow
from mri2qmap.pipeline.items import AdjointTsmi, CoilMaps, Item, ToeplitzKernels, Tsmi
from mri2qmap.pipeline.scan_header import ScanInfo
from mri2qmap.pipeline.scan_limits import SCAN_LIMITS
from mri2qmap.recon.conjugate_gradient import conjugate_gradient
from mri2qmap.recon.llr import LlrParameters, llr
from mri2qmap.recon.lrtv import lrtv
from mri2qmap.recon.mrf_pnp import mrf_pnp
from mri2qmap.recon.noise_level import relative_noise
from mri2qmap.recon.saved_state import StateWithGenerator

Prior = Literal["none", "total_variation", "low_rank", "denoiser", "artefact_removal"]


@dataclass(frozen=True)
class ToeplitzCgSettings:
    """Settings of `toeplitz_cg`.

    Attributes
    ----------
    iterations
        Largest number of steps of conjugate gradients. A small number regularises.
    tolerance
        Relative residual at which to stop earlier.
    prior
        "none"; "total_variation" of the coefficients (LRTV); "low_rank" of blocks (LLR);
        "denoiser", a network that denoises TSMIs (MRF-PnP). These start from the result of the
        conjugate gradients. "artefact_removal": a network restores that result, without further
        iterations (ARNet).
    strength
        Strength of the prior, see `SplitParameters`; of "denoiser" the penalty, see `mrf_pnp`.
    prior_iterations
        Iterations with the prior.
    block
        Edge of the blocks of "low_rank" [voxels].
    shifted
        Whether "low_rank" is applied to blocks shifted by half an edge too.
    denoiser
        Name of a model in the models folder, or the path of a checkpoint, for "denoiser" and
        "artefact_removal".
    sigma
        Noise level passed to the network of "denoiser", of real and imaginary parts, relative to
        the 99.5th-percentile intensity of the TSMI.
    patch
        Edge of the patches that the network restores at a time [voxels].
    seed
        Seed of the random shifts of the patches.
    """

    iterations: int = 20
    tolerance: float = 1e-3
    prior: Prior = "none"
    strength: float = LlrParameters.strength
    prior_iterations: int = LlrParameters.iterations
    block: int = LlrParameters.block
    shifted: bool = LlrParameters.shifted
    denoiser: ModelFile = "none"
    sigma: float = 0.03
    patch: int = 64
    seed: int = 0

    def __post_init__(self) -> None:
        refuse_unless_counts(self, "iterations", "prior_iterations", most=MOST_ITERATIONS)
        refuse_unless_counts(self, "patch", least=8, most=SCAN_LIMITS.side)
        refuse_unless_seeds(self, "seed")
        refuse_unless_below_one(self, "tolerance")
        refuse_unless_one_of(self, "prior", Prior)
        if (self.denoiser == "none") == (self.task is not None):
            raise ValueError(
                f"prior {self.prior!r} and denoiser {self.denoiser!r} do not go together: "
                '"denoiser" and "artefact_removal" need a model, and the others none'
            )
        refuse_unless_fractions(self, "sigma")
        self.parameters()  # refuses what is out of range

    @property
    def item_flow(self) -> ItemFlow:
        """Items that the gadget consumes and yields."""
        return ItemFlow((CoilMaps, AdjointTsmi, ToeplitzKernels), (Tsmi,))

    def input_files(self) -> dict[str, Path]:
        """Files that are read, by the property that names them."""
        return {} if self.denoiser == "none" else {"denoiser": model_path(self.denoiser)}

    @property
    def task(self) -> Task | None:
        """Task of the network that the prior needs; None where it needs none."""
        return {"denoiser": Task.TSMI_NOISE, "artefact_removal": Task.TSMI_ARTEFACTS}.get(
            self.prior
        )

    def parameters(self) -> LlrParameters:
        """Parameters of the reconstruction with a prior; only LLR uses those of the blocks."""
        return LlrParameters(
            strength=self.strength,
            iterations=self.prior_iterations,
            block=self.block,
            shifted=self.shifted,
        )


def toeplitz_cg(
    items: Iterator[Item], scan: ScanInfo, settings: ToeplitzCgSettings
) -> Iterator[Item]:
    """Solve A^H A X = A^H Y, starting from zero, then with the prior.

    Consumes `CoilMaps`, `AdjointTsmi` and `ToeplitzKernels` and yields them again, followed by the
    solution as a `Tsmi`. Other items are passed on.

    Raises
    ------
    Mri2QmapError
        If a part of the system is missing, the solution is not finite, or a network cannot be used.
    """
    network = _network(settings, scan)  # errors are reported before acquisition
    system = NormalEquations(spare_memory=scan.spare_memory)
    yield from collect_normal_equations(items, system, "toeplitz_cg")
    try:
        gram, adjoint = system.gram(scan.processes), system.adjoint.tsmi
        solution = _least_squares(gram, adjoint, scan, settings)
        if solution.any():
            scan.report.measure(relative_noise=relative_noise(solution))
        if settings.prior != "none" and solution.any():  # skipped for an all-zero image
            solution = _with_prior(gram, adjoint, solution, network, scan, settings)
    except FloatingPointError as error:
        raise Mri2QmapError(
            f"toeplitz_cg: {error}; k-space values are too large or not finite"
        ) from error
    yield from system.items()
    yield Tsmi(solution, system.adjoint.geometry)


def _least_squares(
    gram: ToeplitzGram, adjoint: torch.Tensor, scan: ScanInfo, settings: ToeplitzCgSettings
) -> torch.Tensor:
    store = scan.state_stores["toeplitz_cg"]
    if (state := store.load()) is not None:
        return state["solution"]
    solution, outcome = conjugate_gradient(
        gram,
        adjoint,
        max_iterations=settings.iterations,
        tolerance=settings.tolerance,
        on_iteration=scan.report.steps(settings.iterations, "conjugate gradients"),
    )
    scan.report.log(
        f"toeplitz_cg: {outcome.iterations} steps, relative residual "
        f"{outcome.relative_residual:.2e}"
    )
    scan.report.measure(cg_steps=outcome.iterations, cg_residual=outcome.relative_residual)
    store.save(lambda: {"solution": solution})
    return solution


def _network(settings: ToeplitzCgSettings, scan: ScanInfo) -> ConditionalResidualUNet | None:
    if settings.task is None:
        return None
    name, task, patch = settings.denoiser, settings.task, settings.patch
    return load_tsmi_network(name, task, scan.sequence, scan.device, patch)


def _with_prior(
    gram: ToeplitzGram,
    adjoint: torch.Tensor,
    start: torch.Tensor,
    network: ConditionalResidualUNet | None,
    scan: ScanInfo,
    settings: ToeplitzCgSettings,
) -> torch.Tensor:
    if network is not None and settings.prior == "artefact_removal":
        return remove_artefacts(network, start, settings.seed, settings.patch)
    step_done = scan.report.steps(settings.prior_iterations, settings.prior.replace("_", " "))
    store = scan.state_stores["toeplitz_cg_prior"]
    if network is not None:
        generator = torch.Generator().manual_seed(settings.seed)
        store = StateWithGenerator(store, generator)
        denoise = tsmi_denoiser(network, start, settings.sigma, generator, settings.patch)
        return mrf_pnp(gram, adjoint, start, denoise, settings.parameters(), step_done, store)
    solve = llr if settings.prior == "low_rank" else lrtv
    return solve(gram, adjoint, start, settings.parameters(), step_done, store)
