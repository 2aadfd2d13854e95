"""How often an iteration waits for the GPU, and what it copies there."""

from collections import Counter

import pytest
import torch
from helpers.pretend_gpu import pretend_gpu

from mri2qmap.denoiser.network import ConditionalResidualUNet, DenoiserConfig
from mri2qmap.denoiser.volume import admm_denoiser
from mri2qmap.mrsignal.dictionary import DictionarySettings, build_dictionary
from mri2qmap.mrsignal.group_matching import GroupSearch
from mri2qmap.mrsignal.matching import match
from mri2qmap.mrsignal.sequence import default_sequence
from mri2qmap.operators.subspace_sampling import SubspaceSampling
from mri2qmap.recon.conjugate_gradient import conjugate_gradient
from mri2qmap.recon.lrtv import lrtv
from mri2qmap.recon.plug_and_play import plug_and_play
from mri2qmap.recon.plug_and_play_parameters import PlugAndPlayParameters
from mri2qmap.recon.regulariser import SplitParameters

SHAPE = (8, 8, 8)
SAMPLES = 600
SEQUENCE = default_sequence(30)


@pytest.fixture
def pretend():
    with pretend_gpu() as state:
        yield state


@pytest.fixture
def system(pretend):
    """Gram, A^H Y and X0 of random samples, and a dictionary, all on the GPU."""
    generator = torch.Generator().manual_seed(0)
    dictionary = build_dictionary(SEQUENCE, DictionarySettings(step=0.4))
    atom = torch.randint(len(dictionary.lut), SHAPE, generator=generator)
    tsmi = dictionary.mrf_atoms[atom].permute(3, 0, 1, 2) + 0j
    sampling = SubspaceSampling(
        torch.rand(SAMPLES, 3, generator=generator) - 0.5,
        torch.arange(SAMPLES) % SEQUENCE.n_frames,
        dictionary.basis,
        SHAPE,
        device="cuda:0",
    )
    gram = sampling.toeplitz_gram()
    adjoint = sampling.H(sampling(tsmi.to("cuda:0")))
    initial, _ = conjugate_gradient(gram, adjoint, max_iterations=3)
    return gram, adjoint, initial, dictionary.to("cuda:0")


class Steps:
    """Transfers and waits of each iteration; called at its end."""

    def __init__(self, pretend):
        self.pretend = pretend
        self.uploads, self.waits = [], []

    def __call__(self, *_):
        self.uploads.append(Counter(self.pretend.uploads))
        self.waits.append(Counter(self.pretend.waits))
        self.pretend.reset_counts()


def test_a_step_of_conjugate_gradients_waits_once(pretend, system):
    gram, adjoint, _, _ = system
    steps = Steps(pretend)
    inverse = gram.circulant.inverse(1.0)
    for preconditioner in (None, inverse):
        conjugate_gradient(
            gram, adjoint, None, 5, 0.0, on_iteration=steps, preconditioner=preconditioner
        )
        assert len(steps.waits) == 5
        for uploads, waits in zip(steps.uploads[1:], steps.waits[1:], strict=True):
            assert not uploads
            assert waits.total() == 1, waits
        steps = Steps(pretend)


def test_an_iteration_of_admm_copies_nothing_to_the_gpu(pretend, system):
    steps = Steps(pretend)
    parameters = SplitParameters(iterations=4, cg_iterations=3, cg_reduction=0.0)
    lrtv(*system[:3], parameters, steps)
    for uploads, waits in zip(steps.uploads[1:], steps.waits[1:], strict=True):
        assert not uploads
        assert waits.total() <= 3 + 8, waits


@pytest.mark.parametrize("search", [None, GroupSearch(30)], ids=["exact", "groups"])
def test_an_iteration_with_a_denoiser_copies_numbers_only(pretend, system, search):
    config = DenoiserConfig(channels=(4, 8), blocks=(1, 1), embedding=8)
    network = ConditionalResidualUNet(config).eval().requires_grad_(False).to("cuda:0")
    steps = Steps(pretend)
    parameters = PlugAndPlayParameters(
        iterations=3, cg_iterations=3, cg_reduction=0.0, nonlocal_iterations=0
    )
    plug_and_play(
        *system,
        admm_denoiser(network, torch.Generator().manual_seed(0), 8),
        parameters,
        on_iteration=steps,
        search=search,
    )
    # Weights of the images in `match`; the index of the contrasts and their classes.
    allowed = {"mrsignal.matching.match", "denoiser.volume.denoise_volumes"}
    for uploads, waits in zip(steps.uploads[1:], steps.waits[1:], strict=True):
        assert uploads.keys() <= allowed, uploads
        assert uploads.total() <= 2, uploads
        assert waits.total() <= 3 + 45, waits


def test_waits_of_matching_do_not_grow_with_the_groups(pretend, system):
    _, _, tsmi, dictionary = system
    waits = []
    for groups in (10, 60):
        search = GroupSearch(groups, 0.5)
        match(tsmi, dictionary, search=search, between_atoms=False)
        pretend.reset_counts()
        match(tsmi, dictionary, search=search, between_atoms=False)
        waits.append(pretend.waits.total())
    assert waits[0] == waits[1] <= 5
