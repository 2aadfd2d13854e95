"""Gadget: least-squares TSMI by conjugate gradients on the Toeplitz gram."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from mri2qmap.errors import Mri2QmapError
from mri2qmap.recon.conjugate_gradient import conjugate_gradient
from mri2qmap.stream.items import Item, Tsmi
from mri2qmap.stream.normal_equations import NormalEquations, collect_normal_equations
from mri2qmap.stream.scan_info import ScanInfo


@dataclass(frozen=True)
class ToeplitzCgSettings:
    """Settings of `toeplitz_cg`.

    Attributes
    ----------
    iterations
        Most steps of conjugate gradients. Few are a regularisation.
    tolerance
        Relative residual at which to stop earlier.
    """

    iterations: int = 10
    tolerance: float = 1e-3

    def __post_init__(self) -> None:
        if self.iterations < 1:
            raise ValueError(f"iterations must be positive, got {self.iterations}")
        if not 0 <= self.tolerance < 1:
            raise ValueError(f"tolerance must lie in [0, 1), got {self.tolerance}")


def toeplitz_cg(
    items: Iterator[Item], scan: ScanInfo, settings: ToeplitzCgSettings
) -> Iterator[Item]:
    """Solve A^H A X = A^H Y from zero; yield the parts of the system and X0 as a `Tsmi`.

    Consumes `CoilMaps`, `AdjointTsmi` and `ToeplitzKernels` and passes them on, followed by the
    solution. Other items pass.

    Raises
    ------
    Mri2QmapError
        If a part of the system does not arrive, or the solution is not finite.
    """
    system = NormalEquations()
    yield from collect_normal_equations(items, system, "toeplitz_cg")
    steps = iter(scan.report.progress(range(settings.iterations), "conjugate gradients"))
    next(steps, None)
    try:
        solution, outcome = conjugate_gradient(
            system.gram(),
            system.adjoint.tsmi,
            max_iterations=settings.iterations,
            tolerance=settings.tolerance,
            on_iteration=lambda: next(steps, None),
        )
    except FloatingPointError as error:
        raise Mri2QmapError(
            f"toeplitz_cg: {error}; the k-space data hold values too large or not finite"
        ) from error
    scan.report.log(
        f"toeplitz_cg: {outcome.iterations} steps, relative residual "
        f"{outcome.relative_residual:.2e}"
    )
    yield from system.items()
    yield Tsmi(solution, system.adjoint.geometry)
