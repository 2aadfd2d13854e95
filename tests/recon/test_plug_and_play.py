"""The ADMM against known answers: an oracle as denoiser, full sampling, and its own schedule."""

import dataclasses
import math

import pytest
import torch
from recon.cases import unit_of

from mri2qmap.mrsignal.dictionary import DictionarySettings, build_dictionary
from mri2qmap.mrsignal.matching import match
from mri2qmap.mrsignal.sequence import default_sequence
from mri2qmap.operators.subspace_sampling import SubspaceSampling
from mri2qmap.operators.toeplitz import ToeplitzGram, toeplitz_kernels
from mri2qmap.recon.admm import solve_regularised
from mri2qmap.recon.conjugate_gradient import conjugate_gradient
from mri2qmap.recon.noise_level import intensity, relative_noise
from mri2qmap.recon.nuclear_variation import NuclearVariation
from mri2qmap.recon.plug_and_play import plug_and_play
from mri2qmap.recon.plug_and_play_parameters import PlugAndPlayParameters, noise_schedule
from mri2qmap.recon.plug_and_play_variables import normalised_weights
from mri2qmap.recon.regulariser import SplitParameters

SHAPE = (12, 12, 12)
N_FRAMES = 80


@dataclasses.dataclass
class Case:
    """Two tissues in blocks, exactly on the lookup table, undersampled and noisy."""

    dictionary: object
    gram: ToeplitzGram
    adjoint: torch.Tensor
    initial: torch.Tensor
    index: torch.Tensor
    tsmi: torch.Tensor
    images: torch.Tensor


@pytest.fixture(scope="module")
def case():
    generator = torch.Generator().manual_seed(0)
    sequence = default_sequence(N_FRAMES)
    dictionary = build_dictionary(sequence, DictionarySettings(step=0.15))
    lut = dictionary.lut
    tissues = [
        int(((lut.t1 / t1).log().square() + (lut.t2 / t2).log().square()).argmin())
        for t1, t2 in ((1.3, 0.1), (0.7, 0.05))
    ]
    index = torch.full(SHAPE, tissues[0])
    index[:, 4:9, 3:10] = tissues[1]
    density = torch.where(index == tissues[0], 1.0, 0.8).to(torch.complex64)
    tsmi = density * dictionary.mrf_atoms.T[:, index]
    images = density.abs() * dictionary.mri_atoms.T[:, index]

    samples = int(1.2 * math.prod(SHAPE))
    direction = torch.randn(samples, 3, generator=generator)
    radius = 0.5 * torch.rand(samples, 1, generator=generator) ** 0.5
    trajectory = radius * direction / direction.norm(dim=1, keepdim=True)
    frames = torch.arange(samples) % N_FRAMES
    sampling = SubspaceSampling(trajectory, frames, dictionary.basis, SHAPE)
    noise = torch.randn(tsmi.shape, dtype=torch.complex64, generator=generator)
    data = sampling.forward(tsmi + 0.25 * float(tsmi.abs().mean()) * noise)
    adjoint = sampling.adjoint(data)
    gram = ToeplitzGram(toeplitz_kernels(trajectory, frames, dictionary.basis, SHAPE))
    initial, _ = conjugate_gradient(gram, adjoint, max_iterations=8, tolerance=1e-3)
    return Case(dictionary, gram, adjoint, initial, index, tsmi, images)


def wrong(case, found):
    """Mean relative error of T1 and T2 together, per cent."""
    lut = case.dictionary.lut
    t1 = (found.t1 / lut.t1[case.index] - 1).abs().mean()
    t2 = (found.t2 / lut.t2[case.index] - 1).abs().mean()
    return 100 * float(t1 + t2)


PARAMETERS = PlugAndPlayParameters(
    iterations=8,
    cg_iterations=8,
    cg_reduction=0.0,
    coupling=115.0,
    sigma_start=0.2,
    sigma_end=0.02,
    weight_t1w=0.5,
    weight_t2w=0.5,
    weight_pdw=0.5,
    total_variation=0.0,
    nonlocal_iterations=0,
)


def reconstruct(case, denoise, parameters=PARAMETERS, watch=None, **more):
    return plug_and_play(
        case.gram, case.adjoint, case.initial, case.dictionary, denoise, parameters, watch, **more
    )


def test_the_true_images_as_prior_lead_to_the_truth(case):
    parameters = dataclasses.replace(PARAMETERS, weight_t1w=1.0, weight_t2w=1.0, weight_pdw=1.0)
    result = reconstruct(case, lambda images, sigma: case.images, parameters)
    start = wrong(case, match(case.initial, case.dictionary))
    assert start > 20
    assert wrong(case, result.match) < 1.2
    assert wrong(case, match(result.tsmi, case.dictionary)) < 0.5 * start


def test_without_a_prior_it_still_improves_on_conjugate_gradients(case):
    result = reconstruct(case, None, dataclasses.replace(PARAMETERS, preconditioned=False))
    assert result.images is None
    assert result.weights == (0.0, 0.0, 0.0)
    assert wrong(case, result.match) < 0.8 * wrong(case, match(case.initial, case.dictionary))


@pytest.mark.parametrize("total_variation", [0.0, 8.0])
def test_preconditioning_leaves_the_iterates(case, total_variation):
    def iterates(preconditioned):
        parameters = dataclasses.replace(
            PARAMETERS,
            iterations=2,
            cg_iterations=200,
            cg_reduction=0.0,
            cg_tolerance=1e-6,
            total_variation=total_variation,
            preconditioned=preconditioned,
        )
        states = []
        reconstruct(case, lambda images, sigma: case.images, parameters, states.append)
        return torch.stack([state.tsmi for state in states])

    torch.testing.assert_close(iterates(True), iterates(False), atol=1e-3, rtol=1e-3)


def test_a_prior_of_no_weight_is_no_prior(case):
    parameters = dataclasses.replace(
        PARAMETERS, weight_t1w=0.0, weight_t2w=0.0, weight_pdw=0.0, iterations=3
    )
    without = reconstruct(case, None, parameters)
    with_it = reconstruct(case, lambda images, sigma: 0 * images, parameters)
    torch.testing.assert_close(with_it.tsmi, without.tsmi)
    assert torch.equal(with_it.match.index, without.match.index)


def test_the_denoiser_is_asked_for_the_schedule(case):
    asked, watched = [], []

    def denoise(images, sigma):
        asked.append(sigma)
        assert images.shape == (3, *SHAPE)
        return images

    parameters = dataclasses.replace(PARAMETERS, iterations=4, final_sigma=5.0)
    reconstruct(case, denoise, parameters, watched.append)
    last = 5.0 * relative_noise(case.initial)
    assert asked == pytest.approx([0.2, 0.2 * 10 ** (-1 / 3), 0.2 * 10 ** (-2 / 3), 0.02, last])
    assert [i.number for i in watched] == [1, 2, 3, 4]
    assert all(i.statistics.cg_iterations <= 8 for i in watched)


@pytest.mark.parametrize("total_variation", [0.0, 8.0])
def test_statistics_of_the_iterations(case, total_variation):
    """Residuals and data term against the states of the iterations themselves."""
    states, restored = [], []

    def denoise(images, sigma):
        restored.append(0.9 * images)
        return restored[-1].clone()

    parameters = dataclasses.replace(PARAMETERS, iterations=3, total_variation=total_variation)
    reconstruct(case, denoise, parameters, states.append)
    start = match(case.initial, case.dictionary)
    weights = normalised_weights(
        parameters.weights, start.tsmi(case.dictionary), start.weighted_images(case.dictionary)
    )
    root = torch.tensor(weights).sqrt()[:, None, None, None]
    tsmi, synthesised = case.initial, start.weighted_images(case.dictionary)
    for state, images, sigma in zip(states, restored, noise_schedule(parameters), strict=False):
        statistics = state.statistics
        assert (statistics.sigma, state.sigma) == (sigma, sigma)
        noise = relative_noise(case.initial)
        gamma = parameters.coupling * noise**2 / sigma**2 * case.gram.mean_diagonal
        assert statistics.penalty == pytest.approx(gamma)
        fingerprints = state.match.tsmi(case.dictionary)
        model = state.match.weighted_images(case.dictionary)
        primal = norm(state.tsmi - fingerprints, root * (images - model)) / norm(case.initial)
        change = norm(state.tsmi - tsmi, root * (model - synthesised))
        dual = gamma * change / norm(case.adjoint)
        if total_variation:  # its residuals are added
            assert statistics.primal > primal * (1 + 1e-4)
            assert statistics.dual > dual * (1 + 1e-6)
        else:
            assert statistics.primal == pytest.approx(primal, rel=1e-4)
            assert statistics.dual == pytest.approx(dual, rel=1e-4)
        product = torch.vdot(state.tsmi.flatten(), case.gram(state.tsmi).flatten()).real
        pairing = torch.vdot(state.tsmi.flatten(), case.adjoint.flatten()).real
        data_term = float(product) / 2 - float(pairing)
        assert statistics.data_term == pytest.approx(data_term, abs=1e-5 * abs(float(pairing)))
        assert statistics.objective is None
        tsmi, synthesised = state.tsmi, model


def norm(*tensors):
    return math.hypot(*(float(torch.linalg.vector_norm(tensor)) for tensor in tensors))


def test_the_images_returned_are_restored_from_the_tsmi_returned(case):
    given = []

    def denoise(images, sigma):
        given.append(images)
        return 0.9 * images

    result = reconstruct(case, denoise, dataclasses.replace(PARAMETERS, iterations=2))
    expected = match(result.tsmi, case.dictionary).weighted_images(case.dictionary)
    torch.testing.assert_close(given[-1], expected)
    torch.testing.assert_close(result.images, 0.9 * expected)


def test_the_images_returned_can_be_restored_and_trusted_in_another_way(case):
    asked = []

    def final_denoiser(images, sigma):
        asked.append(sigma)
        return 0.5 * images

    parameters = dataclasses.replace(PARAMETERS, iterations=2, final_sigma=4.0, final_weight=1.0)
    plain = reconstruct(case, lambda images, _: images, parameters)
    parameters = dataclasses.replace(parameters, final_weight=3.0)
    result = reconstruct(case, lambda images, _: images, parameters, final_denoiser=final_denoiser)
    assert asked == [pytest.approx(4.0 * relative_noise(case.initial))]
    torch.testing.assert_close(result.tsmi, plain.tsmi)  # what the loop does stays
    torch.testing.assert_close(result.images, 0.5 * plain.images)
    assert result.weights == pytest.approx([3 * weight for weight in plain.weights])


def test_the_first_update_solves_its_subproblem(case):
    """X of iteration 1 minimises 1/2 ||AX - Y||^2 + gamma/2 ||X - B(Q)||^2 (U is zero)."""
    parameters = dataclasses.replace(
        PARAMETERS, iterations=1, cg_iterations=200, cg_reduction=0.0, cg_tolerance=1e-6
    )
    states = []
    result = reconstruct(case, None, parameters, states.append)
    gamma = 115.0 * relative_noise(case.initial) ** 2 / 0.02**2 * case.gram.mean_diagonal
    fingerprints = states[0].match.tsmi(case.dictionary)
    gradient = case.gram(result.tsmi) - case.adjoint + gamma * (result.tsmi - fingerprints)
    assert float(gradient.norm()) < 1e-4 * float(case.adjoint.norm())


def test_unscaled_multipliers_survive_the_change_of_penalty(case):
    """Fixed point: with Q consistent, gamma U = A^H (Y - A X) at each iteration's end."""
    states = []
    parameters = dataclasses.replace(
        PARAMETERS, iterations=3, cg_iterations=200, cg_reduction=0.0, cg_tolerance=1e-7
    )
    reconstruct(case, None, parameters, states.append)
    # gamma_t U_t = gamma_t (U_(t-1) + X - Xh) = A^H (Y - A X_t) exactly when the solve is exact,
    # so the right-hand side of iteration t + 1 uses gamma_t U_t, whatever gamma_(t+1) is.
    sigmas = noise_schedule(parameters)
    coupling = parameters.coupling * relative_noise(case.initial) ** 2
    gammas = [coupling / s**2 * case.gram.mean_diagonal for s in sigmas]
    multiplier = torch.zeros_like(case.adjoint)
    previous = gammas[0]
    for gamma, state in zip(gammas, states, strict=True):
        multiplier = multiplier * previous / gamma
        multiplier = multiplier + state.tsmi - state.match.tsmi(case.dictionary)
        residual = case.adjoint - case.gram(state.tsmi)
        assert float((gamma * multiplier - residual).norm()) < 1e-3 * float(residual.norm())
        previous = gamma


def test_total_variation_without_coupling_is_that_alone(case):
    """As the penalty vanishes, what remains are the iterations of a regularised problem."""
    parameters = dataclasses.replace(
        PARAMETERS,
        iterations=5,
        cg_iterations=4,
        cg_reduction=0.0,
        cg_tolerance=1e-5,
        coupling=5e-6,
    )
    parameters = dataclasses.replace(parameters, total_variation=1.5)
    limit = 0.1 * intensity(case.initial)
    expected = solve_regularised(
        case.gram,
        case.adjoint,
        case.initial,
        NuclearVariation(1.5 * unit_of(case) / limit, limit),
        SplitParameters(iterations=5, cg_iterations=4, cg_reduction=0.0),
    )
    found = reconstruct(case, None, parameters).tsmi
    assert float((found - expected).norm()) < 1e-3 * float((expected - case.initial).norm())


def test_total_variation_helps_blocks(case):
    parameters = dataclasses.replace(PARAMETERS, total_variation=4.0, coupling=12.0)
    without = dataclasses.replace(parameters, total_variation=0.0)
    assert wrong(case, reconstruct(case, None, parameters).match) < 0.8 * wrong(
        case, reconstruct(case, None, without).match
    )


def test_total_variation_is_weaker_where_the_restored_images_have_edges(case):
    """With the true images, the borders of the blocks stay; with even ones, nothing changes."""
    guided = dataclasses.replace(
        PARAMETERS, coupling=0.05, total_variation=45.0, edge_contrast=0.05
    )
    everywhere = dataclasses.replace(guided, edge_contrast=0.0)

    def solve(parameters, images):
        return reconstruct(case, lambda *_: images, parameters).tsmi

    def error(parameters):
        return float((solve(parameters, case.images) - case.tsmi).norm() / case.tsmi.norm())

    assert error(guided) < 0.9 * error(everywhere)
    even = torch.ones_like(case.images)
    expected = solve(everywhere, even)
    assert float((solve(guided, even) - expected).norm()) < 1e-3 * float(expected.norm())


def test_a_scan_of_nothing_stays_nothing(case):
    nothing = torch.zeros_like(case.adjoint)
    parameters = dataclasses.replace(PARAMETERS, iterations=2, total_variation=4.0)
    result = plug_and_play(case.gram, nothing, nothing, case.dictionary, None, parameters)
    assert torch.equal(result.tsmi, nothing)


def test_noise_schedule():
    schedule = noise_schedule(PlugAndPlayParameters(iterations=3, sigma_start=0.4, sigma_end=0.1))
    assert schedule == pytest.approx([0.4, 0.2, 0.1])
    assert noise_schedule(PlugAndPlayParameters(iterations=1, sigma_end=0.02)) == [0.02]


def test_weights_are_normalised_by_energies():
    fingerprints = torch.full((2, 4), 3 + 4j)
    synthesised = torch.tensor([[1.0, 1, 1, 1], [2, 2, 2, 2], [0, 0, 0, 0]])
    first, second, _ = normalised_weights((1.0, 0.5, 1.0), fingerprints, synthesised)
    assert first == pytest.approx(200 / 4)
    assert second == pytest.approx(0.5 * 200 / 16)


def test_divergence_is_an_error(case):
    with pytest.raises(FloatingPointError):
        plug_and_play(
            case.gram,
            case.adjoint * float("nan"),
            case.initial,
            case.dictionary,
            None,
            dataclasses.replace(PARAMETERS, iterations=1),
        )


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("iterations", 0, "a whole number from 1 to 1000, got 0"),
        ("iterations", 2.5, "a whole number from 1 to 1000, got 2.5"),
        ("iterations", math.nan, "a whole number from 1 to 1000, got nan"),
        ("cg_iterations", 0, "a whole number from 1 to 1000"),
        ("cg_tolerance", -1e-6, "at least 0 and below 1"),
        ("cg_tolerance", 1.0, "at least 0 and below 1"),
        ("cg_tolerance", math.nan, "at least 0 and below 1"),
        ("coupling", -1.0, "positive, got -1.0"),
        ("coupling", 0.0, "positive"),
        ("coupling", math.inf, "positive"),
        ("coupling", math.nan, "positive"),
        ("sigma_end", 0.0, "1e-06 <= sigma_end <= sigma_start <= 1"),
        ("sigma_end", 0.5, "sigma_start=0.3, sigma_end=0.5"),
        ("sigma_end", math.nan, "1e-06 <= sigma_end"),
        ("sigma_end", 1e-200, "1e-06 <= sigma_end"),
        ("coupling", 1e39, "between 1e-12 and 1e\\+12"),
        ("weight_pdw", 1e39, "at most 1e\\+12"),
        ("edge_contrast", 1e200, "at most 1e\\+12"),
        ("final_sigma", 5e-324, "between 1e-12 and"),
        ("sigma_start", 1.5, "sigma_start=1.5"),
        ("sigma_start", math.nan, "sigma_start=nan"),
        ("weight_t1w", -0.1, "0 or more"),
        ("weight_t2w", math.nan, "0 or more"),
        ("weight_pdw", math.inf, "0 or more"),
        ("final_sigma", 0.0, "positive"),
        ("final_weight", -1.0, "0 or more"),
        ("total_variation", -0.1, "0 or more"),
        ("total_variation", math.nan, "0 or more"),
        ("edge_contrast", -0.1, "0 or more"),
    ],
)
def test_parameters_out_of_range_are_refused(name, value, words):
    with pytest.raises(ValueError, match=f"{name}.*{words}" if name not in words else words):
        PlugAndPlayParameters(**{name: value})


def test_the_weights_are_in_the_order_of_the_contrasts():
    parameters = PlugAndPlayParameters(weight_t1w=0.1, weight_t2w=0.2, weight_pdw=0.3)
    assert parameters.weights == (0.1, 0.2, 0.3)
