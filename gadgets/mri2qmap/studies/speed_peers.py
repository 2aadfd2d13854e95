"""Libraries that solve a `SpeedProblem`, each with its own operators, and how they are timed.

``python -m mri2qmap.studies.speed_peers NAME PROBLEM.npz OUT.npz ITERATIONS`` runs one of
them in a process of its own. So each has its own threads, plans and peak memory.

All but BART are given the normal equations of the whole problem and solve them with the same plain
conjugate gradients. What differs is the product with A^H A: by two non-uniform transforms of each
coil and coefficient, or as a convolution. None of mri-nufft, sigpy and mrpro offers a convolution
for a subspace; theirs, for one image, does not apply. BART's program ``pics`` has one.
"""

from __future__ import annotations

import argparse
import importlib.util
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mri2qmap.studies.speed_problem import (
    Image,
    SpeedProblem,
    conjugate_gradients,
    make_problem,
)

_BART = "bart pics -w1 -l2 -r0"
"""Without scaling of the data; regularised with zero times the energy: conjugate gradients."""
_FILES = "-B basis -t trajectory samples maps solution"
_WATCHED = """
import resource, subprocess, sys
subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL)
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(used.ru_maxrss * 1024, used.ru_utime + used.ru_stime)
"""
"""Runs a program and prints its peak memory [bytes] and processor time [s]. A child's peak is at
least the memory of the process that starts it, so that process must be small."""


@dataclass
class Normal:
    """Normal equations A^H A X = A^H Y of a problem."""

    gram: Callable[[Image], Image]
    right: Callable[[], Image]


@dataclass(frozen=True)
class Peer:
    """A library and how it is run.

    Attributes
    ----------
    label
        Name of its row.
    module
        Python module or program that must be installed; "" if it is part of this package.
    prepare
        Function that sets up the normal equations; None for a program that does everything.
    """

    label: str
    module: str
    prepare: Callable[[SpeedProblem], Normal] | None

    @property
    def installed(self) -> bool:
        """Whether it can be run."""
        if self.prepare is None:
            return shutil.which(self.module) is not None
        return not self.module or importlib.util.find_spec(self.module) is not None


def _ours(problem: SpeedProblem) -> Normal:
    import torch

    from mri2qmap.operators.subspace_sampling import SubspaceSampling

    frames = torch.arange(len(problem.basis)).repeat_interleave(problem.trajectory.shape[1])
    sampling = SubspaceSampling(
        torch.from_numpy(problem.points),
        frames,
        torch.from_numpy(problem.basis),
        problem.shape,
        torch.from_numpy(problem.maps),
    )
    gram = sampling.toeplitz_gram()
    samples = torch.from_numpy(problem.samples.reshape(len(problem.maps), -1))
    return Normal(
        lambda x: gram(torch.from_numpy(x)).numpy(), lambda: sampling.adjoint(samples).numpy()
    )


def _by_transforms(
    problem: SpeedProblem,
    forward: Callable[[Any], Any],
    adjoint: Callable[[Any], Any],
) -> Normal:
    """Normal equations by unitary transforms of images (s, c, z, y, x) to samples (s, c, n)."""
    weights, maps = problem.weights, problem.maps

    def back(samples: Any) -> Image:
        coil_images = adjoint(weights[:, None] * samples)
        image: Image = np.einsum("czyx,sczyx->szyx", maps.conj(), coil_images, optimize=True)
        return image

    def gram(x: Image) -> Image:
        return back(np.einsum("sn,scn->cn", weights, forward(x[:, None] * maps), optimize=True))

    return Normal(gram, lambda: back(problem.samples.reshape(len(maps), -1)))


def _finufft(problem: SpeedProblem, kind: str = "complex64", tolerance: float = 1e-4) -> Normal:
    import finufft

    real = np.float32 if kind == "complex64" else np.float64
    points = [np.ascontiguousarray(2 * np.pi * problem.points[:, i], real) for i in (2, 1, 0)]
    scale = real(np.prod(problem.shape) ** -0.5)
    plans = []
    for transform, sign in ((2, -1), (1, 1)):
        plan = finufft.Plan(
            *(transform, problem.shape, problem.basis.shape[1], tolerance, sign), dtype=kind
        )
        plan.setpts(*points)
        plans.append(plan)

    def by_coil(plan: Any, arrays: Any) -> Any:
        coils = [plan.execute(np.ascontiguousarray(arrays[:, c])) for c in range(arrays.shape[1])]
        return np.stack(coils, 1) * scale

    return _by_transforms(
        problem,
        lambda images: by_coil(plans[0], images.astype(kind)),
        lambda samples: by_coil(plans[1], samples.astype(kind)),
    )


def _reference(problem: SpeedProblem) -> Normal:
    return _finufft(problem, "complex128", 1e-8)


def _mri_nufft(problem: SpeedProblem) -> Normal:
    import mrinufft

    coils, size = len(problem.maps), problem.basis.shape[1]
    operator = mrinufft.get_operator("finufft")(
        problem.points[:, ::-1].copy(),
        problem.shape,
        n_coils=coils,
        n_batchs=size,
        n_trans=coils,
        smaps=problem.maps,
        squeeze_dims=False,
    )
    weights = problem.weights
    # Its scale is that of the grid with twice the size.
    scale = np.float32(operator.norm_factor**2 / np.prod(problem.shape))

    def back(samples: Any) -> Image:
        image: Image = operator.adj_op((weights[:, None] * samples).astype(np.complex64))
        return image.reshape(size, *problem.shape) * scale

    def gram(x: Image) -> Image:
        samples = operator.op(x[:, None])
        return back(np.einsum("sn,scn->cn", weights, samples, optimize=True))

    def right() -> Image:
        root = np.float32(np.sqrt(scale))
        return back(problem.samples.reshape(coils, -1)) / root

    return Normal(gram, right)


def _sigpy(problem: SpeedProblem) -> Normal:
    import sigpy

    coordinates = problem.points[:, ::-1] * np.array(problem.shape, dtype=np.float32)
    shape = (problem.basis.shape[1], len(problem.maps), *problem.shape)
    return _by_transforms(
        problem,
        lambda images: sigpy.nufft(images, coordinates),
        lambda samples: sigpy.nufft_adjoint(samples.astype(np.complex64), coordinates, shape),
    )


def _mrpro(problem: SpeedProblem) -> Normal:
    import torch
    from mrpro.data import KTrajectory
    from mrpro.operators import NonUniformFastFourierOp, SensitivityOp

    torch.set_grad_enabled(False)
    nz, ny, nx = problem.shape
    kx, ky, kz = (
        torch.from_numpy(problem.points[:, i].copy() * n)[None, None, None, None]
        for i, n in enumerate((nx, ny, nz))
    )
    fourier = NonUniformFastFourierOp(
        (-3, -2, -1), problem.shape, problem.shape, KTrajectory(kz, ky, kx)
    )
    sensitivity = SensitivityOp(torch.from_numpy(problem.maps)[None])
    operator = fourier @ sensitivity
    weights = torch.from_numpy(problem.weights)[:, None, None, None]  # s, coil, k2, k1, samples

    def back(samples: Any) -> Image:
        (image,) = operator.H(weights * samples)
        found: Image = image[:, 0].numpy()
        return found

    def gram(x: Image) -> Image:
        (samples,) = operator(torch.from_numpy(x)[:, None])
        return back((weights * samples).sum(0, keepdim=True))

    samples = torch.from_numpy(problem.samples.reshape(len(problem.maps), 1, 1, -1))[None]
    return Normal(gram, lambda: back(samples))


PEERS = {
    "mri2qmap": Peer("mri2qmap", "", _ours),
    "bart": Peer("BART pics", "bart", None),
    "finufft": Peer("finufft, no convolution", "finufft", _finufft),
    "mri-nufft": Peer("mri-nufft", "mrinufft", _mri_nufft),
    "sigpy": Peer("sigpy", "sigpy", _sigpy),
    "mrpro": Peer("mrpro", "mrpro", _mrpro),
    "reference": Peer("finufft, double precision", "finufft", _reference),
}


def run_peer(name: str, problem: SpeedProblem, iterations: int, place: Path) -> dict[str, Any]:
    """Time set-up, adjoint and conjugate gradients of one library.

    Parameters
    ----------
    name, problem, iterations
        Library, of `PEERS`, what it solves, and number of steps.
    place
        Folder for temporary files.

    Returns
    -------
        Seconds of set-up (with the adjoint), of each step, and of all; peak memory [bytes] and
        processor time [s]; solution (s, z, y, x).
    """
    peer = PEERS[name]
    if peer.prepare is None:
        return _run_bart(problem, iterations, place)
    before = time.process_time()
    start = time.perf_counter()
    normal = peer.prepare(problem)
    right = normal.right()
    set_up = time.perf_counter() - start
    solution, steps = conjugate_gradients(normal.gram, right, iterations)
    return {
        "set_up": set_up,
        "steps": steps,
        "total": time.perf_counter() - start,
        "solution": solution,
        "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "cpu": time.process_time() - before,
    }


def _run_bart(problem: SpeedProblem, iterations: int, place: Path) -> dict[str, Any]:
    """Run ``bart pics`` twice; the difference of the runs is the time of steps.

    Peak memory and processor time are those of the run with the number of iterations.
    """
    with tempfile.TemporaryDirectory(dir=place) as name:
        folder = Path(name)
        points = np.moveaxis(problem.trajectory, -1, 0) * np.array(
            problem.shape[::-1], dtype=np.float32
        ).reshape(3, 1, 1)
        frames, n_samples = problem.trajectory.shape[:2]
        coils, size = len(problem.maps), problem.basis.shape[1]
        # BART's axes: x y z coil map frame coefficient, in Fortran order.
        files = {
            "trajectory": points.transpose(0, 2, 1).reshape(3, n_samples, 1, 1, 1, frames),
            "samples": problem.samples.transpose(2, 0, 1).reshape(
                1, n_samples, 1, coils, 1, frames
            ),
            "maps": problem.maps.transpose(3, 2, 1, 0),
            "basis": problem.basis.reshape(1, 1, 1, 1, 1, frames, size),
        }
        for name, array in files.items():
            _write_cfl(folder / name, array)
        subprocess.run(["bart", "version"], check=True, stdout=subprocess.DEVNULL)  # read from disk
        seconds = {}
        for count in (3 * iterations, iterations):
            start = time.perf_counter()
            done = subprocess.run(
                [sys.executable, "-S", "-c", _WATCHED, *f"{_BART} -i{count} {_FILES}".split()],
                cwd=folder,
                check=True,
                stdout=subprocess.PIPE,
                text=True,
            )
            seconds[count] = time.perf_counter() - start
        peak, cpu = done.stdout.split()[-2:]
        solution = _read_cfl(folder / "solution")
    step = (seconds[3 * iterations] - seconds[iterations]) / (2 * iterations)
    return {
        "set_up": seconds[iterations] - iterations * step,
        "steps": [step],
        "total": seconds[iterations],
        "solution": solution.reshape(*problem.shape[::-1], size).transpose(3, 2, 1, 0),
        "peak": float(peak),
        "cpu": float(cpu),
    }


def _write_cfl(file: Path, array: Any) -> None:
    """Write an array for BART."""
    file.with_suffix(".hdr").write_text("# Dimensions\n" + " ".join(map(str, array.shape)) + "\n")
    array.astype(np.complex64).T.tofile(file.with_suffix(".cfl"))


def _read_cfl(file: Path) -> Any:
    """Read an array of BART."""
    shape = [int(n) for n in file.with_suffix(".hdr").read_text().split("\n")[1].split()]
    return np.fromfile(file.with_suffix(".cfl"), np.complex64).reshape(shape[::-1]).T


def main() -> None:
    """Run one library and write what `run_peer` returns."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("name", choices=PEERS)
    parser.add_argument("problem", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("iterations", type=int)
    args = parser.parse_args()
    problem = SpeedProblem.load(args.problem)
    place = args.out.parent
    if PEERS[args.name].prepare is not None:
        # Compiles the loops; each library then plans for the sizes of the problem.
        small = make_problem(16, 2, problem.basis.shape[1], 60, 2.0, 0)
        run_peer(args.name, small, 3, place)
    np.savez(args.out, **run_peer(args.name, problem, args.iterations, place))


if __name__ == "__main__":
    main()
