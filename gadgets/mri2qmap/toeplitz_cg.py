"""Gadget: least-squares TSMI by conjugate gradients on the Toeplitz gram; LRTV and LLR."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, get_args

import torch

from mri2qmap.errors import Mri2QmapError
from mri2qmap.operators.toeplitz import ToeplitzGram
from mri2qmap.recon.conjugate_gradient import conjugate_gradient
from mri2qmap.recon.llr import LlrParameters, llr
from mri2qmap.recon.lrtv import lrtv
from mri2qmap.recon.split_prior import SplitParameters
from mri2qmap.stream.items import Item, Tsmi
from mri2qmap.stream.normal_equations import NormalEquations, collect_normal_equations
from mri2qmap.stream.scan_info import ScanInfo

Prior = Literal["none", "total_variation", "low_rank"]


@dataclass(frozen=True)
class ToeplitzCgSettings:
    """Settings of `toeplitz_cg`.

    Attributes
    ----------
    iterations
        Most steps of conjugate gradients. Few are a regularisation.
    tolerance
        Relative residual at which to stop earlier.
    prior
        "none"; "total_variation" of the coefficients (LRTV); "low_rank" of blocks (LLR). With a
        prior, what conjugate gradients give is the start of further iterations.
    strength
        Of the prior, see `SplitParameters`.
    prior_iterations
        Iterations with the prior.
    block
        Edge of the blocks of "low_rank" [voxels].
    shifted
        Whether "low_rank" is asked of blocks shifted by half an edge too.
    """

    iterations: int = 10
    tolerance: float = 1e-3
    prior: Prior = "none"
    strength: float = 0.1
    prior_iterations: int = 20
    block: int = LlrParameters.block
    shifted: bool = LlrParameters.shifted

    def __post_init__(self) -> None:
        for name in ("iterations", "prior_iterations"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        if not 0 <= self.tolerance < 1:
            raise ValueError(f"tolerance must lie in [0, 1), got {self.tolerance}")
        if self.prior not in get_args(Prior):
            raise ValueError(
                f"prior must be one of {', '.join(get_args(Prior))}, got {self.prior!r}"
            )
        self.low_rank()  # refuses what is out of range

    def total_variation(self) -> SplitParameters:
        """Parameters of LRTV."""
        return SplitParameters(strength=self.strength, iterations=self.prior_iterations)

    def low_rank(self) -> LlrParameters:
        """Parameters of LLR."""
        return LlrParameters(
            strength=self.strength,
            iterations=self.prior_iterations,
            block=self.block,
            shifted=self.shifted,
        )


def toeplitz_cg(
    items: Iterator[Item], scan: ScanInfo, settings: ToeplitzCgSettings
) -> Iterator[Item]:
    """Solve A^H A X = A^H Y from zero, then with the prior; yield the parts of the system and X.

    Consumes `CoilMaps`, `AdjointTsmi` and `ToeplitzKernels` and passes them on, followed by the
    solution as a `Tsmi`. Other items pass.

    Raises
    ------
    Mri2QmapError
        If a part of the system does not arrive, or the solution is not finite.
    """
    system = NormalEquations()
    yield from collect_normal_equations(items, system, "toeplitz_cg")
    try:
        gram, adjoint = system.gram(), system.adjoint.tsmi
        solution = _least_squares(gram, adjoint, scan, settings)
        if settings.prior != "none" and solution.any():  # of nothing, nothing is to be smoothed
            solution = _with_prior(gram, adjoint, solution, scan, settings)
    except FloatingPointError as error:
        raise Mri2QmapError(
            f"toeplitz_cg: {error}; the k-space data hold values too large or not finite"
        ) from error
    yield from system.items()
    yield Tsmi(solution, system.adjoint.geometry)


def _least_squares(
    gram: ToeplitzGram, adjoint: torch.Tensor, scan: ScanInfo, settings: ToeplitzCgSettings
) -> torch.Tensor:
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
    return solution


def _with_prior(
    gram: ToeplitzGram,
    adjoint: torch.Tensor,
    start: torch.Tensor,
    scan: ScanInfo,
    settings: ToeplitzCgSettings,
) -> torch.Tensor:
    step_done = scan.report.steps(settings.prior_iterations, settings.prior.replace("_", " "))
    if settings.prior == "low_rank":
        return llr(gram, adjoint, start, settings.low_rank(), step_done)
    return lrtv(gram, adjoint, start, settings.total_variation(), step_done)
