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
from mri2qmap.mrsignal.dictionary import Dictionary, Search
from mri2qmap.mrsignal.matching import Match, match
from mri2qmap.operators.toeplitz import ToeplitzGram
from mri2qmap.recon.admm import AdmmIteration, Residuals, TsmiUpdate
from mri2qmap.recon.inner_products import distance
from mri2qmap.recon.noise_level import relative_noise
from mri2qmap.recon.nonlocal_prior import (
    GuidedFilter,
    NonlocalVariables,
    solve_with_guided_filter,
)
from mri2qmap.recon.nuclear_variation import NuclearVariation
from mri2qmap.recon.plug_and_play_parameters import PlugAndPlayParameters, noise_schedule
from mri2qmap.recon.plug_and_play_variables import PlugAndPlayVariables
from mri2qmap.recon.regulariser import SplitParameters, split_penalty
from mri2qmap.recon.saved_state import State, StateStore
from mri2qmap.recon.total_variation import edge_keeping_weights

Denoise = Callable[[torch.Tensor, float], torch.Tensor]


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
class NonlocalIteration:
    """State after one iteration with the non-local prior, passed to ``on_iteration``.

    Attributes
    ----------
    number
        Number of the iteration, which goes on from those before.
    """

    number: int


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
        Match of X.
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
    on_iteration: Callable[[Iteration | NonlocalIteration], object] | None = None,
    search: Search | None = None,
    final_denoiser: Denoise | None = None,
    guided_filter: GuidedFilter | None = None,
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
        X = solve_with_guided_filter(X)
        V = final_denoiser(S(match(X)), sigma_V),  w = w_V w

    with gamma_t = lambda / sigma_t^2 and geometrically decreasing sigma_t. When gamma increases, U
    and W are divided by the ratio, so that the unscaled multipliers gamma U and gamma W do not
    change. Without a denoiser this is MRF-ADMM.

    Three things are not in the paper:

    * The last line. The V of the iterations contains a multiplier, which biases T2 where X is more
      accurate than Q. The final images are restored once, so that a slower and better denoiser and
      a larger weight can be used.
    * The total variation of the TSMI. The weighted images hardly constrain some combinations of
      the coefficients, in which undersampling leaves errors several voxels wide; total variation
      removes them. It is the nuclear one, for which the edges of all coefficients coincide. Its
      weights are small at the edges of V (`edge_keeping_weights`), so that borders are not
      blurred. Each iteration makes one step of `NuclearVariation`.
    * The non-local prior, `solve_with_guided_filter`. It removes the bias of the total variation,
      which the iterations need.

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
    guided_filter
        Filter of the non-local prior, needed if `PlugAndPlayParameters.nonlocal_iterations` is not
        zero.
    store
        Keeps the state of each iteration but the last; if it has one, the iterations go on from it.
    processes
        Several processes match a part of the voxels each, see `match`.

    Raises
    ------
    FloatingPointError
        If the iterations diverge.
    ValueError
        If the guided filter is missing.

    References
    ----------
    MRI2Qmap paper, Section III, equations 7 to 11; MRF-ADMM: Assländer et al., Magn Reson Med
    79:83 (2018); ADMM: Boyd et al. (2011), Section 3.
    """
    if parameters.nonlocal_iterations and guided_filter is None:
        raise ValueError(
            f"guided_filter: none was given, but nonlocal_iterations is "
            f"{parameters.nonlocal_iterations}"
        )
    store = store or StateStore()
    matched = partial(match, dictionary=dictionary, search=search, processes=processes)
    # An all-zero image has no noise level; it is reconstructed to zero with any.
    noise = relative_noise(initial_tsmi) if initial_tsmi.any() else 1.0
    last_steps = _LastSteps(
        gram=gram,
        adjoint_tsmi=adjoint_tsmi,
        dictionary=dictionary,
        parameters=parameters,
        noise=noise,
        matched=matched,
        denoise=final_denoiser or denoise,
        guided_filter=guided_filter,
        on_iteration=on_iteration,
        store=store,
    )
    state = store.load()
    if state is not None and (interrupted := NonlocalVariables.from_state(state)) is not None:
        return last_steps(interrupted, tuple(state["weights"].tolist()))
    now = (
        PlugAndPlayVariables.at_start(
            initial_tsmi, matched(initial_tsmi), dictionary, parameters.weights, denoise is not None
        )
        if state is None
        else PlugAndPlayVariables.restored(state)
    )
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
        if number < parameters.iterations or parameters.nonlocal_iterations:
            store.save(partial(now.state, variation))
    tsmi, weights = now.tsmi, now.weights
    del now, update, variation, images  # and their memory
    return last_steps(NonlocalVariables.at_start(tsmi), weights)


@dataclass(frozen=True)
class _LastSteps:
    """The last two lines of the algorithm, see `plug_and_play`."""

    gram: ToeplitzGram
    adjoint_tsmi: torch.Tensor
    dictionary: Dictionary
    parameters: PlugAndPlayParameters
    noise: float
    matched: Callable[[torch.Tensor], Match]
    denoise: Denoise | None
    guided_filter: GuidedFilter | None
    on_iteration: Callable[[Iteration | NonlocalIteration], object] | None
    store: StateStore

    def __call__(self, now: NonlocalVariables, weights: tuple[float, ...]) -> PlugAndPlayResult:
        """From X of the iterations, or from a state between, and the weights w."""
        tsmi, images = self._refined(now, weights), None
        found = self.matched(tsmi)
        if self.denoise is not None:
            sigma = self.parameters.final_sigma * self.noise
            images = self.denoise(found.weighted_images(self.dictionary), sigma)
            weights = tuple(self.parameters.final_weight * weight for weight in weights)
        return PlugAndPlayResult(tsmi, images, weights, found)

    def _refined(self, now: NonlocalVariables, weights: tuple[float, ...]) -> torch.Tensor:
        """X with the non-local prior, if there is one."""
        before, count = self.parameters.iterations, self.parameters.nonlocal_iterations
        if self.guided_filter is None or not count:
            return now.guide

        def state() -> State:
            return now.state() | {
                "iterations": torch.tensor(before + now.iterations),
                "weights": torch.tensor(weights, dtype=torch.float64),
            }

        def after(number: int) -> None:
            if self.on_iteration is not None:
                self.on_iteration(NonlocalIteration(before + number))
            if number < count:
                self.store.save(state)

        return solve_with_guided_filter(
            self.gram, self.adjoint_tsmi, now, self.guided_filter, count, self.parameters, after
        )


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
