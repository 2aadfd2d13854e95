"""The last step of MRI2Qmap: the data once more, with a filter as prior that the TSMI guides."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

from mri2qmap.machine.cancellation import raise_if_cancelled
from mri2qmap.operators.toeplitz import ToeplitzGram
from mri2qmap.recon.admm import CgLimits, TsmiUpdate
from mri2qmap.recon.inner_products import fetched, squared_norm
from mri2qmap.recon.saved_state import State

TsmiFilter = Callable[[torch.Tensor], torch.Tensor]
GuidedFilter = Callable[[torch.Tensor, float], TsmiFilter]
"""From a guide (s, z, y, x) and the standard deviation of the noise in real and in imaginary parts,
a function that removes such noise from a TSMI (s, z, y, x)."""

_COUPLING = 0.3
"""rho in units of the mean diagonal of A^H A."""


@dataclass
class NonlocalVariables:
    """Variables of `solve_with_guided_filter`, and how many of its iterations are done.

    Attributes
    ----------
    guide, restored, multiplier
        G, Z and U (s, z, y, x).
    iterations
        k.
    """

    guide: torch.Tensor
    restored: torch.Tensor
    multiplier: torch.Tensor
    iterations: int = 0

    @classmethod
    def at_start(cls, guide: torch.Tensor) -> NonlocalVariables:
        """From the guide."""
        return cls(guide, guide, torch.zeros_like(guide))

    @classmethod
    def from_state(cls, state: State) -> NonlocalVariables | None:
        """From what `state` returned; None if the state is of an earlier step."""
        if "guide" not in state:
            return None
        tensors = state["guide"], state["restored"], state["multiplier"]
        return cls(*tensors, int(state["nonlocal_iterations"]))

    def state(self) -> dict[str, torch.Tensor]:
        """What `from_state` needs."""
        tensors = {name: value for name, value in vars(self).items() if torch.is_tensor(value)}
        return tensors | {"nonlocal_iterations": torch.tensor(self.iterations)}


def solve_with_guided_filter(
    gram: ToeplitzGram,
    adjoint_tsmi: torch.Tensor,
    now: NonlocalVariables,
    filter_of: GuidedFilter,
    iterations: int,
    limits: CgLimits,
    on_iteration: Callable[[int], object] | None = None,
) -> torch.Tensor:
    r"""Reconstruct a TSMI with the prior of a filter that an estimate of the TSMI guides.

    Plug-and-play ADMM with a filter F that stays the same, because the guide G does::

        Z = G,  U = 0,  F = filter_of(G, sqrt(s^2 / (2 rho)))
        for k = 1 ... K
            X = argmin 1/2 ||A X - Y||^2 + rho/2 ||X - Z + U||^2
            Z = F(X + U),  U = U + X - Z

    The variance s^2 of the noise of a sample is that of the data around the guide,

    .. math:: s^2 = \mathrm{mean} |A^H (Y - A G)|^2 / d

    with the mean diagonal d of A^H A. The prior thus needs no strength.

    The total variation of `plug_and_play` removes errors of undersampling, but it pulls each region
    towards its neighbours: T1 of white matter, for example, becomes larger. A filter that
    compares a cube of voxels with similar ones, not with adjacent ones, has no such bias, but
    it needs a TSMI without the errors of undersampling as guide. Hence this order.

    Parameters
    ----------
    gram
        A^H A.
    adjoint_tsmi
        A^H Y (s, z, y, x), complex64.
    now
        Variables at the start, or of an earlier run.
    filter_of
        Returns F.
    iterations
        K.
    limits
        Of the conjugate gradients of each update.
    on_iteration
        Called with k after each iteration.

    Returns
    -------
        Z (s, z, y, x). G if the data do not differ from those of G, such as of an empty scan.

    Raises
    ------
    FloatingPointError
        If the data are not finite.

    References
    ----------
    Plug-and-play priors: Venkatakrishnan, Bouman, Wohlberg, IEEE GlobalSIP 2013, 945. The filter:
    Lebrun, Buades, Morel, SIAM J Imaging Sci 6:1665 (2013).
    """
    deviation = _noise_of_samples(gram, adjoint_tsmi, now.guide)
    if not deviation:
        return now.guide
    penalty = _COUPLING * gram.mean_diagonal
    restore = filter_of(now.guide, deviation / math.sqrt(2 * penalty))
    update = TsmiUpdate(gram, adjoint_tsmi, now.guide, (), limits)
    while now.iterations < iterations:
        raise_if_cancelled()
        target = now.restored - now.multiplier
        outcome = update(now.restored, target, penalty, idle=(now, restore))
        noisy = now.multiplier.add_(outcome.tsmi)
        del target, outcome  # and their memory
        now.restored = restore(noisy)
        now.multiplier = noisy.sub_(now.restored)
        now.iterations += 1
        if on_iteration is not None:
            on_iteration(now.iterations)
    return now.restored


def _noise_of_samples(gram: ToeplitzGram, adjoint_tsmi: torch.Tensor, tsmi: torch.Tensor) -> float:
    """Standard deviation s of complex samples around those of a TSMI, in units of the TSMI."""
    residual = adjoint_tsmi - gram(tsmi)
    # Outside coil maps that are zero, the residual is too.
    energy, voxels = fetched(squared_norm(residual), residual.count_nonzero().double())
    if not math.isfinite(energy):
        raise FloatingPointError("the difference of the data from the TSMI is not finite")
    return math.sqrt(energy / max(voxels, 1) / gram.mean_diagonal)
