"""What is recorded of each iteration of ADMM."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class IterationStatistics:
    """Convergence of one ADMM iteration t.

    Residuals are those of Boyd et al., section 3.3, of all constraints together: the root of the
    sum of their squares. A regulariser split at L X = Z has ||L X - Z_t|| and
    ||rho L^H (Z_t - Z_(t-1))||, with the X that enters the iteration and Z_0 = L X_0. In
    `plug_and_play` the fingerprints have ||X_t - B(Q_t)|| and gamma ||X_t - X_(t-1)||, the weighted
    images w^(1/2) ||V_t - S(Q_t)|| and gamma w^(1/2) ||S(Q_t) - S(Q_(t-1))||.

    Attributes
    ----------
    number
        t, from 1.
    penalty
        rho of the regulariser; in `plug_and_play`, gamma_t of the fingerprints. In units of A^H A.
    cg_iterations
        Conjugate-gradient steps of the X-update.
    cg_residual
        Residual of the X-update relative to its right-hand side.
    primal
        Primal residual relative to ||X_0||.
    dual
        Dual residual relative to ||A^H Y||.
    data_term
        1/2 ||A X_t||^2 - Re <X_t, A^H Y>, which is 1/2 ||A X_t - Y||^2 without its constant
        1/2 ||Y||^2 and therefore usually negative. It is computed from the residual of conjugate
        gradients as `conjugate_gradient` updates it, in the precision of the data, without another
        application of A^H A.
    objective
        `data_term` plus lambda R(L X_t) of all regularisers. None if a term has no value: a
        denoiser, or the constraint to fingerprints of the dictionary.
    sigma
        Noise level of the denoiser, relative to its intensity scale; None without a schedule.
    """

    number: int
    penalty: float
    cg_iterations: int
    cg_residual: float
    primal: float
    dual: float
    data_term: float
    objective: float | None = None
    sigma: float | None = None

    def __str__(self) -> str:
        """One line for a log."""
        objective = "" if self.objective is None else f", objective {self.objective:.6g}"
        return (
            f"iteration {self.number}: primal residual {self.primal:.2e}, dual residual "
            f"{self.dual:.2e}, conjugate gradients {self.cg_iterations} steps to "
            f"{self.cg_residual:.2e}{objective}"
        )

    def as_dict(self) -> dict[str, float | int | None]:
        """Return the statistics as JSON values; numbers that are not finite become None."""
        values: dict[str, float | int | None] = asdict(self)
        return {
            name: value if value is None or math.isfinite(value) else None
            for name, value in values.items()
        }
