"""LLR: a TSMI whose blocks are of low rank."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from mri2qmap.machine.value_checks import refuse_unless_counts
from mri2qmap.operators.toeplitz import ToeplitzGram
from mri2qmap.recon.admm import AdmmIteration, solve_regularised
from mri2qmap.recon.locally_low_rank import Blocks, LocallyLowRank
from mri2qmap.recon.regulariser import SplitParameters, split_penalty
from mri2qmap.recon.saved_state import StateStore


@dataclass(frozen=True)
class LlrParameters(SplitParameters):
    """Parameters of `llr`.

    Attributes
    ----------
    strength, threshold
        As in `SplitParameters`, times the root of the number of voxels of a block, of which the
        singular values are larger by that.
    iterations, cg_iterations, cg_reduction, cg_tolerance
        As there.
    block
        Edge of the blocks [voxels]. On training map 02, 3 was better than 4 and 8.
    shifted
        Whether blocks shifted by half an edge are penalised too, each set with half the strength.
    """

    block: int = 3
    shifted: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        refuse_unless_counts(self, "block", most=32)


def llr(
    gram: ToeplitzGram,
    adjoint_tsmi: torch.Tensor,
    initial_tsmi: torch.Tensor,
    parameters: LlrParameters,
    on_iteration: Callable[[AdmmIteration], object] | None = None,
    store: StateStore | None = None,
) -> torch.Tensor:
    r"""Reconstruct a TSMI from undersampled data, regularised by the rank of its blocks.

    The minimiser of

    .. math::

        \tfrac12 \|A X - Y\|^2 + \lambda \sum_b \|X_b\|_*

    over blocks b of voxels, with the nuclear norm of the matrix of subspace coefficients and
    voxels. It is found by `solve_regularised`, split at X = Z; the proximal step is soft
    thresholding of singular values.

    Parameters
    ----------
    gram, adjoint_tsmi, initial_tsmi, on_iteration, store
        See `solve_regularised`.
    parameters
        Strength of the regulariser, blocks, and numbers of iterations.

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
    Zhang, Pauly, Levesque, Magn Reson Med 73:655 (2015); for 3D fingerprinting: Cao et al., Magn
    Reson Med 88:133 (2022).
    """
    edge = parameters.block
    penalty, limit = split_penalty(
        parameters.strength, parameters.threshold, adjoint_tsmi, initial_tsmi
    )
    offsets = (0, edge // 2) if parameters.shifted and edge > 1 else (0,)
    regulariser = LocallyLowRank(
        penalty=penalty,
        limit=limit * edge**1.5,
        partitions=tuple(Blocks(edge, offset) for offset in offsets),
    )
    return solve_regularised(
        gram, adjoint_tsmi, initial_tsmi, regulariser, parameters, on_iteration, store
    )
