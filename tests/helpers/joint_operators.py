"""Run by each of several processes: what they compute together, against one process alone."""

import sys

import torch

from mri2qmap.denoiser.checkpoint import load_denoiser
from mri2qmap.denoiser.tsmi_wiener import TsmiWiener
from mri2qmap.denoiser.volume import denoise_volumes
from mri2qmap.machine.process_group import SINGLE_PROCESS, ProcessGroup
from mri2qmap.mrsignal.dictionary import DictionarySettings, build_dictionary
from mri2qmap.mrsignal.matching import match
from mri2qmap.mrsignal.sequence import default_sequence
from mri2qmap.operators.subspace_sampling import SubspaceSampling
from mri2qmap.operators.toeplitz import ToeplitzGram, share_kernels, toeplitz_kernels
from mri2qmap.recon.coil_maps import calibration_images

SHAPES = ((8, 6, 10), (8, 6, 22))  # fused and plain transforms of the gram


def close(found, expected, tolerance=2e-6):
    assert found.shape == expected.shape
    return float((found - expected).norm() / expected.norm()) < tolerance


def check(name, found, expected, processes, compare=close):
    """Compare with the result of one process, and the bits with those of the other processes."""
    assert compare(found, expected), (processes.rank, name)
    processes.refuse_unless_same({name: str(found.numpy().tobytes())})


def check_linear_algebra(processes, shape, coils, complex_basis):
    generator = torch.Generator().manual_seed(0)

    def random(*size):
        return torch.randn(*size, dtype=torch.complex64, generator=generator)

    trajectory = torch.rand(300, 3, generator=generator) - 0.5
    frames = torch.arange(300) % 9
    kind = torch.complex64 if complex_basis else torch.float32
    basis = torch.linalg.qr(torch.randn(9, 3, dtype=kind, generator=generator))[0]
    maps = random(coils, *shape) if coils > 1 else None
    x, y = random(3, *shape), random(coils, 300)

    sampling = SubspaceSampling(trajectory, frames, basis, shape, maps)
    adjoint = processes.sum_(sampling.part_of_adjoint(y, processes))
    check("adjoint", adjoint, sampling.H(y), processes)

    expected = toeplitz_kernels(trajectory, frames, basis, shape)
    kernels = None
    for half in (slice(0, 200), slice(200, 300)):  # batches
        kernels = toeplitz_kernels(
            trajectory[half], frames[half], basis, shape, total=kernels, processes=processes
        )
    share_kernels(kernels, processes)
    check("kernels", kernels, expected, processes)
    gram = ToeplitzGram(kernels, maps, processes=processes)
    check("gram", gram(x), ToeplitzGram(expected, maps)(x), processes)
    images = [
        calibration_images(y, trajectory, frames, basis, shape, (6, 6, 6), processes=group)
        for group in (processes, SINGLE_PROCESS)
    ]
    check("calibration", *images, processes)


def check_voxelwise(processes):
    generator = torch.Generator().manual_seed(1)
    dictionary = build_dictionary(default_sequence(30), DictionarySettings(step=0.3))
    for shape in ((1, 1, 1), (9, 7, 11)):
        tsmi = torch.randn(5, *shape, dtype=torch.complex64, generator=generator)
        images = torch.rand(3, *shape, generator=generator)
        weights = (0.5, 0.4, 0.3)
        expected = match(tsmi, dictionary, images, weights)
        found = match(tsmi, dictionary, images, weights, processes=processes)
        for name, value in vars(expected).items():
            check(name, getattr(found, name), value, processes, torch.equal)
    network = load_denoiser("small").network
    volumes = torch.rand(3, 16, 20, 36, generator=generator)
    restored = [
        denoise_volumes(
            network,
            volumes,
            0.1,
            network.config.contrasts,
            patch=16,
            generator=torch.Generator().manual_seed(2),
            precision=torch.float32,
            flip_average=False,
            processes=group,
        )
        for group in (processes, SINGLE_PROCESS)
    ]
    check("denoiser", *restored, processes)
    guide = torch.randn(2, 9, 12, 17, dtype=torch.complex64, generator=generator)
    noisy = torch.randn(guide.shape, dtype=torch.complex64, generator=generator)
    filtered = [
        TsmiWiener(guide, 1.0, processes=group)(noisy) for group in (processes, SINGLE_PROCESS)
    ]
    check("non-local filter", *filtered, processes)


processes = ProcessGroup.from_environment()
torch.set_num_threads(1)
for coils in map(int, sys.argv[1:]):
    with processes.connected(torch.device("cpu")):  # once for each: groups follow one another
        for shape in SHAPES:
            check_linear_algebra(processes, shape, coils, complex_basis=False)
        check_linear_algebra(processes, SHAPES[0], coils, complex_basis=True)
with processes.connected(torch.device("cpu")):
    check_voxelwise(processes)
print("all equal")
