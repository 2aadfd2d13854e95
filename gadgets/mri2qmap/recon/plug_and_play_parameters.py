"""Parameters of `plug_and_play`, and its schedule of noise levels."""

from __future__ import annotations

import math
from dataclasses import dataclass

from mri2qmap.machine.value_checks import (
    MOST_ITERATIONS,
    refuse_unless_below_one,
    refuse_unless_counts,
    refuse_unless_not_negative,
    refuse_unless_positive,
)

_LEAST_SIGMA = 1e-6
"""Smallest noise level; penalties grow with the inverse of its square."""


@dataclass(frozen=True)
class PlugAndPlayParameters:
    """Parameters of `plug_and_play`.

    Attributes
    ----------
    iterations
        ADMM iterations T.
    cg_iterations, cg_reduction, cg_tolerance
        Limits of each k-space update, see `SplitParameters`.
    coupling
        lambda of gamma_t = lambda / sigma_t^2, in units of the mean diagonal of A^H A times the
        square of the `relative_noise` of X0: the weight of a prior follows the variances.
    sigma_start, sigma_end
        Annealed noise levels, relative to the intensity scale of the denoiser.
    weight_t1w, weight_t2w, weight_pdw
        Weights w of the contrasts against the TSMI, before they are normalised by the norms.
    final_sigma, final_weight
        For the images that the maps are matched to: noise level, in units of the `relative_noise`
        of X0, and factor of their weights.
    total_variation
        mu of the total nuclear variation (`NuclearVariation`), in the units of the strength of
        `SplitParameters`; zero leaves the term out, as the paper does.
    edge_contrast
        Least difference between neighbours of the restored images, see `edge_keeping_weights`, that
        makes the total variation weaker there; zero makes it the same everywhere.
    nonlocal_iterations
        Iterations K of `solve_with_guided_filter` at the end; zero leaves them out, as the paper
        does.
    preconditioned
        Whether conjugate gradients are preconditioned with the circulant gram. A few steps without
        it leave sparsely sampled frequencies unsolved. Without a prior, only that keeps noise out
        of them, so MRF-ADMM gives better maps without a preconditioner.

    Raises
    ------
    ValueError
        If a value is out of range.
    """

    iterations: int = 16
    cg_iterations: int = 8
    cg_reduction: float = 0.2
    cg_tolerance: float = 1e-5
    coupling: float = 2.0
    sigma_start: float = 0.3
    sigma_end: float = 0.03
    weight_t1w: float = 1.0
    weight_t2w: float = 1.0
    weight_pdw: float = 1.0
    final_sigma: float = 3.5
    final_weight: float = 1.0
    total_variation: float = 20.0
    edge_contrast: float = 0.12
    nonlocal_iterations: int = 2
    preconditioned: bool = True

    def __post_init__(self) -> None:
        refuse_unless_counts(self, "iterations", "cg_iterations", most=MOST_ITERATIONS)
        refuse_unless_counts(self, "nonlocal_iterations", least=0, most=MOST_ITERATIONS)
        refuse_unless_below_one(self, "cg_reduction", "cg_tolerance")
        refuse_unless_positive(self, "coupling", "final_sigma")
        refuse_unless_not_negative(
            self,
            "weight_t1w",
            "weight_t2w",
            "weight_pdw",
            "final_weight",
            "total_variation",
            "edge_contrast",
        )
        if not _LEAST_SIGMA <= self.sigma_end <= self.sigma_start <= 1:
            raise ValueError(
                f"{_LEAST_SIGMA:g} <= sigma_end <= sigma_start <= 1 is expected, got "
                f"sigma_start={self.sigma_start}, sigma_end={self.sigma_end}"
            )

    @property
    def weights(self) -> tuple[float, float, float]:
        """Weights in the order of `Contrast`."""
        return (self.weight_t1w, self.weight_t2w, self.weight_pdw)


def noise_schedule(parameters: PlugAndPlayParameters) -> list[float]:
    """Noise levels sigma_1 to sigma_T, spaced evenly in their logarithm."""
    start, end, count = parameters.sigma_start, parameters.sigma_end, parameters.iterations
    if count == 1:
        return [end]
    ratio = math.log(end / start) / (count - 1)
    return [start * math.exp(ratio * i) for i in range(count)]
