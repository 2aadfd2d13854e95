"""Algorithms on a GPU give the results of the CPU, each from the same arrays."""

import dataclasses
import functools

import pytest
import torch

from mri2qmap.denoiser.network import ConditionalResidualUNet, DenoiserConfig
from mri2qmap.denoiser.tsmi_images import tsmi_channels
from mri2qmap.denoiser.tsmi_restoration import remove_artefacts, tsmi_denoiser
from mri2qmap.denoiser.tsmi_wiener import TsmiWiener
from mri2qmap.denoiser.volume import admm_denoiser, denoise_volumes
from mri2qmap.machine.eigenvectors import hermitian_eigenvectors
from mri2qmap.mrsignal.dictionary import DictionarySettings, build_dictionary
from mri2qmap.mrsignal.epg import fisp_signal
from mri2qmap.mrsignal.field_dictionary import load_field_dictionary
from mri2qmap.mrsignal.group_matching import GroupSearch
from mri2qmap.mrsignal.matching import at_table_end, match
from mri2qmap.mrsignal.sequence import default_sequence
from mri2qmap.mrsignal.uncertainty import match_uncertainty
from mri2qmap.operators.linear_operator import Identity
from mri2qmap.operators.nufft import Nufft
from mri2qmap.operators.subspace_sampling import SubspaceSampling
from mri2qmap.operators.toeplitz import ToeplitzGram, toeplitz_kernels
from mri2qmap.recon.coil_maps import calibration_images, resize_maps, walsh_maps
from mri2qmap.recon.conjugate_gradient import conjugate_gradient
from mri2qmap.recon.consistency import prior_consistency
from mri2qmap.recon.gridding import density_compensation
from mri2qmap.recon.least_squares import LeastSquares
from mri2qmap.recon.locally_low_rank import Blocks, project_spectral_ball
from mri2qmap.recon.noise_level import noise_deviation, relative_noise, strength_unit
from mri2qmap.recon.nuclear_variation import NuclearVariation
from mri2qmap.recon.total_variation import TotalVariation, edge_keeping_weights
from mri2qmap.recon.variation_uncertainty import variation_uncertainty
from mri2qmap.simulation.simulator import sample

SHAPE = (8, 6, 10)
SEQUENCE = default_sequence(40)
SETTINGS = DictionarySettings(step=0.3)

COILS, COEFFICIENTS, SAMPLES = 3, 5, 700
WEIGHTS = (0.5, 2.0, 0.1)


@functools.cache
def random_inputs():
    """Arrays on the CPU by name; the tissues are those of a coarse table, with noise."""
    generator = torch.Generator().manual_seed(0)

    def rand(*shape, dtype=torch.float32):
        return torch.randn(*shape, dtype=dtype, generator=generator)

    dictionary = build_dictionary(SEQUENCE, SETTINGS)
    atom = torch.randint(len(dictionary.lut), SHAPE, generator=generator)
    density = torch.polar(1 + rand(*SHAPE).abs(), rand(*SHAPE))
    tsmi = density * dictionary.mrf_atoms[atom].permute(3, 0, 1, 2)
    noise = 0.02 * float(tsmi.abs().max())
    images = density.abs() * dictionary.mri_atoms[atom].permute(3, 0, 1, 2)
    direction = torch.nn.functional.normalize(rand(SAMPLES, 3), dim=1)
    return {
        "dictionary": dictionary,
        "tsmi": tsmi + noise * rand(*tsmi.shape, dtype=torch.complex64),
        "truth": tsmi,
        "images": images + 0.02 * rand(*images.shape).abs(),
        "trajectory": 0.5 * direction * torch.rand(SAMPLES, 1, generator=generator),
        "frames": torch.arange(SAMPLES) % SEQUENCE.n_frames,
        "maps": torch.nn.functional.normalize(rand(COILS, *SHAPE, dtype=torch.complex64), dim=0),
        "kspace": rand(COILS, SAMPLES, dtype=torch.complex64),
        "b1": 0.9 + 0.2 * torch.rand(SHAPE, generator=generator),
    }


class Inputs:
    """The same arrays on some device."""

    def __init__(self, device):
        self.device = torch.device(device)

    def __getattr__(self, name):
        return random_inputs()[name].to(self.device)

    def sampling(self, maps=True):
        return SubspaceSampling(
            self.trajectory,
            self.frames,
            self.dictionary.basis,
            SHAPE,
            self.maps if maps else None,
            self.device,
        )

    @functools.cached_property
    def gram(self):
        return self.sampling().toeplitz_gram()

    @functools.cached_property
    def matched(self):
        return match(self.tsmi, self.dictionary, self.images, WEIGHTS)

    def network(self, **changes):
        torch.manual_seed(0)
        config = DenoiserConfig(channels=(4, 8), blocks=(1, 1), embedding=8, **changes)
        network = ConditionalResidualUNet(config).eval().requires_grad_(False)
        for parameter in network.parameters():
            torch.nn.init.normal_(parameter, std=0.1)
        return network.to(self.device)


def of_match(found):
    return found.t1, found.t2, found.proton_density, found.quality


def eigenvectors(x):
    matrices = torch.einsum("czyx,dzyx->zyxcd", x.maps, x.maps.conj())
    values, vectors = hermitian_eigenvectors(matrices + torch.eye(COILS, device=x.device))
    return values, (vectors[..., -1:] @ vectors[..., -1:].mH)


def coil_maps(x):
    images = calibration_images(
        x.kspace, x.trajectory, x.frames, x.dictionary.basis, SHAPE, (4, 4, 4), iterations=3
    )
    maps = walsh_maps(images, 3)
    return images, resize_maps(maps, SHAPE)


def preconditioned(x):
    right = x.gram(x.tsmi) + x.tsmi
    inverse = x.gram.circulant.inverse(1.0)
    solution, outcome = conjugate_gradient(
        x.gram + 1.0 * Identity(x.gram.domain_shape), right, None, 4, preconditioner=inverse
    )
    return solution, outcome.quadratic_form


def variation_of(kind):
    def steps(x):
        term = kind(2.0, 0.05)
        term.weights = edge_keeping_weights(x.images, WEIGHTS, 0.1, 0.05)
        first, second = term.step(x.tsmi), term.step(0.9 * x.tsmi)
        return term.weights, first.pull, second.pull, second.primal, *term.evaluate(x.tsmi)

    return steps


def low_rank(x):
    blocks = Blocks(3, 1)
    return blocks.join(project_spectral_ball(blocks.cut(x.tsmi), 0.3), SHAPE)


def network_images(x):
    network, generator = x.network(), torch.Generator().manual_seed(1)
    noisy = denoise_volumes(
        network, x.images, 0.1, network.config.contrasts, patch=8, generator=generator
    )
    return noisy, admm_denoiser(network, torch.Generator().manual_seed(0), 8, flip_average=True)(
        x.images, 0.1
    )


def restored_tsmi(x):
    network = x.network(contrasts=tsmi_channels(COEFFICIENTS), joint=True)
    return tsmi_denoiser(network, x.tsmi, 0.1, torch.Generator().manual_seed(0), 8)(
        x.tsmi
    ), remove_artefacts(network, x.tsmi)


def filtered_tsmi(x):
    generator = torch.Generator().manual_seed(2)
    guide, noisy = torch.randn(2, 3, 9, 10, 8, dtype=torch.complex64, generator=generator)
    return TsmiWiener(guide.to(x.device), 0.5)(noisy.to(x.device))


def field_dictionary(x):
    dictionary = load_field_dictionary(SEQUENCE, SETTINGS, random_inputs()["b1"], x.device)
    search = GroupSearch(20, 0.9)
    return (dictionary.mrf_atoms, *of_match(match(x.tsmi, dictionary, search=search)))


def simulated_samples(x):
    images = random_inputs()["truth"][:2].numpy()
    signals = random_inputs()["dictionary"].basis[:, :2].T.numpy()
    trajectory = random_inputs()["trajectory"][: 4 * SEQUENCE.n_frames].numpy()
    arms = trajectory.reshape(1, SEQUENCE.n_frames, 4, 3)
    maps = random_inputs()["maps"].numpy()
    return torch.from_numpy(sample(images, signals, maps, arms, device=x.device))


def uncertainty(x):
    inside = x.matched.proton_density.abs() > 0
    return (
        *match_uncertainty(x.matched, x.dictionary, WEIGHTS, 0.5),
        *variation_uncertainty(x.matched.t1, x.matched.t2, inside),
    )


CASES = {
    "signals": lambda x: fisp_signal(x.dictionary.lut.t1, x.dictionary.lut.t2, SEQUENCE, 0.9),
    "dictionary": lambda x: build_dictionary(SEQUENCE, SETTINGS, device=x.device).mrf_atoms,
    "NUFFT": lambda x: Nufft(x.trajectory, SHAPE, x.device).forward(x.tsmi.conj()),
    "adjoint NUFFT": lambda x: Nufft(x.trajectory, SHAPE, x.device).adjoint(x.kspace.conj()),
    "sampling": lambda x: x.sampling().forward(x.tsmi),
    "adjoint": lambda x: x.sampling().adjoint(x.kspace),
    "Toeplitz kernels": lambda x: toeplitz_kernels(
        x.trajectory, x.frames, x.dictionary.basis, SHAPE, x.device
    ),
    "complex Toeplitz kernels": lambda x: toeplitz_kernels(
        x.trajectory, x.frames, x.dictionary.basis * (1 + 0.5j), SHAPE, x.device
    ),
    "gram": lambda x: x.gram(x.tsmi),
    "gram of one coil": lambda x: ToeplitzGram(x.gram.kernels)(x.tsmi),
    "circulant": lambda x: (x.gram.circulant(x.tsmi), x.gram.circulant.inverse(2.0)(x.tsmi)),
    "preconditioned conjugate gradients": preconditioned,
    "least squares": lambda x: LeastSquares.of_samples(
        x.kspace, x.trajectory, x.frames, x.dictionary.basis, SHAPE, x.maps
    ).solve(3),
    "density compensation": lambda x: density_compensation(x.trajectory, SHAPE, x.device),
    "eigenvectors": eigenvectors,
    "coil maps": coil_maps,
    "noise level": lambda x: (
        noise_deviation(x.tsmi),
        relative_noise(x.tsmi),
        strength_unit(x.tsmi, x.truth),
    ),
    "total variation": variation_of(TotalVariation),
    "nuclear variation": variation_of(NuclearVariation),
    "low rank": low_rank,
    "simulated samples": simulated_samples,
    "matching": lambda x: of_match(match(x.tsmi, x.dictionary)),
    "combined matching": lambda x: of_match(x.matched),
    "grouped matching": lambda x: of_match(
        match(x.tsmi, x.dictionary, x.images, WEIGHTS, GroupSearch(20, 0.9))
    ),
    "matching with a B1 map": field_dictionary,
    "ends of the table": lambda x: at_table_end(
        x.matched.t1, x.matched.t2, x.dictionary.lut
    ).float(),
    "weighted images": lambda x: (
        x.matched.weighted_images(x.dictionary),
        x.matched.tsmi(x.dictionary),
    ),
    "uncertainty": uncertainty,
    "consistency": lambda x: prior_consistency(x.tsmi, x.truth, x.matched, x.dictionary),
    "denoiser": network_images,
    "denoiser of a TSMI": restored_tsmi,
    "non-local filter of a TSMI": filtered_tsmi,
}
MATCHED = {
    "matching",
    "combined matching",
    "grouped matching",
    "matching with a B1 map",
    "uncertainty",
}
"""Between atoms, a long T2 hardly changes the score, which a GPU computes in single precision: two
values of T2 may fit equally well."""


def as_tensors(result):
    """Results on the CPU."""
    results = result if isinstance(result, tuple) else (result,)
    return [torch.as_tensor(r).cpu() for r in results]


@pytest.mark.parametrize("name", CASES)
def test_results_are_those_of_the_cpu(name, gpu, single_precision):
    found = as_tensors(CASES[name](Inputs(gpu)))
    expected = as_tensors(CASES[name](Inputs("cpu")))
    assert len(found) == len(expected)
    for of_gpu, of_cpu in zip(found, expected, strict=True):
        assert of_gpu.shape == of_cpu.shape
        assert of_gpu.dtype == of_cpu.dtype
        error, size = (of_gpu - of_cpu).abs(), of_cpu.abs()
        if name in MATCHED:
            assert float((error <= SETTINGS.step * size).float().mean()) >= 0.999, name
            assert float(error.median()) <= 1e-4 * float(size.median()), name
        else:
            assert float(error.norm()) <= 1e-3 * float(size.norm()), name


def test_every_case_has_numbers():
    for name, case in CASES.items():
        for result in as_tensors(case(Inputs("cpu"))):
            assert bool(result.isfinite().all()), name
            if name != "ends of the table":
                assert float(result.abs().max()) > 0, name


def test_a_part_of_another_device_is_refused(gpu):
    x = Inputs(gpu)
    dictionary = dataclasses.replace(
        x.dictionary, mri_atoms=random_inputs()["dictionary"].mri_atoms
    )
    with pytest.raises(RuntimeError, match="same device"):
        match(x.tsmi, dictionary)
