"""Non-uniform Fourier transform: finufft on a CPU, cufinufft or our own on a GPU."""

from __future__ import annotations

import math
from typing import Any

import torch

from mri2qmap.errors import Mri2QmapError
from mri2qmap.machine.cancellation import raise_if_cancelled
from mri2qmap.machine.cuda_kernels import cuda_kernels_run
from mri2qmap.machine.gpu_packages import gpu_extra
from mri2qmap.operators.cuda_nufft import CudaNufft
from mri2qmap.operators.linear_operator import LinearOperator, Shape

TOLERANCE = 1e-4  # far below the noise; transforms take five times as long at 1e-5


class Nufft(LinearOperator):
    """Sample images at k-space positions.

    ``y(k) = N**-0.5 * sum_r x(r) exp(-2 pi i k.r)`` with r counted in voxels from voxel
    ``n // 2`` of each axis and N the number of voxels. `adjoint` is the exact adjoint, with the
    same scale. Images and samples may have leading batch axes. Plans are made once for each batch
    size and reused. On the CPU it uses as many threads as torch, and results are the same to the
    last bit from run to run. On a GPU it uses cufinufft where that is installed, else `CudaNufft`.

    Parameters
    ----------
    trajectory
        Sample positions (samples, 3), columns kx, ky, kz [cycles/voxel], within -0.5 to 0.5.
    shape
        Number of voxels (z, y, x).
    device
        Device of images and samples.
    tolerance
        Relative accuracy of the transforms.

    Raises
    ------
    ValueError
        If the trajectory is not (samples, 3), leaves the range or has values that are no numbers.
    Mri2QmapError
        If the device is a GPU, and neither cufinufft nor CuPy works.
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
        if len(trajectory) and not float(trajectory.abs().max()) <= 0.5 + 1e-4:
            raise ValueError(
                "trajectory must lie within -0.5 to 0.5 cycles/voxel, it reaches "
                f"{float(trajectory.abs().max()):g}"
            )
        self._shape = shape
        self._n_samples = len(trajectory)
        self.device = torch.device(device)
        self._tolerance = tolerance
        self._plans: dict[tuple[int, int], Any] = {}
        self._own = None
        if self.device.type == "cuda" and not _cufinufft_loads():
            self._own = self._of_our_own(trajectory)
            return
        radians = (2 * math.pi * trajectory.to(self.device, torch.float32)).contiguous()
        # The axis order of the library's plans is that of the images: z, y, x.
        self._points = [radians[:, axis].contiguous() for axis in (2, 1, 0)]

    def _of_our_own(self, trajectory: torch.Tensor) -> CudaNufft:
        """Transforms by CUDA kernels of our own."""
        if not cuda_kernels_run(self.device):
            raise Mri2QmapError(
                f"NUFFT: cufinufft or CuPy is needed on a GPU, and neither works on {self.device}; "
                f"run mri2qmap doctor or pip install 'mri2qmap[{gpu_extra()}]', or choose the "
                "device cpu"
            )
        return CudaNufft(trajectory.to(self.device), self._shape, self._tolerance)

    @property
    def domain_shape(self) -> Shape:
        """Voxels (z, y, x) of an image."""
        return self._shape

    @property
    def range_shape(self) -> Shape:
        """Number of samples (samples,) of an image."""
        return (self._n_samples,)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Samples (..., samples) of images (..., z, y, x), complex64."""
        return self._apply(2, x, x.shape[:-3], self.domain_shape, self.range_shape)

    def adjoint(self, y: torch.Tensor) -> torch.Tensor:
        """Images (..., z, y, x) from samples (..., samples), complex64."""
        return self._apply(1, y, y.shape[:-1], self.range_shape, self.domain_shape)

    def _apply(
        self,
        kind: int,
        data: torch.Tensor,
        batch: torch.Size,
        shape_in: Shape,
        shape_out: Shape,
    ) -> torch.Tensor:
        if tuple(data.shape[len(batch) :]) != shape_in:
            raise ValueError(f"expected (..., {shape_in}), got {tuple(data.shape)}")
        raise_if_cancelled()
        count = math.prod(batch)
        flat = data.reshape(count, *shape_in).to(self.device, torch.complex64)
        flat = flat.resolve_conj().contiguous()  # the libraries take the address of the memory
        out = torch.empty(count, *shape_out, dtype=torch.complex64, device=self.device)
        if count and self._n_samples:
            self._execute(kind, flat, out)
        else:
            out.zero_()
        out *= math.prod(self._shape) ** -0.5
        return out.reshape(*batch, *shape_out)

    def _execute(self, kind: int, data: torch.Tensor, out: torch.Tensor) -> None:
        if self._own is not None:
            self._own.execute(kind, data, out)
        elif self.device.type == "cuda":
            self._plan(kind, len(data)).execute(data, out=out)
        else:
            self._plan(kind, len(data)).execute(data.numpy(), out=out.numpy())

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
            import cufinufft as library

            points: list[Any] = self._points
            options["gpu_device_id"] = self.device.index or 0
        else:
            import finufft as library

            points = [axis.numpy() for axis in self._points]
            options |= _threading(kind, count, torch.get_num_threads())
        plan = library.Plan(kind, self._shape, **options)
        plan.setpts(*points)
        self._plans[kind, count] = plan
        return plan


def _cufinufft_loads() -> bool:
    try:
        import cufinufft  # noqa: F401
    except ImportError:  # it also raises this if the libraries of CUDA that it needs are missing
        return False
    return True


def _threading(kind: int, count: int, threads: int) -> dict[str, int]:
    """Options of FINUFFT with which results do not change from run to run.

    Several threads that spread the samples of one transform add to its grid in the order in which
    they finish, which varies. Therefore each thread works on its own transforms, and the batch is
    split so that no part is a single transform, which all threads would share.
    """
    if kind == 2:  # interpolation: no two threads write to one place
        return {"nthreads": threads}
    if count == 1:
        return {"nthreads": 1}
    at_once = min(count, threads)
    while at_once > 1 and count % at_once == 1:
        at_once += 1
    return {"nthreads": threads, "spread_thread": 2, "maxbatchsize": at_once}
