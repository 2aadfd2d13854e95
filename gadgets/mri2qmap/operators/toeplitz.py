"""The gram of subspace-encoded, non-Cartesian sampling as a convolution.

A^H A of an image series X with s coefficients is a matrix of s x s convolutions:

    (A^H A X)_k = sum_l p_kl * X_l
    p_kl(m) = sum_n conj(Phi_k(t_n)) Phi_l(t_n) exp(2 pi i k_n.m) / N

Lags reach from -(N-1) to N-1 along each axis, so a periodic grid of twice the size holds them and
the convolutions are products there. Two facts keep this small and fast:

* p_lk(m) = conj(p_kl(-m)), so the s x s spectra form a Hermitian matrix at each frequency and
  s (s + 1) / 2 of them are stored. With a real subspace they are real: this halves the memory, and
  one complex transform computes two of them, as its real and imaginary part.
* The double grid splits by the parity of each frequency into 8 grids of the image size: grid
  (pz, py, px) is the plain transform of the image times exp(-i pi (pz z/nz + py y/ny + px x/nx)).
  No zero padding is transformed, and work arrays have the size of the image. On a CPU, these
  transforms and the products are fused (`mri2qmap.operators.lane_convolution`); on a GPU, what lies
  between the transforms is (`mri2qmap.operators.cuda_convolution`).

References
----------
Fessler et al., IEEE Trans Signal Process 53:3393 (2005); Tamir et al., Magn Reson Med 77:180
(2017); Baron et al., Magn Reson Med 79:2685 (2018).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from functools import cached_property

import torch

from mri2qmap.machine.cancellation import raise_if_cancelled
from mri2qmap.machine.process_group import SINGLE_PROCESS, ProcessGroup
from mri2qmap.operators.circulant import CirculantGram
from mri2qmap.operators.fused_convolution import fused_convolution
from mri2qmap.operators.kernel_product import apply_kernels, n_coefficients_of
from mri2qmap.operators.lane_convolution import LaneConvolution, lane_kernels
from mri2qmap.operators.linear_operator import SelfAdjointOperator, Shape
from mri2qmap.operators.nufft import Nufft

_PARITIES = tuple(itertools.product((0, 1), repeat=3))
_LARGEST_HALF = 2.0**15
TRANSFORMS_AT_ONCE = 2  # each takes about 100 bytes per voxel inside the NUFFT


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
    spare_memory: bool = False,
    processes: ProcessGroup = SINGLE_PROCESS,
) -> torch.Tensor:
    """Spectra of the subspace point-spread functions of a set of samples.

    They are additive: the kernels of the union of two sets are the sum of their kernels.

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
        Device of the computation and of the kernels.
    total
        Kernels of other samples, to which these are added in place.
    spare_memory
        Whether to need less memory, at the cost of time.
    processes
        Each of several processes computes some of the kernels and leaves the others as they are;
        `share_kernels` completes them.

    Returns
    -------
        Kernels (2, 2, 2, pairs, z, y, x): parity of the frequency along z, y and x, then the
        upper triangle row by row; float32 for a real basis, else complex64. On the CPU, their order
        in memory is that of `mri2qmap.operators.lane_convolution.lane_kernels`.

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
        total = _no_kernels(len(rows), shape, dtype, device)
    pairs = list(total.unbind(3))
    if not basis.is_complex():
        # Two real weights are the real and the imaginary part of one transform.
        if len(pair_weights) % 2:
            pair_weights = torch.cat([pair_weights, torch.zeros_like(pair_weights[:1])])
        pair_weights = torch.complex(pair_weights[0::2], pair_weights[1::2])

    own = processes.share(len(pair_weights))
    pair_weights = pair_weights[own]
    del pairs[: own.start * (1 if basis.is_complex() else 2)]
    frames = frames.to(device)
    whole = torch.device(device).type == "cpu" and not spare_memory
    spectra = (_whole_grid if whole else _by_octants)(trajectory, shape, device)
    for weights in torch.split(pair_weights, 1 if spare_memory else TRANSFORMS_AT_ONCE):
        for number, parity, grid in spectra(weights[:, frames]):
            raise_if_cancelled()
            parts = (grid,) if basis.is_complex() else (grid.real, grid.imag)
            for part, pair in zip(parts, pairs[number * len(parts) :], strict=False):
                pair[parity].add_(part)
        del pairs[: len(weights) * (1 if basis.is_complex() else 2)]
    return total


def share_kernels(kernels: torch.Tensor, processes: ProcessGroup) -> None:
    """Complete kernels in place of which each process has summed its part from zero.

    Parameters
    ----------
    kernels
        Result of `toeplitz_kernels` with the same processes.
    processes
        The processes.

    Raises
    ------
    Mri2QmapError
        If another process has failed.
    """
    if processes.world_size > 1:
        for pair in kernels.unbind(3):  # one at a time: this takes a copy
            processes.sum_(pair)


def _no_kernels(
    pairs: int, shape: tuple[int, int, int], dtype: torch.dtype, device: torch.device | str
) -> torch.Tensor:
    """Zeros (2, 2, 2, pairs, z, y, x), in the order in memory that the gram needs."""
    if LaneConvolution.fits(shape, device):
        return lane_kernels(2, pairs, shape, dtype)
    return torch.zeros(2, 2, 2, pairs, *shape, dtype=dtype, device=device)


def _half_cycles(shape: Shape, device: torch.device | str) -> list[torch.Tensor]:
    """Phase ramps exp(-i pi r / n) along each axis, the modulation of odd frequencies."""
    return [
        torch.exp(-1j * math.pi / n * torch.arange(n, device=device)).to(torch.complex64)
        for n in shape
    ]


Parity = tuple[int, ...]
ParityGrids = Iterator[tuple[int, Parity, torch.Tensor]]
"""Number of the weights, parity, and the spectrum (z, y, x) on the grid of the parity."""


def _whole_grid(
    trajectory: torch.Tensor, shape: tuple[int, int, int], device: torch.device | str
) -> Callable[[torch.Tensor], ParityGrids]:
    """Spectra of weighted samples by one transform of the double grid."""
    nufft = Nufft(trajectory, tuple(2 * n for n in shape), device)  # type: ignore[arg-type]
    # From the unitary scale of the double grid to 1/N of the image grid, an eighth of its size.
    scale = math.sqrt(8.0 / math.prod(shape))

    def spectra(weights: torch.Tensor) -> ParityGrids:
        lags = nufft.adjoint(weights * scale)
        # Lag -N has no counterpart at +N and does not contribute; without it the spectra are
        # Hermitian.
        lags[:, 0], lags[:, :, 0], lags[:, :, :, 0] = 0, 0, 0
        for number, lag in enumerate(lags):
            spectrum = torch.fft.fftn(lag)
            for z, y, x in _PARITIES:
                grid = spectrum[z::2, y::2, x::2]
                # The origin of the transform is lag -N, which changes the sign of odd frequencies.
                yield number, (z, y, x), -grid if (z + y + x) % 2 else grid

    return spectra


def _by_octants(
    trajectory: torch.Tensor, shape: tuple[int, int, int], device: torch.device | str
) -> Callable[[torch.Tensor], ParityGrids]:
    """Spectra of weighted samples by eight transforms of the image grid, one for each octant.

    The lags -N to N-1 of an axis are two intervals of N, whose transforms are those of samples with
    a phase ramp. Sum and difference of both are what even and odd frequencies see. The fine grid of
    the non-uniform transform is an eighth of that of `_whole_grid`. Each sample is spread eight
    times, which takes longer on a CPU.
    """
    nufft = Nufft(trajectory, shape, device)
    scale = math.prod(shape) ** -0.5
    position = trajectory.to(device)
    ramps = _half_cycles(shape, device)

    def spectra(weights: torch.Tensor) -> ParityGrids:
        octants = torch.empty(
            2, 2, 2, len(weights), *shape, dtype=torch.complex64, device=weights.device
        )
        for octant in _PARITIES:
            # The transform has lags from -n/2: of the interval -n to -1 (0) or 0 to n-1 (1).
            turns = sum(
                position[:, 2 - axis].double() * (n // 2 if upper else -(n // 2))
                for axis, (n, upper) in enumerate(zip(shape, octant, strict=True))
            )
            phase = torch.exp(2j * math.pi * torch.as_tensor(turns)).to(torch.complex64)
            octants[octant] = nufft.adjoint(weights * (phase * scale))
        for axis in range(3):
            lower, upper = octants.unbind(axis)
            lower.select(axis + 3, 0).zero_()  # lag -N, see `_whole_grid`
            even, odd = upper + lower, upper - lower
            octants = torch.stack([even, odd], axis)
        for parity in _PARITIES:
            grid = octants[parity]
            for axis, (ramp, odd_frequency) in enumerate(zip(ramps, parity, strict=True)):
                if odd_frequency:
                    grid *= ramp.reshape([-1 if a == axis else 1 for a in range(3)])
            for number, one in enumerate(grid):
                yield number, parity, torch.fft.fftn(one)

    return spectra


def in_half_precision(kernels: torch.Tensor) -> tuple[torch.Tensor, float]:
    """Round real kernels (2, 2, 2, pairs, z, y, x) to half precision.

    All have the same scale. The largest number, that of the centre of k-space, becomes 2^15, and
    numbers down to 2^-14 keep 11 bits, a range of 2^29. Products with A^H A change by about 1e-4.

    Returns
    -------
    kernels
        Kernels in units of the scale, float16, in the same order in memory. Complex kernels are
        returned as they are.
    scale
        Factor of the kernels.
    """
    if kernels.is_complex():
        return kernels, 1.0
    largest = max(float(pair.abs().max()) for pair in kernels.unbind(3))
    scale = largest / _LARGEST_HALF or 1.0
    _, _, _, n_kernels, z, y, x = kernels.shape
    halves = _no_kernels(n_kernels, (z, y, x), torch.float16, kernels.device)
    for half, pair in zip(halves.unbind(3), kernels.unbind(3), strict=True):
        half.copy_(pair / scale)
    return halves, scale


class ToeplitzGram(SelfAdjointOperator):
    """A^H A of subspace and sampling, and of the coils if maps are given.

    Parameters
    ----------
    kernels
        Kernels (2, 2, 2, pairs, z, y, x), see `toeplitz_kernels`, also in half precision.
    coil_maps
        Sensitivities (c, z, y, x); none means one uniform coil.
    scale
        Factor of the kernels, see `in_half_precision`.
    spare_memory
        Whether to need less memory, at the cost of time: coils are convolved one by one.
    processes
        Each of several processes computes the part of some coils, and of even or odd frequencies
        kx. All have the same kernels, maps and TSMIs, and get the same sum.

    Attributes
    ----------
    kernels
        The kernels, in the order in memory that is used and in units of the scale.
    spare_memory
        As given; algorithms that use the gram do likewise.
    mean_diagonal
        Mean of the diagonal of the gram for maps of unit root-sum-of-squares: the number of
        samples per voxel that contribute to one coefficient.

    Raises
    ------
    ValueError
        If kernels or maps have another shape.
    """

    def __init__(
        self,
        kernels: torch.Tensor,
        coil_maps: torch.Tensor | None = None,
        scale: float = 1.0,
        spare_memory: bool = False,
        processes: ProcessGroup = SINGLE_PROCESS,
    ) -> None:
        if kernels.ndim != 7 or kernels.shape[:3] != (2, 2, 2):
            raise ValueError(f"kernels must be (2, 2, 2, pairs, z, y, x), got {kernels.shape}")
        size = n_coefficients_of(kernels.shape[3])
        shape = tuple(kernels.shape[4:])
        if coil_maps is not None and tuple(coil_maps.shape[1:]) != shape:
            raise ValueError(
                f"coil maps {tuple(coil_maps.shape)} do not fit kernels of shape {shape}"
            )
        self._shape = (size, *shape)
        self._scale = scale
        self.spare_memory = spare_memory
        rows, columns = torch.triu_indices(size, size)
        diagonal = [kernels[:, :, :, pair].real for pair in (rows == columns).nonzero()[:, 0]]
        means = [float(each.mean(dtype=torch.float64)) for each in diagonal]
        self.mean_diagonal = scale * sum(means) / size
        self._fused = fused_convolution(kernels, scale, spare_memory)
        self.kernels = kernels if self._fused is None else self._fused.kernels
        self._coil_maps = coil_maps
        self._processes = processes
        self._half_cycles = _half_cycles(shape, kernels.device)

    @property
    def domain_shape(self) -> Shape:
        """Shape (s, z, y, x) of a TSMI."""
        return self._shape

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """A^H A of a TSMI (s, z, y, x), complex64."""
        if tuple(x.shape) != self._shape:
            raise ValueError(f"expected a TSMI of shape {self._shape}, got {tuple(x.shape)}")
        if self._processes.world_size == 1:
            return self._part(x, self._coil_maps, (0, 1))
        coils = 1 if self._coil_maps is None else len(self._coil_maps)
        result = torch.zeros_like(x)
        for odd_x, part in self._processes.share_of_pairs(2, coils):
            maps = None if self._coil_maps is None else self._coil_maps[part]
            result += self._part(x, maps, (odd_x,))
        return self._processes.sum_(result)

    def _part(
        self, x: torch.Tensor, coil_maps: torch.Tensor | None, x_parities: tuple[int, ...]
    ) -> torch.Tensor:
        """Part of some coils and of frequencies kx of some parities."""
        if self._fused is not None:
            return self._fused(x, coil_maps, x_parities)
        if coil_maps is None:
            return self._convolve(x, x_parities)
        result = torch.zeros_like(x)
        for sensitivity in coil_maps:
            coil_image = self._convolve(sensitivity * x, x_parities)
            result.addcmul_(sensitivity.conj().resolve_conj(), coil_image)
        return result

    @cached_property
    def circulant(self) -> CirculantGram:
        """The circulant nearest to the gram of one uniform coil, for preconditioners."""
        return CirculantGram(self._pairs(), self.mean_diagonal)

    def _pairs(self) -> Iterator[torch.Tensor]:
        """Kernels (2, 2, 2, z, y, x) of one pair after the other, in single precision."""
        for pair in self.kernels.unbind(3):
            single = pair.float() if pair.dtype == torch.float16 else pair
            yield single if self._scale == 1 else single * self._scale

    def _convolve(self, images: torch.Tensor, x_parities: tuple[int, ...]) -> torch.Tensor:
        """Convolve images (s, z, y, x) on the double grid, one parity grid at a time."""
        axes = (2, 3, 4)
        images = images[None]  # `apply_kernels` takes a batch
        result = torch.zeros_like(images)
        for parity in _PARITIES:
            if parity[2] not in x_parities:
                continue
            raise_if_cancelled()
            modulation = self._modulation(parity)
            spectra = torch.fft.fftn(images * modulation, dim=axes)
            kernels = self.kernels[parity]
            if kernels.dtype == torch.float16:
                kernels = kernels.float()
            shifted = torch.fft.ifftn(apply_kernels(kernels, spectra), dim=axes)
            # Each of the 8 grids is an eighth of the inverse transform of the double grid.
            result.addcmul_(shifted, modulation.conj().resolve_conj(), value=self._scale / 8)
        return result[0]

    def _modulation(self, parity: tuple[int, ...]) -> torch.Tensor:
        """Phase ramp (z, y, x) that moves the frequencies of one parity grid to integers."""
        z, y, x = (
            half_cycle**odd for half_cycle, odd in zip(self._half_cycles, parity, strict=True)
        )
        return z[:, None, None] * y[:, None] * x
