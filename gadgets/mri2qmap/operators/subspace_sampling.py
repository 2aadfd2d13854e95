"""The forward model A = sampling . NUFFT . coil maps . subspace expansion, sample by sample."""

from __future__ import annotations

import torch

from mri2qmap.operators.nufft import Nufft


class SubspaceSampling:
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
        Where to work.
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
        self._weights = basis.to(device)[frames.to(device)].T  # (s, samples)
        ones = torch.ones(1, *shape, dtype=torch.complex64, device=device)
        self._coil_maps = ones if coil_maps is None else coil_maps.to(device)

    def forward(self, tsmi: torch.Tensor) -> torch.Tensor:
        """K-space samples (c, samples) of a TSMI (s, z, y, x)."""
        return torch.stack(
            [(self._weights * self.nufft.forward(maps * tsmi)).sum(0) for maps in self._coil_maps]
        )

    def adjoint(self, kspace: torch.Tensor) -> torch.Tensor:
        """A^H applied to k-space samples (c, samples), giving a TSMI (s, z, y, x)."""
        if len(kspace) != len(self._coil_maps):
            raise ValueError(f"{len(kspace)} channels of data, {len(self._coil_maps)} coil maps")
        tsmi: torch.Tensor | None = None
        for maps, samples in zip(self._coil_maps, kspace, strict=True):
            part = maps.conj() * self.nufft.adjoint(self._weights.conj() * samples)
            tsmi = part if tsmi is None else tsmi + part
        if tsmi is None:
            raise ValueError("there is no coil")
        return tsmi

    def gram(self, tsmi: torch.Tensor) -> torch.Tensor:
        """A^H A, through the samples; `ToeplitzGram` is the fast way."""
        return self.adjoint(self.forward(tsmi))
