"""The forward model: coil maps, NUFFT, and subspace expansion at the time frame of each sample."""

from __future__ import annotations

from functools import cached_property

import torch

from mri2qmap.machine.process_group import SINGLE_PROCESS, ProcessGroup
from mri2qmap.operators.linear_operator import LinearOperator, Shape
from mri2qmap.operators.nufft import Nufft
from mri2qmap.operators.toeplitz import ToeplitzGram, toeplitz_kernels


class SubspaceSampling(LinearOperator):
    """Non-Cartesian, multi-coil samples of a TSMI.

    Parameters
    ----------
    trajectory
        Sample positions (samples, 3), columns kx, ky, kz [cycles/voxel].
    frames
        Time frame of each sample (samples,), integers.
    basis
        Temporal subspace Phi (frames, s), real or complex.
    shape
        Image voxels (z, y, x).
    coil_maps
        Sensitivities (c, z, y, x); none means one uniform coil.
    device
        Device of the computation.

    Raises
    ------
    ValueError
        If there is not one frame for each sample, or the trajectory is refused by `Nufft`.
    """

    def __init__(
        self,
        trajectory: torch.Tensor,
        frames: torch.Tensor,
        basis: torch.Tensor,
        shape: tuple[int, int, int],
        coil_maps: torch.Tensor | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        if len(frames) != len(trajectory):
            raise ValueError(f"{len(frames)} frame indices for {len(trajectory)} samples")
        self.nufft = Nufft(trajectory, shape, device)
        self._trajectory, self._frames, self._basis = trajectory, frames, basis
        self._shape, self._device = shape, device
        self._weights = basis.to(device)[frames.to(device)].T  # (s, samples)
        self._coil_maps = None if coil_maps is None else coil_maps.to(device)

    @property
    def domain_shape(self) -> Shape:
        """Shape (s, z, y, x) of a TSMI."""
        return (len(self._weights), *self._shape)

    @property
    def range_shape(self) -> Shape:
        """Shape (c, samples) of the k-space samples."""
        coils = 1 if self._coil_maps is None else len(self._coil_maps)
        return (coils, *self.nufft.range_shape)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """K-space samples (c, samples) of a TSMI (s, z, y, x)."""
        if self._coil_maps is None:
            return self._coil_forward(x)[None]
        return torch.stack([self._coil_forward(maps * x) for maps in self._coil_maps])

    def adjoint(self, y: torch.Tensor) -> torch.Tensor:
        """A^H applied to k-space samples (c, samples), giving a TSMI (s, z, y, x)."""
        return self.part_of_adjoint(y, SINGLE_PROCESS)

    def part_of_adjoint(self, y: torch.Tensor, processes: ProcessGroup) -> torch.Tensor:
        """Part of A^H y that one of several processes computes: some coefficients of some coils.

        Parameters
        ----------
        y
            Samples (c, samples).
        processes
            The processes, over which the sum of the parts is A^H y.

        Returns
        -------
            TSMI (s, z, y, x); zero where another process computes it.
        """
        coils, s = self.range_shape[0], len(self._weights)
        if len(y) != coils:
            raise ValueError(f"{len(y)} channels of data, {coils} coil maps")
        if not coils:
            raise ValueError("coil_maps has no coil; (c, z, y, x) with c > 0 is expected")
        tsmi = torch.zeros(s, *self._shape, dtype=torch.complex64, device=self._device)
        for coil, part in processes.share_of_pairs(coils, s):
            images = self.nufft.adjoint(self._weights[part].conj() * y[coil])
            if self._coil_maps is not None:
                images *= self._coil_maps[coil].conj()
            tsmi[part] += images
        return tsmi

    @cached_property
    def gram(self) -> LinearOperator:
        """A^H A: the Toeplitz gram, or the product of both operators for odd image sizes."""
        if any(n % 2 for n in self._shape):
            return super().gram
        return self.toeplitz_gram()

    def toeplitz_gram(self) -> ToeplitzGram:
        """A^H A as a convolution on the double grid; its kernels are computed in this call.

        Raises
        ------
        ValueError
            If an image size is odd.
        """
        kernels = toeplitz_kernels(
            self._trajectory, self._frames, self._basis, self._shape, self._device
        )
        return ToeplitzGram(kernels, self._coil_maps)

    def _coil_forward(self, coil_tsmi: torch.Tensor) -> torch.Tensor:
        """Samples (samples,) of the TSMI of one coil (s, z, y, x)."""
        return (self._weights * self.nufft.forward(coil_tsmi)).sum(0)
