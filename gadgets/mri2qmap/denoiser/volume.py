"""Denoising whole volumes with a network that was trained on patches."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor
from torch.nn import functional

from mri2qmap.denoiser.classical_prefilter import classical_prefilter
from mri2qmap.denoiser.network import ConditionalResidualUNet, clamp_noise_level

#: Bytes that the activations of one batch of patches may take on a CPU.
_CPU_BYTES = 2**30
#: Activation tensors of the finest level that are alive at a time.
_LIVE_TENSORS = 8
#: Axes along which patches with white noise are flipped, in all combinations: the mean is
#: 0.05 to 0.08 dB better.
_FLIP_AXES = ((), (2,), (3,), (4,), (2, 3), (2, 4), (3, 4), (2, 3, 4))


def intensity_scale(images: Tensor) -> Tensor:
    """Find the bright end of each image, which the denoiser expects at 1.

    It is the 99.5th percentile over the object, as in the paper, made robust: percentiles are
    taken of local medians (3x3x3, every other voxel), so that noise and voxels of absurd proton
    density do not count; the object is what exceeds a tenth of the brightest of them, and the
    result is at most eight times the object's median.

    Parameters
    ----------
    images : Tensor
        (images, z, y, x) real; negative values are allowed.

    Returns
    -------
    Tensor
        (images,) positive scale of each image; 1 for an image that is nowhere positive.

    Raises
    ------
    ValueError
        If the shape is not (images, z, y, x) or a value is not finite.
    """
    if images.ndim != 4 or images.numel() == 0:
        raise ValueError(f"images of shape {tuple(images.shape)}: expected (images, z, y, x)")
    if not bool(torch.isfinite(images).all()):
        raise ValueError("images: a value is not finite")
    return torch.stack([_image_scale(image.float()) for image in images])


def _image_scale(image: Tensor) -> Tensor:
    """Scale of one image (z, y, x)."""
    windows = image
    for axis, side in enumerate(image.shape):
        windows = windows.unfold(axis, min(3, side), 2)
    values = windows.flatten(3).median(dim=3).values.flatten()
    top = _percentile(values, 0.999)
    if top <= 0:
        return torch.ones_like(top)
    inside = values[values > 0.1 * top]
    return torch.minimum(_percentile(inside, 0.995), 8 * _percentile(inside, 0.5))


def _percentile(values: Tensor, fraction: float) -> Tensor:
    """Order statistic of a vector; unlike torch.quantile it has no limit on the length."""
    return values.kthvalue(1 + round(fraction * (values.numel() - 1))).values


def reflect_pad(images: Tensor, sides: Sequence[int]) -> Tensor:
    """Extend images to longer sides by mirror images of their ends.

    Repeated voxels, in the place of these, cost 0.3 dB: noise that is the same in a row of voxels
    looks like signal.

    Parameters
    ----------
    images : Tensor
        (..., z, y, x).
    sides : sequence of int
        Length of z, y and x, none shorter than it is.

    Returns
    -------
    Tensor
        (..., z, y, x) with the images at its beginning.
    """
    for axis, side in zip((-3, -2, -1), sides, strict=True):
        last = images.shape[axis] - 1
        if side > last + 1:
            steps = torch.arange(side, device=images.device)
            images = images.index_select(axis, ((steps + last) % max(2 * last, 1) - last).abs())
    return images


@dataclass(frozen=True)
class _Tiling:
    """Non-overlapping patches of one size that cover a volume, padded where they do not fit."""

    shape: tuple[int, ...]
    patch: tuple[int, ...]
    counts: tuple[int, ...]

    @classmethod
    def of(cls, shape: Sequence[int], patch: int, multiple: int) -> _Tiling:
        """As few patches as their largest side allows, all equal and as small as that permits."""
        counts = tuple(math.ceil(side / patch) for side in shape)
        sides = tuple(
            multiple * math.ceil(side / (count * multiple))
            for side, count in zip(shape, counts, strict=True)
        )
        return cls(tuple(shape), sides, counts)

    @property
    def padded(self) -> tuple[int, ...]:
        return tuple(p * count for p, count in zip(self.patch, self.counts, strict=True))

    def cut(self, images: Tensor) -> Tensor:
        """(c, padded z, y, x) -> (c, patches, z, y, x) of a patch."""
        (pz, py, px), (nz, ny, nx) = self.patch, self.counts
        cells = images.reshape(-1, nz, pz, ny, py, nx, px)
        return cells.permute(0, 1, 3, 5, 2, 4, 6).reshape(len(images), -1, pz, py, px)

    def join(self, patches: Tensor) -> Tensor:
        """Inverse of :meth:`cut`."""
        (pz, py, px), (nz, ny, nx) = self.patch, self.counts
        cells = patches.reshape(-1, nz, ny, nx, pz, py, px)
        return cells.permute(0, 1, 4, 2, 5, 3, 6).reshape(-1, nz * pz, ny * py, nx * px)

    def unpad(self, images: Tensor) -> Tensor:
        """Cut away what was added to the shape."""
        nz, ny, nx = self.shape
        return images[:, :nz, :ny, :nx]


@torch.no_grad()
def denoise_volumes(
    network: ConditionalResidualUNet,
    images: Tensor,
    sigma: float,
    contrasts: Sequence[str],
    *,
    synthesised: bool = False,
    patch: int = 64,
    generator: torch.Generator | None = None,
    scale: Tensor | None = None,
    precision: torch.dtype | None = None,
    flip_average: bool | None = None,
) -> Tensor:
    """Denoise images of the same object, one contrast each.

    A joint network sees all contrasts of a patch together, one at a time otherwise. Every image is
    scaled so that its bright end is 1; all are shifted round by the same random
    offset, cut into patches that do not overlap, denoised in as large batches as memory allows,
    put together, shifted back and scaled back. From one call to the next the random offset moves
    the seams between the patches, which stands in for an overlap.

    Parameters
    ----------
    network : ConditionalResidualUNet
        On the device of the images.
    images : Tensor
        (contrasts, z, y, x) float32.
    sigma : float
        Noise level relative to the scaled images; brought into the range of the network.
    contrasts : sequence of str
        Class of each image.
    synthesised : bool
        Whether the images were synthesised from estimated T1, T2 and PD, as in the loop of the
        reconstruction, instead of having white noise.
    patch : int
        Largest side of a patch, at least ``network.config.size_multiple``. Smaller patches are used
        where a volume is smaller or can be covered with less padding.
    generator : torch.Generator, optional
        On the CPU; source of the random offset (default: torch's own).
    scale : Tensor, optional
        (contrasts,) positive; default :func:`intensity_scale`.
    precision : torch.dtype, optional
        Number format of the network's products: float32, float16 or bfloat16 (default:
        :func:`preferred_precision`).
    flip_average : bool, optional
        Whether to take the mean over all mirror images (default: for white noise).

    Returns
    -------
    Tensor
        (contrasts, z, y, x) float32; small negative values are possible.

    Raises
    ------
    ValueError
        If a shape, a value, the patch size or a contrast is not as above.

    Notes
    -----
    MRI2Qmap paper, section III-B (reconstruction-time augmentation and patches).
    """
    config = network.config
    if len(set(contrasts)) != len(contrasts):
        raise ValueError(f"contrasts {list(contrasts)}: each may appear once")
    if images.ndim != 4 or images.shape[0] != len(contrasts) or images.is_complex():
        raise ValueError(
            f"images of shape {tuple(images.shape)}, {images.dtype}: expected real"
            f" ({len(contrasts)} contrasts, z, y, x)"
        )
    if unknown := [name for name in contrasts if name not in config.contrasts]:
        raise ValueError(f"contrasts {unknown}: the network knows {config.contrasts}")
    if patch < config.size_multiple:
        raise ValueError(f"patch {patch}: this network needs at least {config.size_multiple}")
    flip_average = not synthesised if flip_average is None else flip_average
    precision = precision or preferred_precision(images.device)
    if precision not in (torch.float32, torch.float16, torch.bfloat16):
        raise ValueError(f"precision {precision}: expected float32, float16 or bfloat16")
    scale = intensity_scale(images) if scale is None else scale.to(images)
    if scale.shape != (len(contrasts),) or not bool((scale > 0).all() & scale.isfinite().all()):
        raise ValueError(f"scale {scale.tolist()}: expected {len(contrasts)} positive numbers")
    level = clamp_noise_level(sigma, config)

    largest = patch - patch % config.size_multiple
    tiling = _Tiling.of(images.shape[1:], largest, config.size_multiple)
    shift = [int(torch.randint(side, (1,), generator=generator)) for side in tiling.patch]
    factors = scale[:, None, None, None]
    padded = reflect_pad(images.float() / factors, tiling.padded)
    channels = torch.tensor([config.contrasts.index(name) for name in contrasts])
    present = functional.one_hot(channels, len(config.contrasts)).float().to(images.device)
    if config.joint:
        objects = padded.new_zeros(1, len(config.contrasts), *padded.shape[1:])
        objects[0, channels] = padded
        present = present.sum(0, keepdim=True)
    else:
        objects = padded[:, None]
    volumes = [objects]
    if config.prefilter and not synthesised:  # of the whole, so that they have no seams
        volumes += classical_prefilter(objects, torch.full((len(objects),), level).to(objects))
    inputs, *estimates = (tiling.cut(x.roll(shift, dims=(2, 3, 4)).flatten(0, 1)) for x in volumes)

    def of_patches(cells: Tensor) -> Tensor:
        """(objects images, patches, z, y, x) -> (objects patches, images, z, y, x)."""
        return cells.unflatten(0, objects.shape[:2]).transpose(1, 2).flatten(0, 1)

    levels = torch.full((len(objects) * inputs.shape[1],), level, device=images.device)
    origin = torch.full_like(levels, float(synthesised))
    present = present.repeat_interleave(inputs.shape[1], dim=0)
    arguments = [of_patches(inputs), levels, present, origin, *map(of_patches, estimates)]

    at_once = _patches_at_once(network, tiling.patch, images.device)
    mixed = precision != torch.float32
    with torch.autocast(images.device.type, precision if mixed else None, enabled=mixed):
        parts = [
            _flip_average(network, *batch) if flip_average else network(*batch)
            for batch in zip(*(x.split(at_once) for x in arguments), strict=True)
        ]
    outputs = torch.cat(parts).float().unflatten(0, (len(objects), -1)).transpose(1, 2)
    outputs = outputs[0, channels] if config.joint else outputs[:, 0]
    joined = tiling.join(outputs)
    restored = joined.roll([-offset for offset in shift], dims=(1, 2, 3))
    return tiling.unpad(restored) * factors


def admm_denoiser(
    network: ConditionalResidualUNet, seed: int, patch: int = 64, *, flip_average: bool = False
) -> Callable[[Tensor, float], Tensor]:
    """Make a network the prior of a reconstruction.

    Parameters
    ----------
    network : ConditionalResidualUNet
        On the device of the images.
    seed : int
        Of the random offsets, which go on from one call to the next.
    patch, flip_average
        As in :func:`denoise_volumes`.

    Returns
    -------
    callable
        Images (contrasts, z, y, x) of all contrasts of the network, synthesised from estimated
        maps, in their own units, and a noise level, to restored images.
    """
    generator = torch.Generator().manual_seed(seed)

    def denoise(images: Tensor, sigma: float) -> Tensor:
        return denoise_volumes(
            network,
            images,
            sigma,
            network.config.contrasts,
            synthesised=True,
            patch=patch,
            generator=generator,
            flip_average=flip_average,
        )

    return denoise


def _flip_average(
    network: ConditionalResidualUNet,
    noisy: Tensor,
    sigma: Tensor,
    present: Tensor,
    origin: Tensor,
    *estimates: Tensor,
) -> Tensor:
    """Average what the network makes of patches and of their mirror images."""
    total = torch.zeros_like(noisy)
    for axes in _FLIP_AXES:
        images, *others = (x.flip(axes) for x in (noisy, *estimates))
        total += network(images, sigma, present, origin, *others).flip(axes)
    return total / len(_FLIP_AXES)


def _patches_at_once(
    network: ConditionalResidualUNet, patch: tuple[int, ...], device: torch.device
) -> int:
    """How many patches fit into memory together."""
    config = network.config
    voxels = math.prod(patch) / config.stem**3
    widest = max(config.channels[0], config.images_per_input * config.stem**3)
    need = 4 * _LIVE_TENSORS * voxels * widest
    budget = torch.cuda.mem_get_info(device)[0] / 2 if device.type == "cuda" else _CPU_BYTES
    return max(1, int(budget / need))


def preferred_precision(device: torch.device) -> torch.dtype:
    """Return bfloat16 where the device has matrix units for it, otherwise float32.

    On a core with AMX it takes the shipped network a quarter of the time, and changes images by
    less than 0.3 % and their PSNR by less than 0.01 dB; without such units it is slower than
    float32.
    """
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        native = device.type == "cpu" and _cpu_has_matrix_units()
    return torch.bfloat16 if native else torch.float32


@cache
def _cpu_has_matrix_units() -> bool:
    # Older PyTorch does not say what the processor can do.
    capabilities: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(capabilities.get("amx_bf16"))
