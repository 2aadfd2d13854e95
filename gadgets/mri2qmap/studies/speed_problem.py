"""The least-squares problem on which reconstruction libraries are timed."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from mri2qmap.mrsignal.dictionary import subspace
from mri2qmap.mrsignal.sequence import default_sequence
from mri2qmap.pipeline.geometry import Geometry
from mri2qmap.recon.conjugate_gradient import conjugate_gradient
from mri2qmap.simulation.coils import coil_sensitivities
from mri2qmap.simulation.trajectory import plan_sampling, spiral_projections

Image = NDArray[np.complex64]
_SMOOTHNESS = 0.1
"""Cut-off of the random images [cycles/voxel]."""
_EXTENT = 0.22  # m


@dataclass(frozen=True)
class SpeedProblem:
    """Samples of a TSMI by several coils, of which it is to be found.

    Attributes
    ----------
    trajectory
        Positions (frames, samples, 3), columns kx, ky, kz [cycles/voxel].
    basis
        Subspace (frames, s), real.
    maps
        Coil sensitivities (c, z, y, x).
    samples
        K-space samples (c, frames, samples), of the unitary Fourier transform.
    """

    trajectory: NDArray[np.float32]
    basis: NDArray[np.float32]
    maps: Image
    samples: NDArray[np.complex64]

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels (z, y, x)."""
        nz, ny, nx = self.maps.shape[1:]
        return nz, ny, nx

    @property
    def weights(self) -> NDArray[np.float32]:
        """Value of the subspace at each sample (s, frames samples)."""
        return np.repeat(self.basis.T, self.trajectory.shape[1], axis=1)

    @property
    def points(self) -> NDArray[np.float32]:
        """Positions of all samples (frames samples, 3)."""
        return self.trajectory.reshape(-1, 3)

    def save(self, file: Path) -> None:
        """Write the problem to an NPZ file."""
        np.savez(
            file,
            trajectory=self.trajectory,
            basis=self.basis,
            maps=self.maps,
            samples=self.samples,
        )

    @classmethod
    def load(cls, file: Path) -> SpeedProblem:
        """Read a problem from an NPZ file."""
        with np.load(file) as arrays:
            return cls(*(arrays[name] for name in ("trajectory", "basis", "maps", "samples")))


def make_problem(
    size: int, coils: int, coefficients: int, frames: int, acceleration: float, seed: int
) -> SpeedProblem:
    """Simulate samples of smooth random coefficient images with a little noise."""
    from mri2qmap.operators.subspace_sampling import SubspaceSampling

    shape = (size,) * 3
    sequence = default_sequence(frames)
    basis = subspace(sequence, coefficients)[0]
    plan = plan_sampling(shape, frames, acceleration)
    arms = spiral_projections(plan, shape)  # (groups, frames, samples, 3)
    trajectory = np.ascontiguousarray(arms.swapaxes(0, 1)).reshape(frames, -1, 3)
    geometry = Geometry(shape, (_EXTENT / size,) * 3)
    maps = torch.from_numpy(coil_sensitivities(geometry, coils))
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(coefficients, *shape, dtype=torch.complex64, generator=generator)
    frequency = sum(
        torch.fft.fftfreq(size).square().reshape([-1 if a == axis else 1 for a in range(3)])
        for axis in range(3)
    )
    low_pass = torch.exp(-torch.as_tensor(frequency) / (2 * _SMOOTHNESS**2))
    images = torch.fft.ifftn(torch.fft.fftn(images, dim=(1, 2, 3)) * low_pass, dim=(1, 2, 3))
    n_samples = trajectory.shape[1]
    sampling = SubspaceSampling(
        torch.from_numpy(trajectory.reshape(-1, 3)),
        torch.arange(frames).repeat_interleave(n_samples),
        basis,
        shape,
        maps,
    )
    clean = sampling.forward(images)
    noise = torch.randn(clean.shape, dtype=clean.dtype, generator=generator)
    samples = (clean + 0.1 * clean.abs().mean() * noise).reshape(coils, frames, n_samples)
    return SpeedProblem(trajectory, basis.numpy(), maps.numpy(), samples.numpy())


def conjugate_gradients(
    gram: Callable[[Image], Image], right: Image, iterations: int
) -> tuple[Image, list[float]]:
    """Solve with a fixed number of plain steps from zero; return also the time of each [s]."""
    times = [time.perf_counter()]
    solution, _ = conjugate_gradient(
        lambda x: torch.from_numpy(np.ascontiguousarray(gram(x.numpy()))),
        torch.from_numpy(np.ascontiguousarray(right)),
        max_iterations=iterations,
        tolerance=0.0,
        on_iteration=lambda: times.append(time.perf_counter()),
    )
    return solution.numpy(), np.diff(times).tolist()
