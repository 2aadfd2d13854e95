"""Maps of a replay against the truth of the simulation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import KDTree

from mri2qmap.errors import Mri2QmapError
from mri2qmap.evaluation.borders import border_sharpness, border_zone
from mri2qmap.evaluation.lesions import compare_lesions
from mri2qmap.evaluation.lower_bounds import match_voxels, within_sampled_sphere
from mri2qmap.evaluation.maps import Maps
from mri2qmap.evaluation.metrics import (
    agreement,
    air_mask,
    cosine_distance,
    intensity_scale,
    mape,
    psnr_ssim,
)
from mri2qmap.evaluation.texture import local_deviation_ratio, spectrum_ratio, texture_gain
from mri2qmap.export.nifti_sidecar import read_receive_field
from mri2qmap.mrsignal.dictionary import Dictionary, DictionarySettings, load_dictionary
from mri2qmap.mrsignal.field_dictionary import FieldDictionary, load_field_dictionary
from mri2qmap.mrsignal.interpolation import interpolate, table_offset
from mri2qmap.mrsignal.synthesis import Contrast, synthesise
from mri2qmap.pipeline.items import FIELD_REMOVED
from mri2qmap.simulation.truth import Truth, read_volume

MAPS = ("T1map", "T2map", "PDmap")
TIMES = ("t1", "t2")
AFFINE_TOLERANCE_MM = 1e-2
MATTER_MARGIN = 1.2
"""Factor around the median T1 of white and grey matter within which a voxel is one of them."""


def read_maps(folder: Path, truth: Truth) -> Maps:
    """Read the maps that `mri2qmap replay` wrote.

    Raises
    ------
    Mri2QmapError
        If they are missing, or do not lie on the grid of the truth.
    """
    place = folder / "nifti" if (folder / "nifti").is_dir() else folder
    volumes = []
    for name in MAPS:
        path = place / f"{name}.nii.gz"
        volume, affine = read_volume(path)
        refuse_other_grid(str(path), volume.shape, affine, truth)
        if not np.all(np.isfinite(volume)):
            raise Mri2QmapError(f"{path}: it holds values that are not finite")
        volumes.append(volume)
    return Maps(*volumes, affine=affine, receive_field=read_receive_field(path))


def refuse_other_grid(
    name: str, shape: tuple[int, ...], affine: NDArray[np.float64] | None, truth: Truth
) -> None:
    """Refuse maps that do not lie on the grid of the truth.

    Parameters
    ----------
    name
        What they are called in the message.
    shape
        Their matrix (z, y, x).
    affine
        Voxel indices (x, y, z, 1) to right-anterior-superior [mm]; None: not known.
    truth
        The truth.

    Raises
    ------
    Mri2QmapError
        If matrix or affine differ.
    """
    if shape != truth.t1.shape:
        raise Mri2QmapError(
            f"{name}: its matrix (z, y, x) is {shape}, that of the truth {truth.t1.shape}; is it "
            "the truth of another scan?"
        )
    if affine is not None and not np.allclose(affine, truth.affine, atol=AFFINE_TOLERANCE_MM):
        raise Mri2QmapError(
            f"{name}: its position or orientation in the patient differs from that of the truth "
            f"(largest difference of the affines {np.abs(affine - truth.affine).max():.3g} mm); is "
            "it the truth of another scan?"
        )


def truth_dictionary(truth: Truth) -> Dictionary:
    """Dictionary for the truth: at the true B1 of each voxel where it varies."""
    settings = DictionarySettings(coefficients=truth.tsmi.shape[0])
    if truth.b1 is None:
        return load_dictionary(truth.sequence, settings)
    return load_field_dictionary(truth.sequence, settings, torch.from_numpy(truth.b1))


def evaluate(maps: Maps, truth: Truth, dictionary: Dictionary) -> dict[str, Any]:
    """Compare maps with the truth.

    Parameters
    ----------
    maps
        What was reconstructed.
    truth
        What was simulated.
    dictionary
        For the lower bounds and the fingerprints of the maps, see `truth_dictionary`.

    Returns
    -------
        ``mape_t1``, ``mape_t2`` and their sum ``mape_t1_t2`` [%] over white and grey matter
        (voxels filled to more than 90 %), and the same for the lower bounds,
        ``lower_bound_matching_*`` and ``lower_bound_sphere_*``; ``cosine_distance`` [%] over the
        brain, of the fingerprints of the maps;
        ``psnr_t1w`` [dB], ``ssim_t1w`` [%] and so on of the synthesised images; ``tissues`` with
        medians of T1 and T2 [s]; and, with an entry ``t1`` and ``t2`` each,

        - ``texture`` of white matter, without its outermost voxels and lesions: their number
          ``voxels``, ``deviation_ratio`` (`local_deviation_ratio`), ``gain`` and ``noise`` [%]
          (`texture_gain`), and ``spectrum``, one entry for each octave (`Band`);
        - ``borders``: sharpness between white and grey matter (`border_sharpness`);
        - ``agreement`` over white and grey matter (`Agreement`).

        ``lesions`` is a list, empty without lesions, see `compare_lesions`.

        Values that have no meaning, for example over an empty mask, are None.

    Raises
    ------
    Mri2QmapError
        If the truth holds no voxel of pure white or grey matter.
    """
    mask = truth.white_matter | truth.grey_matter
    if not mask.any():
        raise Mri2QmapError(
            "evaluate: no voxel of the truth holds more than 90 % white or grey matter; simulate "
            "with smaller voxels"
        )
    result: dict[str, Any] = _errors("mape", maps.t1, maps.t2, truth, mask)
    tsmi = interpolated_fingerprints(maps.t1, maps.t2, dictionary)
    result["cosine_distance"] = cosine_distance(
        tsmi, truth.tsmi, truth.brain & (truth.proton_density > 0.5)
    )
    result |= _image_quality(maps, truth)
    for name, image in (
        ("lower_bound_matching", truth.tsmi),
        ("lower_bound_sphere", within_sampled_sphere(truth.tsmi)),
    ):
        t1, t2 = match_voxels(image, mask, dictionary)
        result |= _errors(name, t1, t2, truth, mask)
    result["tissues"] = {
        name: _tissue(maps, truth, chosen)
        for name, chosen in (
            ("white_matter", truth.white_matter),
            ("grey_matter", truth.grey_matter),
        )
    }
    times = {time: (getattr(maps, time), getattr(truth, time)) for time in TIMES}
    inner = _inner_white_matter(truth)
    voxel_size = _voxel_size(truth)
    result["texture"] = {name: _texture(*pair, inner, voxel_size) for name, pair in times.items()}
    zone = _border_zone(truth)
    result["borders"] = {
        name: border_sharpness(*pair, zone, voxel_size) for name, pair in times.items()
    }
    result["agreement"] = {name: agreement(*pair, mask)._asdict() for name, pair in times.items()}
    result["lesions"] = _lesions(maps, truth)
    finite: dict[str, Any] = _without_nan(result)
    return finite


def interpolated_fingerprints(
    t1: NDArray[np.float32], t2: NDArray[np.float32], dictionary: Dictionary
) -> NDArray[np.float32]:
    """Fingerprints (s, z, y, x) for T1 and T2 [s] (z, y, x), interpolated in the table.

    Zero where T1 or T2 is zero.
    """
    pairs = dictionary.pairs
    table = torch.stack([dictionary.lut.t1[:pairs], dictionary.lut.t2[:pairs]], 1).log()
    filled = (t1 > 0) & (t2 > 0)
    times = np.stack([t1[filled], t2[filled]])
    _, nearest = KDTree(table.numpy()).query(np.log(times).T)
    index = torch.from_numpy(nearest)
    offset = table_offset(dictionary, torch.from_numpy(times[0]), torch.from_numpy(times[1]), index)
    if isinstance(dictionary, FieldDictionary):
        index = index + dictionary.level[torch.from_numpy(filled)] * pairs
    fingerprints = np.zeros((dictionary.mrf_atoms.shape[1], *t1.shape), dtype=np.float32)
    found = interpolate(dictionary.mrf_atoms, dictionary, index, offset)
    fingerprints[:, filled] = found.numpy()
    return fingerprints


def _errors(
    prefix: str,
    t1: NDArray[np.float32],
    t2: NDArray[np.float32],
    truth: Truth,
    mask: NDArray[np.bool_],
) -> dict[str, float]:
    first, second = mape(t1, truth.t1, mask), mape(t2, truth.t2, mask)
    return {f"{prefix}_t1": first, f"{prefix}_t2": second, f"{prefix}_t1_t2": first + second}


def _image_quality(maps: Maps, truth: Truth) -> dict[str, float]:
    """PSNR and SSIM of the synthesised images.

    Where the reconstructed proton density contains the receive field, the reference gets it, too.
    The scale is arbitrary: the estimate gets one factor for all images.
    """
    reference = truth.proton_density
    if maps.receive_field != FIELD_REMOVED:
        reference = reference * truth.receive_field
    inside = air_mask(reference)
    density: NDArray[np.float32] = np.abs(maps.proton_density).astype(np.float32, copy=False)
    scale = intensity_scale(density, reference, inside)
    found = _synthesise(density * scale, maps.t1, maps.t2)
    true = _synthesise(reference, truth.t1, truth.t2)
    result = {}
    for contrast, a, b in zip(Contrast, found, true, strict=True):
        psnr, ssim = psnr_ssim(a, b, inside)
        result[f"psnr_{contrast.lower()}"] = psnr
        result[f"ssim_{contrast.lower()}"] = ssim
    return result


def _synthesise(
    density: NDArray[np.float32], t1: NDArray[np.float32], t2: NDArray[np.float32]
) -> NDArray[np.float32]:
    """T1w, T2w and PDw images (3, z, y, x), zero where a relaxation time is."""
    filled = (t1 > 0) & (t2 > 0)
    times = (torch.from_numpy(np.where(filled, t, np.float32(1))) for t in (t1, t2))
    images: NDArray[np.float32] = synthesise(torch.from_numpy(density * filled), *times).numpy()
    return images


def _tissue(maps: Maps, truth: Truth, mask: NDArray[np.bool_]) -> dict[str, float]:
    if not mask.any():
        return {"voxels": 0}
    return {
        "voxels": int(mask.sum()),
        "t1_median": float(np.median(maps.t1[mask])),
        "t2_median": float(np.median(maps.t2[mask])),
        "t1_true": float(np.median(truth.t1[mask])),
        "t2_true": float(np.median(truth.t2[mask])),
        "mape_t1": mape(maps.t1, truth.t1, mask),
        "mape_t2": mape(maps.t2, truth.t2, mask),
    }


def _texture(
    estimate: NDArray[np.float32],
    reference: NDArray[np.float32],
    mask: NDArray[np.bool_],
    voxel_size: list[float],
) -> dict[str, Any]:
    return {
        "voxels": int(mask.sum()),
        "deviation_ratio": local_deviation_ratio(estimate, reference, mask),
        **texture_gain(estimate, reference, mask)._asdict(),
        "spectrum": [
            band._asdict() for band in spectrum_ratio(estimate, reference, mask, voxel_size)
        ],
    }


def _inner_white_matter(truth: Truth) -> NDArray[np.bool_]:
    """White matter whose 26 neighbours are white matter: others are mixed, or spoilt by them."""
    white = truth.white_matter & _healthy(truth)
    return np.asarray(ndimage.binary_erosion(white, np.ones((3, 3, 3), bool)), dtype=bool)


def _border_zone(truth: Truth) -> NDArray[np.bool_]:
    """Border of white and grey matter, away from CSF, lesions and the skull."""
    white, grey = truth.white_matter & _healthy(truth), truth.grey_matter & _healthy(truth)
    if not (white.any() and grey.any()):
        return np.zeros_like(white)
    medians = [np.median(truth.t1[tissue]) for tissue in (white, grey)]
    matter = (truth.t1 > min(medians) / MATTER_MARGIN) & (truth.t1 < max(medians) * MATTER_MARGIN)
    return border_zone(white, grey, matter & truth.brain & _healthy(truth))


def _healthy(truth: Truth) -> NDArray[np.bool_]:
    """Voxels of the brain outside of lesions."""
    return truth.brain if truth.lesions is None else truth.brain & (truth.lesions == 0)


def _lesions(maps: Maps, truth: Truth) -> list[dict[str, Any]]:
    if truth.lesions is None:
        return []
    return compare_lesions(
        {time: getattr(maps, time) for time in TIMES},
        {time: getattr(truth, time) for time in TIMES},
        truth.lesions,
        truth.record.get("lesions", ()),
        truth.white_matter,
    )


def _voxel_size(truth: Truth) -> list[float]:
    """Voxel edges (z, y, x) [mm], without the rounding of an affine that a file holds (float32)."""
    edges: list[float] = np.linalg.norm(truth.affine[:3, :3], axis=0)[::-1].round(4).tolist()
    return edges


def _without_nan(value: Any) -> Any:
    """Replace what JSON cannot hold by None."""
    if isinstance(value, dict):
        return {key: _without_nan(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(inner) for inner in value]
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value
