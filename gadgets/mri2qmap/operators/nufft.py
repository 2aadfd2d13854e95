"""Non-uniform Fourier transform: finufft on the CPU, cufinufft on the GPU."""

from __future__ import annotations

import math
from typing import Any

import torch

from mri2qmap.errors import Mri2QmapError

TOLERANCE = 1e-4  # far below the noise; the transforms are five times slower at 1e-5


class Nufft:
    """Sample images at k-space positions.

    ``y(k) = N**-0.5 * sum_r x(r) exp(-2 pi i k.r)`` with r counted in voxels from voxel
    ``n // 2`` of each axis and N the number of voxels. `adjoint` is the exact adjoint, with the
    same scale. Plans are made once for each batch size and reused. On the CPU it uses as many
    threads as torch, and results are the same to the last bit from run to run.

    Parameters
    ----------
    trajectory
        Sample positions (samples, 3), columns kx, ky, kz [cycles/voxel], within -0.5 to 0.5.
    shape
        Number of voxels (z, y, x).
    device
        Where images and samples live.
    tolerance
        Relative accuracy asked of the transforms.

    Raises
    ------
    ValueError
        If the trajectory is not (samples, 3) or leaves the range.
    Mri2QmapError
        If the device is a GPU and cufinufft is not installed.
    """

    def __init__(
        self,
        trajectory: torch.Tensor,
        shape: tuple[int, int, int],
        device: torch.device | str = "cpu",
        tolerance: float = TOLERANCE,
    ) -> None:
        if trajectory.ndim != 2 or trajectory.shape[1] != 3:
            raise ValueError(f"trajectory must be (samples, 3), got {tuple(trajectory.shape)}")
        if len(trajectory) and float(trajectory.abs().max()) > 0.5 + 1e-4:
            raise ValueError(
                "trajectory must lie within -0.5 to 0.5 cycles/voxel, it reaches "
                f"{float(trajectory.abs().max()):g}"
            )
        self.shape = shape
        self.device = torch.device(device)
        self.n_samples = len(trajectory)
        self._tolerance = tolerance
        radians = (2 * math.pi * trajectory.to(self.device, torch.float32)).contiguous()
        # The library's first axis is ours: z, y, x.
        self._points = [radians[:, axis].contiguous() for axis in (2, 1, 0)]
        self._plans: dict[tuple[int, int], Any] = {}

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Samples (..., samples) of images (..., z, y, x), complex64."""
        return self._apply(2, images, images.shape[:-3], self.shape, (self.n_samples,))

    def adjoint(self, samples: torch.Tensor) -> torch.Tensor:
        """Images (..., z, y, x) from samples (..., samples), complex64."""
        return self._apply(1, samples, samples.shape[:-1], (self.n_samples,), self.shape)

    def _apply(
        self,
        kind: int,
        data: torch.Tensor,
        batch: torch.Size,
        shape_in: tuple[int, ...],
        shape_out: tuple[int, ...],
    ) -> torch.Tensor:
        if tuple(data.shape[len(batch) :]) != shape_in:
            raise ValueError(f"expected (..., {shape_in}), got {tuple(data.shape)}")
        count = math.prod(batch)
        flat = data.reshape(count, *shape_in).to(self.device, torch.complex64).contiguous()
        out = torch.empty(count, *shape_out, dtype=torch.complex64, device=self.device)
        if count and self.n_samples:
            self._execute(kind, flat, out)
        else:
            out.zero_()
        out *= math.prod(self.shape) ** -0.5
        return out.reshape(*batch, *shape_out)

    def _execute(self, kind: int, data: torch.Tensor, out: torch.Tensor) -> None:
        plan = self._plan(kind, len(data))
        if self.device.type == "cuda":
            plan.execute(data, out=out)
        else:
            plan.execute(data.numpy(), out=out.numpy())

    def _plan(self, kind: int, count: int) -> Any:
        """Plan of one transform type and batch size, its points set."""
        if (kind, count) in self._plans:
            return self._plans[kind, count]
        options = {
            "n_trans": count,
            "eps": self._tolerance,
            "isign": 1 if kind == 1 else -1,
            "dtype": "complex64",
        }
        if self.device.type == "cuda":
            try:
                import cufinufft as library
            except ImportError as error:
                raise Mri2QmapError(
                    "NUFFT: cufinufft is needed on a GPU and is not installed; "
                    "run pip install 'mri2qmap[gpu]' or choose --device cpu"
                ) from error
            points: list[Any] = self._points
            options["gpu_device_id"] = self.device.index or 0
        else:
            import finufft as library

            points = [axis.numpy() for axis in self._points]
            options |= _threading(kind, count, torch.get_num_threads())
        plan = library.Plan(kind, self.shape, **options)
        plan.setpts(*points)
        self._plans[kind, count] = plan
        return plan


def _threading(kind: int, count: int, threads: int) -> dict[str, int]:
    """Options of FINUFFT for a batch of transforms that are the same from run to run.

    Where several threads spread the samples of one transform, they add to the grid in the order in
    which they happen to finish. So each thread gets transforms of its own, and no part of the batch
    may be a single transform, on which all threads would work.
    """
    if kind == 2:  # interpolation: no two threads write to one place
        return {"nthreads": threads}
    if count == 1:
        return {"nthreads": 1}
    at_once = min(count, threads)
    while at_once > 1 and count % at_once == 1:
        at_once += 1
    return {"nthreads": threads, "spread_thread": 2, "maxbatchsize": at_once}
