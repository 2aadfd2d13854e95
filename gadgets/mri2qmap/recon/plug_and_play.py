"""MRI2Qmap: plug-and-play ADMM with combined MRF-MRI matching (paper, Algorithm 1)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch

from mri2qmap.machine.cancellation import raise_if_cancelled
from mri2qmap.machine.process_group import SINGLE_PROCESS, ProcessGroup
from mri2qmap.machine.put_aside import put_aside
from mri2qmap.machine.value_checks import (
    MOST_ITERATIONS,
    refuse_unless_below_one,
    refuse_unless_counts,
    refuse_unless_not_negative,
    refuse_unless_positive,
)
from mri2qmap.mrsignal.dictionary import Dictionary, Search
from mri2qmap.mrsignal.matching import Match, match
from mri2qmap.operators.toeplitz import ToeplitzGram
from mri2qmap.recon.admm import AdmmIteration, Residuals, TsmiUpdate
from mri2qmap.recon.inner_products import distance
from mri2qmap.recon.noise_level import relative_noise
from mri2qmap.recon.nuclear_variation import NuclearVariation
from mri2qmap.recon.plug_and_play_variables import PlugAndPlayVariables
from mri2qmap.recon.regulariser import SplitParameters, split_penalty
from mri2qmap.recon.saved_state import StateStore
from mri2qmap.recon.total_variation import edge_keeping_weights

Denoise = Callable[[torch.Tensor, float], torch.Tensor]
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
    preconditioned: bool = True

    def __post_init__(self) -> None:
        refuse_unless_counts(self, "iterations", "cg_iterations", most=MOST_ITERATIONS)
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


@dataclass(frozen=True)
class Iteration(AdmmIteration):
    """State after one iteration, passed to ``on_iteration``.

    Attributes
    ----------
    statistics, tsmi
        See `AdmmIteration`.
    sigma
        Noise level sigma_t.
    match
        Q of the iteration.
    """

    sigma: float
    match: Match


@dataclass(frozen=True)
class PlugAndPlayResult:
    """Result of `plug_and_play`.

    Attributes
    ----------
    tsmi
        X (s, z, y, x).
    images
        Restored weighted images V (3, z, y, x); None without a denoiser.
    weights
        Modality weights of these, after normalisation.
    match
        Q of the last iteration.
    """

    tsmi: torch.Tensor
    images: torch.Tensor | None
    weights: tuple[float, ...]
    match: Match


def plug_and_play(
    gram: ToeplitzGram,
    adjoint_tsmi: torch.Tensor,
    initial_tsmi: torch.Tensor,
    dictionary: Dictionary,
    denoise: Denoise | None,
    parameters: PlugAndPlayParameters,
    on_iteration: Callable[[Iteration], object] | None = None,
    search: Search | None = None,
    final_denoiser: Denoise | None = None,
    store: StateStore | None = None,
    processes: ProcessGroup = SINGLE_PROCESS,
) -> PlugAndPlayResult:
    r"""Reconstruct TSMI and maps from undersampled data with a prior on weighted images.

    ADMM on the scaled augmented Lagrangian

    .. math::

        \tfrac12 \|A X - Y\|^2 + \mu \mathrm{TV}_V(X) + \tfrac{\gamma}{2} \|X - B(Q) + U\|^2
        + \sum_i \left[\lambda R_i(V_i) + \tfrac{\gamma}{2} w_i \|V_i - S_i(Q) + W_i\|^2\right]

    in which the proximal operator of the regulariser R is a denoiser::

        Q = match(X0),  Xh = B(Q),  Vh = S(Q),  U = W = 0
        w_i = w_i ||Xh||^2 / ||Vh_i||^2
        for t = 1 ... T
            V = denoise(Vh - W, sigma_t)
            Q = combined_match(X + U, V + W; w),  Xh = B(Q),  Vh = S(Q)
            X = argmin of the first three terms, by warm-started conjugate gradients
            U = U + X - Xh,  W = W + V - Vh
        V = final_denoiser(S(match(X)), sigma_V),  w = w_V w

    with gamma_t = lambda / sigma_t^2 and geometrically decreasing sigma_t. When gamma increases, U
    and W are divided by the ratio, so that the unscaled multipliers gamma U and gamma W do not
    change. Without a denoiser this is MRF-ADMM.

    Two things are not in the paper:

    * The last line. The V of the iterations contains a multiplier, which biases T2 where X is more
      accurate than Q. The final images are restored once, so that a slower and better denoiser and
      a larger weight can be used.
    * The total variation of the TSMI. The weighted images hardly constrain some combinations of
      the coefficients, in which undersampling leaves errors several voxels wide; total variation
      removes them. It is the nuclear one, for which the edges of all coefficients coincide. Its
      weights are small at the edges of V (`edge_keeping_weights`), so that borders are not
      blurred. Each iteration makes one step of `NuclearVariation`.

    The X-update is that of `TsmiUpdate`, with the target Xh - U.

    Parameters
    ----------
    gram
        A^H A.
    adjoint_tsmi
        A^H Y (s, z, y, x).
    initial_tsmi
        X0 (s, z, y, x), of least squares: strengths are in units of its noise.
    dictionary
        Dictionaries of both kinds.
    denoise
        Maps noisy weighted images (3, z, y, x), in arbitrary units, and a noise level relative to
        the intensity scale of the denoiser to restored images; none leaves the prior out.
    parameters
        Numbers of iterations, penalties, noise levels and weights.
    on_iteration
        Called after each iteration.
    search
        Search for the best atoms; none means `exact_search`.
    final_denoiser
        As `denoise`, for the final images; none means `denoise`.
    store
        Keeps the state of each iteration but the last; if it has one, the iterations go on from it.
    processes
        Several processes match a part of the voxels each, see `match`.

    Raises
    ------
    FloatingPointError
        If the iterations diverge.

    References
    ----------
    MRI2Qmap paper, Section III, equations 7 to 11; MRF-ADMM: Assländer et al., Magn Reson Med
    79:83 (2018); ADMM: Boyd et al. (2011), Section 3.
    """
    store = store or StateStore()
    matched = partial(match, dictionary=dictionary, search=search, processes=processes)
    state = store.load()
    now = (
        PlugAndPlayVariables.at_start(
            initial_tsmi, matched(initial_tsmi), dictionary, parameters.weights, denoise is not None
        )
        if state is None
        else PlugAndPlayVariables.restored(state)
    )
    # An all-zero image has no noise level; it is reconstructed to zero with any.
    noise = relative_noise(initial_tsmi) if initial_tsmi.any() else 1.0
    coupling = parameters.coupling * noise**2 * gram.mean_diagonal
    variation = _tsmi_variation(adjoint_tsmi, initial_tsmi, parameters)
    update = TsmiUpdate(
        gram,
        adjoint_tsmi,
        initial_tsmi,
        [] if variation is None else [variation],
        parameters,
        parameters.preconditioned,
    )
    del initial_tsmi  # and its memory
    if variation is not None and state is not None:
        variation.restore(state)
    del state
    images = None
    schedule = noise_schedule(parameters)

    for number in range(now.iterations + 1, parameters.iterations + 1):
        raise_if_cancelled()
        sigma = schedule[number - 1]
        penalty = coupling / sigma**2
        if number > 1:
            now.scale_multipliers((sigma / schedule[number - 2]) ** 2)

        with put_aside([variation] if variation is not None and gram.spare_memory else ()):
            if denoise is not None:
                images = denoise(now.synthesised - now.image_multiplier, sigma)
                estimate = matched(
                    now.tsmi + now.tsmi_multiplier,
                    images=images + now.image_multiplier,
                    weights=now.weights,
                )
            else:
                estimate = matched(now.tsmi + now.tsmi_multiplier)
        if images is not None and variation is not None and parameters.edge_contrast:
            variation.weights = edge_keeping_weights(
                images, parameters.weights, parameters.edge_contrast, sigma
            )
        previous = now.tsmi, now.synthesised
        now.synthesised = estimate.weighted_images(dictionary)
        # Fingerprints are computed twice, to have their memory free during the update.
        now.tsmi_multiplier -= estimate.tsmi(dictionary)
        outcome = update(now.tsmi, -now.tsmi_multiplier, penalty, idle=(now, estimate))
        now.tsmi = outcome.tsmi
        now.tsmi_multiplier += now.tsmi
        residuals = [
            Residuals(
                distance(now.tsmi, estimate.tsmi(dictionary)),
                penalty * distance(now.tsmi, previous[0]),
            )
        ]
        if images is not None:
            now.image_multiplier += images - now.synthesised
            for weight, image, model, before in zip(
                now.weights, images, now.synthesised, previous[1], strict=True
            ):
                root, change = math.sqrt(weight), distance(model, before)
                residuals.append(Residuals(root * distance(image, model), penalty * root * change))
        del previous
        now.iterations = number
        if on_iteration is not None:
            statistics = update.statistics(number, penalty, outcome, residuals, sigma)
            on_iteration(Iteration(statistics, now.tsmi, sigma, estimate))
        if number < parameters.iterations:
            store.save(partial(now.state, variation))
    weights = now.weights
    del update, variation  # and their memory
    if denoise is not None:
        last = matched(now.tsmi).weighted_images(dictionary)
        images = (final_denoiser or denoise)(last, parameters.final_sigma * noise)
        weights = tuple(parameters.final_weight * weight for weight in weights)
    return PlugAndPlayResult(now.tsmi, images, weights, estimate)


def _tsmi_variation(
    adjoint_tsmi: torch.Tensor, initial_tsmi: torch.Tensor, parameters: PlugAndPlayParameters
) -> NuclearVariation | None:
    """Total variation of X; none for an all-zero TSMI or a strength of zero."""
    if not (parameters.total_variation and initial_tsmi.any()):
        return None
    penalty, limit = split_penalty(
        parameters.total_variation, SplitParameters.threshold, adjoint_tsmi, initial_tsmi
    )
    return NuclearVariation(penalty, limit)


def noise_schedule(parameters: PlugAndPlayParameters) -> list[float]:
    """Noise levels sigma_1 to sigma_T, spaced evenly in their logarithm."""
    start, end, count = parameters.sigma_start, parameters.sigma_end, parameters.iterations
    if count == 1:
        return [end]
    ratio = math.log(end / start) / (count - 1)
    return [start * math.exp(ratio * i) for i in range(count)]
