"""LRTV: a TSMI of low rank and small total variation."""

from __future__ import annotations

from collections.abc import Callable

import torch

from mri2qmap.operators.toeplitz import ToeplitzGram
from mri2qmap.recon.admm import AdmmIteration, solve_regularised
from mri2qmap.recon.regulariser import SplitParameters, split_penalty
from mri2qmap.recon.saved_state import StateStore
from mri2qmap.recon.total_variation import TotalVariation


def lrtv(
    gram: ToeplitzGram,
    adjoint_tsmi: torch.Tensor,
    initial_tsmi: torch.Tensor,
    parameters: SplitParameters,
    on_iteration: Callable[[AdmmIteration], object] | None = None,
    store: StateStore | None = None,
) -> torch.Tensor:
    r"""Reconstruct a TSMI from undersampled data, regularised by its total variation.

    The minimiser of

    .. math::

        \tfrac12 \|A X - Y\|^2 + \lambda \sum_k \mathrm{TV}(X_k)

    where the TSMI is of low rank because A contains the temporal subspace, and TV is the isotropic
    3D total variation of one subspace coefficient. It is found by `solve_regularised`, split at the
    finite differences D X = Z: D^H D is large at high frequencies, where A^H A is small, which
    improves the conditioning of the X-update, and the proximal step is a projection of gradients.
    Splitting at X itself took as many iterations in measurements, each with the inner iterations
    of a total-variation denoiser.

    Parameters
    ----------
    gram, adjoint_tsmi, initial_tsmi, on_iteration, store
        See `solve_regularised`.
    parameters
        Strength of the regulariser, numbers of iterations, and the threshold of the proximal step,
        a difference between neighbours.

    Returns
    -------
        X (s, z, y, x).

    Raises
    ------
    ValueError
        If X0 is zero everywhere, so that there is no unit for the strength.
    FloatingPointError
        If the data are not finite.

    References
    ----------
    LRTV: Golbabaee et al., Med Image Anal 69:101945 (2021); ADMM split at the gradient: Goldstein
    and Osher, SIAM J Imaging Sci 2:323 (2009).
    """
    penalty, limit = split_penalty(
        parameters.strength, parameters.threshold, adjoint_tsmi, initial_tsmi
    )
    variation = TotalVariation(penalty, limit)
    return solve_regularised(
        gram, adjoint_tsmi, initial_tsmi, variation, parameters, on_iteration, store
    )
