"""The gram of subspace-encoded, non-Cartesian sampling as a convolution.

A^H A of an image series X with s coefficients is a matrix of s x s convolutions:

    (A^H A X)_k = sum_l p_kl * X_l
    p_kl(m) = sum_n conj(Phi_k(t_n)) Phi_l(t_n) exp(2 pi i k_n.m) / N

Lags reach from -(N-1) to N-1 along each axis, so a periodic grid of twice the size holds them and
the convolutions are products there. Two facts keep this small and fast:

* p_lk(m) = conj(p_kl(-m)), so the s x s spectra form a Hermitian matrix at each frequency and
  s (s + 1) / 2 of them are stored. With a real subspace they are real: half the memory, and two
  of them come out of one complex transform, as its real and imaginary part.
* The double grid splits by the parity of each frequency into 8 grids of the image size: grid
  (pz, py, px) is the plain transform of the image times exp(-i pi (pz z/nz + py y/ny + px x/nx)).
  No zero is ever transformed, and work arrays have the size of the image.

References
----------
Fessler et al., IEEE Trans Signal Process 53:3393 (2005); Tamir et al., Magn Reson Med 77:180
(2017); Baron et al., Magn Reson Med 79:2685 (2018).
"""

from __future__ import annotations

import itertools
import math
from functools import cached_property

import torch

from mri2qmap.operators.circulant import CirculantGram
from mri2qmap.operators.kernel_product import apply_kernels, n_coefficients_of
from mri2qmap.operators.nufft import Nufft

TRANSFORMS_AT_ONCE = 2  # each needs about 100 bytes a voxel inside the NUFFT


def n_pairs(n_coefficients: int) -> int:
    """Number of stored kernels."""
    return n_coefficients * (n_coefficients + 1) // 2


def toeplitz_kernels(
    trajectory: torch.Tensor,
    frames: torch.Tensor,
    basis: torch.Tensor,
    shape: tuple[int, int, int],
    device: torch.device | str = "cpu",
    total: torch.Tensor | None = None,
) -> torch.Tensor:
    """Spectra of the subspace point-spread functions of a set of samples.

    They are linear in the samples: the kernels of two sets add up to those of both.

    Parameters
    ----------
    trajectory
        Sample positions (samples, 3), columns kx, ky, kz [cycles/voxel].
    frames
        Time frame of each sample (samples,), integers.
    basis
        Temporal subspace Phi (frames, s), real or complex.
    shape
        Image voxels (z, y, x); the sizes must be even.
    device
        Where to work.
    total
        Kernels of other samples, to which these are added in place.

    Returns
    -------
        Kernels (2, 2, 2, pairs, z, y, x): parity of the frequency along z, y and x, then the
        upper triangle row by row; float32 for a real basis, else complex64.

    Raises
    ------
    ValueError
        If an image size is odd.
    """
    if any(n % 2 for n in shape):
        raise ValueError(f"the image sizes must be even, got {shape}")
    rows, columns = torch.triu_indices(basis.shape[1], basis.shape[1], device=basis.device)
    pair_weights = (basis[:, rows].conj() * basis[:, columns]).T.to(device)
    if total is None:
        dtype = torch.complex64 if basis.is_complex() else torch.float32
        total = torch.zeros(2, 2, 2, len(rows), *shape, dtype=dtype, device=device)
    pairs = list(total.unbind(3))
    if not basis.is_complex():
        # Two real weights make the real and the imaginary part of one transform.
        if len(pair_weights) % 2:
            pair_weights = torch.cat([pair_weights, torch.zeros_like(pair_weights[:1])])
        pair_weights = torch.complex(pair_weights[0::2], pair_weights[1::2])

    nufft = Nufft(trajectory, tuple(2 * n for n in shape), device)  # type: ignore[arg-type]
    # To 1/N of the image grid from the unitary scale of the double grid, whose N is 8 times that.
    scale = math.sqrt(8.0 / math.prod(shape))
    frames = frames.to(device)
    for weights in pair_weights.split(TRANSFORMS_AT_ONCE):
        for lags in nufft.adjoint(weights[:, frames] * scale):
            spectrum = _spectrum(lags)
            parts = (spectrum,) if basis.is_complex() else (spectrum.real, spectrum.imag)
            for part in parts[: len(pairs)]:
                _add_by_parity(part, pairs.pop(0))
    return total


def _spectrum(lags: torch.Tensor) -> torch.Tensor:
    """Spectrum of a point-spread function at lags -N to N-1 of each axis, but for a sign.

    The transform takes lag -N for the origin: odd frequencies come out negative.
    """
    # Lag -N has no partner at +N and is never needed; without it the spectra are Hermitian.
    lags[0], lags[:, 0], lags[:, :, 0] = 0, 0, 0
    return torch.fft.fftn(lags)


def _add_by_parity(spectrum: torch.Tensor, kernels: torch.Tensor) -> None:
    """Add a spectrum of `_spectrum` (2 z, 2 y, 2 x) to kernels (2, 2, 2, z, y, x)."""
    for z, y, x in itertools.product((0, 1), repeat=3):
        sign = -1 if (z + y + x) % 2 else 1
        kernels[z, y, x].add_(spectrum[z::2, y::2, x::2], alpha=sign)


class ToeplitzGram:
    """A^H A of subspace and sampling, and of coils where maps are given.

    Parameters
    ----------
    kernels
        Kernels as `toeplitz_kernels` gives them.
    coil_maps
        Sensitivities (c, z, y, x); none means one uniform coil.
    coils_at_once
        Coils worked on together; each takes three times the memory of a TSMI.

    Attributes
    ----------
    mean_diagonal
        Mean of the diagonal of the gram where the maps have unit root-sum-of-squares: the
        number of samples that one coefficient of one voxel sees.
    """

    def __init__(
        self,
        kernels: torch.Tensor,
        coil_maps: torch.Tensor | None = None,
        coils_at_once: int = 1,
    ) -> None:
        if kernels.ndim != 7 or kernels.shape[:3] != (2, 2, 2):
            raise ValueError(f"kernels must be (2, 2, 2, pairs, z, y, x), got {kernels.shape}")
        self.n_coefficients = n_coefficients_of(kernels.shape[3])
        self.shape = tuple(kernels.shape[4:])
        if coil_maps is not None and tuple(coil_maps.shape[1:]) != self.shape:
            raise ValueError(
                f"coil maps {tuple(coil_maps.shape)} do not fit kernels of shape {self.shape}"
            )
        self._kernels = kernels
        self._coil_maps = coil_maps
        self._coils_at_once = coils_at_once
        # exp(-i pi r / n) along each axis, the modulation of odd frequencies.
        self._half_cycles = [
            torch.exp(-1j * math.pi / n * torch.arange(n, device=kernels.device)).to(
                torch.complex64
            )
            for n in self.shape
        ]
        rows, columns = torch.triu_indices(self.n_coefficients, self.n_coefficients)
        diagonal = kernels[:, :, :, (rows == columns).to(kernels.device)].real
        self.mean_diagonal = float(diagonal.mean(dtype=torch.float64))

    def __call__(self, tsmi: torch.Tensor) -> torch.Tensor:
        """Apply to a TSMI (s, z, y, x), complex64."""
        if tuple(tsmi.shape) != (self.n_coefficients, *self.shape):
            raise ValueError(
                f"expected a TSMI of shape {(self.n_coefficients, *self.shape)}, "
                f"got {tuple(tsmi.shape)}"
            )
        if self._coil_maps is None:
            return self._convolve(tsmi[None])[0]
        result = torch.zeros_like(tsmi)
        for maps in self._coil_maps.split(self._coils_at_once):
            coil_images = self._convolve(maps[:, None] * tsmi)
            for sensitivity, image in zip(maps, coil_images, strict=True):
                result.addcmul_(sensitivity.conj().resolve_conj(), image)
        return result

    @cached_property
    def circulant(self) -> CirculantGram:
        """Its circulant stand-in, for preconditioners."""
        return CirculantGram(self._kernels, self.mean_diagonal)

    def _convolve(self, images: torch.Tensor) -> torch.Tensor:
        """Convolve images (coils, s, z, y, x) on the double grid, one parity grid at a time."""
        axes = (2, 3, 4)
        result = torch.zeros_like(images)
        for parity in itertools.product((0, 1), repeat=3):
            modulation = self._modulation(parity)
            spectra = torch.fft.fftn(images * modulation, dim=axes)
            shifted = torch.fft.ifftn(apply_kernels(self._kernels[parity], spectra), dim=axes)
            # Each of the 8 grids is an eighth of the inverse transform of the double grid.
            result.addcmul_(shifted, modulation.conj().resolve_conj(), value=1 / 8)
        return result

    def _modulation(self, parity: tuple[int, ...]) -> torch.Tensor:
        """Phase ramp (z, y, x) that brings the frequencies of one parity grid to whole ones."""
        z, y, x = (
            half_cycle**odd for half_cycle, odd in zip(self._half_cycles, parity, strict=True)
        )
        return z[:, None, None] * y[:, None] * x
