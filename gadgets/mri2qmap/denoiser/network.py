"""Conditional residual 3D U-Net that denoises weighted images.

The architecture follows section III-B1 of the MRI2Qmap paper: a residual U-Net conditioned on the
contrast and the noise level, with attention at the coarsest levels. One class covers the paper's
network and a small one. The optional space-to-depth stem of the small one reduces the cost of the
first level by a factor of eight, which makes training on a CPU feasible.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from mri2qmap.denoiser.classical_prefilter import classical_prefilter
from mri2qmap.denoiser.dct_wiener import LARGEST_CUBE
from mri2qmap.machine.cancellation import raise_if_cancelled
from mri2qmap.mrsignal.synthesis import Contrast

#: Contrast classes of a denoiser, in the order of the class embedding.
CONTRASTS = tuple(contrast.value for contrast in Contrast)

_SIGMA_FREQUENCIES = 8
#: Typical root mean square of an object of intensity scale 1.
_TYPICAL_RMS = 0.5
#: Noise level below which the network's correction of the pre-filter is scaled down with the noise.
_CORRECTION_SIGMA = 0.1
#: Geometric centre of the range of local standard deviations about the local mean, and half the
#: range of the logarithm of their squares: standard deviations of 0.007 to 0.37.
_LOCAL_STD, _LOG_VARIANCE_RANGE = 0.05, 4.0


@dataclass(frozen=True)
class DenoiserConfig:
    """Configuration of a :class:`ConditionalResidualUNet`.

    Parameters
    ----------
    channels : tuple of int
        Channels of each resolution level, finest first.
    blocks : tuple of int
        Residual blocks of each level, in the encoder and again in the decoder.
    stem : int
        Space-to-depth factor before the first level (1: none).
    attention_levels : tuple of int
        Levels (0 is the finest) whose blocks are followed by self-attention.
    heads : int
        Attention heads.
    embedding : int
        Length of the embedding of noise level and contrast.
    contrasts : tuple of str
        Names of the contrast classes.
    joint : bool
        Denoise all contrasts of an object together, one channel each, so that shared edges are
        used; otherwise one image at a time.
    prefilter : bool
        Start from :func:`classical_prefilter` for images with white noise.
    sigma_min, sigma_max : float
        Lowest and highest noise level, relative to the scaled image.
    sigma_levels : int
        Number of logarithmically spaced noise levels.

    Raises
    ------
    ValueError
        If the values are inconsistent or out of range.
    """

    channels: tuple[int, ...] = (32, 64, 96)
    blocks: tuple[int, ...] = (1, 1, 2)
    stem: int = 2
    attention_levels: tuple[int, ...] = ()
    heads: int = 4
    embedding: int = 96
    contrasts: tuple[str, ...] = CONTRASTS
    joint: bool = False
    prefilter: bool = False
    sigma_min: float = 0.005
    sigma_max: float = 0.5
    sigma_levels: int = 25

    def __post_init__(self) -> None:
        """Validate the values."""
        if not self.channels or len(self.blocks) != len(self.channels):
            raise ValueError(
                f"blocks {self.blocks} and channels {self.channels} need one number for each level"
            )
        if min(self.channels) < 1 or min(self.blocks) < 1 or self.stem < 1 or self.embedding < 1:
            raise ValueError("channels, blocks, stem and embedding must be at least 1")
        if any(level not in range(len(self.channels)) for level in self.attention_levels):
            raise ValueError(
                f"attention_levels {self.attention_levels}: there are {len(self.channels)} levels"
            )
        if any(self.channels[level] % self.heads for level in self.attention_levels):
            raise ValueError(f"channels of attention levels: not divisible by {self.heads} heads")
        if not 0 < self.sigma_min < self.sigma_max or self.sigma_levels < 2:
            raise ValueError("noise levels need 0 < sigma_min < sigma_max and two levels or more")
        if not self.contrasts or len(set(self.contrasts)) != len(self.contrasts):
            raise ValueError(f"contrasts {self.contrasts} must be distinct names, at least one")

    @property
    def images_per_input(self) -> int:
        """Images (channels) of one input: one, or one for each contrast."""
        return len(self.contrasts) if self.joint else 1

    @property
    def size_multiple(self) -> int:
        """Number that every side of an input must be a multiple of."""
        network = self.stem * 2 ** (len(self.channels) - 1)
        return math.lcm(network, LARGEST_CUBE) if self.prefilter else network


def noise_levels(config: DenoiserConfig) -> Tensor:
    """Return the logarithmically spaced noise levels for training, ascending.

    Returns
    -------
    Tensor
        (levels,) float32, relative to the scaled image.
    """
    bounds = math.log(config.sigma_min), math.log(config.sigma_max)
    return torch.linspace(*bounds, config.sigma_levels, dtype=torch.float64).exp().float()


def clamp_noise_level(sigma: float, config: DenoiserConfig) -> float:
    """Clamp a noise level to the range of the denoiser.

    The level is not rounded to one of `noise_levels`: an error of 8 % reduced the PSNR by 0.2 dB.

    Raises
    ------
    ValueError
        If sigma is not a positive number.
    """
    if not (math.isfinite(sigma) and sigma > 0):
        raise ValueError(f"sigma must be a positive number, not {sigma}")
    return min(max(sigma, config.sigma_min), config.sigma_max)


class ResidualBlock(nn.Module):
    """Two 3x3x3 convolutions with a skip connection, modulated by the embedding (FiLM).

    The embedding scales and shifts the result of the first convolution. Features are not
    normalised over space: such statistics depend on the patch, and the patch size
    differs between training and inference. Instead, the second convolution is initialised to zero.
    A new network is then linear, which makes training stable, and blocks can be added to a trained
    network without changing its output.
    """

    def __init__(self, channels: int, embedding: int) -> None:
        super().__init__()
        self.first = nn.Conv3d(channels, channels, 3, padding=1)
        self.film = nn.Linear(embedding, 2 * channels)
        self.second = nn.Conv3d(channels, channels, 3, padding=1)
        nn.init.zeros_(self.film.weight)
        nn.init.zeros_(self.film.bias)
        for parameter in self.second.parameters():
            nn.init.zeros_(parameter)

    def forward(self, features: Tensor, embedding: Tensor) -> Tensor:
        """Map (batch, channels, z, y, x) and (batch, embedding) to (batch, channels, z, y, x)."""
        scale, shift = self.film(embedding)[:, :, None, None, None].chunk(2, dim=1)
        hidden = torch.addcmul(shift, self.first(features), 1 + scale)
        residual: Tensor = self.second(functional.relu(hidden))
        return features + residual


class Attention(nn.Module):
    """Multi-head self-attention over all voxels of a (coarse) level, with a skip connection."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(channels)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.out = nn.Linear(channels, channels)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, features: Tensor) -> Tensor:
        """Map (batch, channels, z, y, x) to the same shape."""
        tokens = self.norm(features.flatten(2).transpose(1, 2))
        heads = self.qkv(tokens).unflatten(2, (3, self.heads, -1))
        query, key, value = heads.permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(query, key, value)
        out: Tensor = self.out(mixed.transpose(1, 2).flatten(2))
        return features + out.transpose(1, 2).reshape(features.shape)


class _Level(nn.Module):
    """Residual blocks, and attention if configured, of one level of the encoder or decoder."""

    def __init__(self, config: DenoiserConfig, level: int) -> None:
        super().__init__()
        channels = config.channels[level]
        self.blocks = nn.ModuleList(
            ResidualBlock(channels, config.embedding) for _ in range(config.blocks[level])
        )
        attended = level in config.attention_levels
        self.attention = nn.ModuleList(
            Attention(channels, config.heads) for _ in range(config.blocks[level] * attended)
        )

    def forward(self, features: Tensor, embedding: Tensor) -> Tensor:
        for index, block in enumerate(self.blocks):
            raise_if_cancelled()
            features = block(features, embedding)
            if self.attention:
                features = self.attention[index](features)
        return features


class ConditionalResidualUNet(nn.Module):
    """Denoiser D(x; sigma, contrasts).

    Parameters
    ----------
    config : DenoiserConfig
        Configuration.

    Notes
    -----
    For every voxel, the layers F predict a mean m and a variance v, which are combined with the
    input x as in a local Wiener filter with learned statistics::

        m, v = F(x / sqrt(sigma^2 + r^2); sigma, contrasts)
        D(x) = m + v / (v + sigma^2) (x - m)

    Here r = 1/2 is the typical root mean square of an object of intensity scale 1; it keeps the
    input of order one at every noise level. At low noise levels x is returned almost unchanged. The
    network of the paper predicts the noise instead. White noise then has to pass through all
    layers, for which a small network has too few channels.

    With ``prefilter``, images with white noise have pre-filtered estimates a (local) and b
    (non-local); for other images both equal x. The input of the layers includes the differences
    between a, b and x in units of sigma, and the layers also predict a weight w::

        m, v, w = F(a / sqrt(sigma^2 + r^2), (x - a) / sigma, (b - a) / sigma; ...)

    The mean in D(x) is then a + w (b - a) + min(1, sigma / 0.1) m: the correction of the estimates
    becomes smaller with the noise. For images without white noise the factor of m is 1.
    """

    def __init__(self, config: DenoiserConfig) -> None:
        super().__init__()
        self.config = config
        voxels = config.images_per_input * config.stem**3
        widths = config.channels
        self.class_embedding = nn.Embedding(len(config.contrasts), config.embedding)
        self.synthesised_embedding = nn.Parameter(torch.zeros(config.embedding))
        self.sigma_embedding = nn.Sequential(
            nn.Linear(2 * _SIGMA_FREQUENCIES, config.embedding),
            nn.SiLU(),
            nn.Linear(config.embedding, config.embedding),
        )
        inputs, outputs = (3, 3) if config.prefilter else (1, 2)
        self.stem = nn.Conv3d(inputs * voxels, widths[0], 3, padding=1)
        self.down = nn.ModuleList(_Level(config, level) for level in range(len(widths)))
        self.shrink = nn.ModuleList(nn.Conv3d(a, b, 2, stride=2) for a, b in pairwise(widths))
        self.grow = nn.ModuleList(
            nn.ConvTranspose3d(b, a, 2, stride=2) for a, b in pairwise(widths)
        )
        self.up = nn.ModuleList(_Level(config, level) for level in range(len(widths) - 1))
        self.head = nn.Conv3d(widths[0], outputs * voxels, 3, padding=1)
        for parameter in self.head.parameters():
            nn.init.zeros_(parameter)

    def forward(
        self,
        noisy: Tensor,
        sigma: Tensor,
        present: Tensor,
        synthesised: Tensor,
        *prefiltered: Tensor,
    ) -> Tensor:
        """Denoise a batch of patches.

        Parameters
        ----------
        noisy : Tensor
            (batch, images, z, y, x) float32 with ``config.images_per_input`` images; each side a
            multiple of ``config.size_multiple``. The channels of a joint network are the contrasts
            in order; a missing contrast is zero.
        sigma : Tensor
            (batch,) noise level relative to the scaled image.
        present : Tensor
            (batch, contrasts) float32: 1 for each contrast that the input holds, otherwise 0.
        synthesised : Tensor
            (batch,) float32: 0 for images with white noise of standard deviation ``sigma``; 1 for
            images synthesised from estimated T1, T2 and PD, as in the ADMM iterations. The errors
            of the latter are skewed, structured and mostly smaller than ``sigma``.
        *prefiltered : Tensor
            The two pre-filtered estimates, shaped as ``noisy``, if they are already known.

        Returns
        -------
        Tensor
            (batch, images, z, y, x) the denoised patches; channels of missing contrasts are
            undefined.

        Raises
        ------
        ValueError
            If the number of images or a side is not as above.
        """
        config = self.config
        sides = noisy.shape[2:]
        if (
            len(sides) != 3
            or noisy.shape[1] != config.images_per_input
            or any(side % config.size_multiple for side in sides)
        ):
            raise ValueError(
                f"patches of shape {tuple(noisy.shape)}: expected (batch,"
                f" {config.images_per_input}, z, y, x) with sides that are multiples of"
                f" {config.size_multiple}"
            )
        contrasts = present.to(noisy.dtype) @ self.class_embedding.weight
        origin = synthesised[:, None] * self.synthesised_embedding
        embedding = functional.silu(self._embed_sigma(sigma) + contrasts + origin)
        noise = sigma[:, None, None, None, None]
        gain = (noise**2 + _TYPICAL_RMS**2).rsqrt()
        inputs = noisy * gain
        if config.prefilter:
            local, non_local = prefiltered or _prefilter(noisy, sigma, synthesised)
            change = non_local - local
            inputs = torch.cat([local * gain, (noisy - local) / noise, change / noise], dim=1)
        features = _space_to_depth(inputs, config.stem)
        features = self.stem(features.contiguous(memory_format=torch.channels_last_3d))
        skips = []
        for level, blocks in enumerate(self.down):
            features = blocks(features, embedding)
            if level < len(self.shrink):
                skips.append(features)
                features = self.shrink[level](features)
        for level in reversed(range(len(self.up))):
            features = self.up[level](skips[level] + self.grow[level](features), embedding)
        head = self.head(features).float()  # float32 even in mixed precision
        local_mean, log_variance, *choice = (
            _depth_to_space(part, config.stem)
            for part in head.split(config.images_per_input * config.stem**3, dim=1)
        )
        local_mean = _TYPICAL_RMS * local_mean
        if config.prefilter:
            correction = (
                (noise / _CORRECTION_SIGMA)
                .clamp(max=1)
                .where((synthesised == 0)[:, None, None, None, None], 1.0)
            )
            local_mean = local + torch.sigmoid(choice[0]) * change + correction * local_mean
        reach = _LOG_VARIANCE_RANGE * torch.tanh(log_variance / 2)
        variance = _LOCAL_STD**2 * reach.exp()
        return torch.lerp(local_mean, noisy, variance / (variance + noise**2))

    def _embed_sigma(self, sigma: Tensor) -> Tensor:
        """Embed log sigma: sines and cosines one octave apart, then two linear layers."""
        low, high = math.log(self.config.sigma_min), math.log(self.config.sigma_max)
        position = (sigma.log() - low) / (high - low)
        rates = 0.5 * math.pi * 2.0 ** torch.arange(_SIGMA_FREQUENCIES, device=sigma.device) / 4
        angles = position[:, None] * rates
        embedded: Tensor = self.sigma_embedding(torch.cat([angles.sin(), angles.cos()], dim=1))
        return embedded


def _prefilter(noisy: Tensor, sigma: Tensor, synthesised: Tensor) -> tuple[Tensor, Tensor]:
    """Pre-filter the inputs with white noise; others are returned unchanged."""
    white = synthesised == 0
    if not bool(white.any()):
        return noisy, noisy
    local, non_local = noisy.clone(), noisy.clone()
    local[white], non_local[white] = classical_prefilter(noisy[white], sigma[white])
    return local, non_local


def _space_to_depth(images: Tensor, factor: int) -> Tensor:
    """Rearrange (batch, c, z, y, x) to (batch, c factor^3, z/factor, y/factor, x/factor)."""
    batch, c, nz, ny, nx = images.shape
    coarse = (nz // factor, factor, ny // factor, factor, nx // factor, factor)
    cells = images.reshape(batch, c, *coarse)
    return cells.permute(0, 1, 3, 5, 7, 2, 4, 6).flatten(1, 4)


def _depth_to_space(features: Tensor, factor: int) -> Tensor:
    """Rearrange (batch, c factor^3, z, y, x) to (batch, c, factor z, factor y, factor x)."""
    batch, _, nz, ny, nx = features.shape
    cells = features.reshape(batch, -1, factor, factor, factor, nz, ny, nx)
    cells = cells.permute(0, 1, 5, 2, 6, 3, 7, 4)
    return cells.reshape(batch, -1, factor * nz, factor * ny, factor * nx)
