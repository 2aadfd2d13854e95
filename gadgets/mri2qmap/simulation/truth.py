"""Files with the ground truth of a simulated scan: writer and reader."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from mri2qmap import __version__
from mri2qmap.anatomy.tissues import GREY_MATTER, WHITE_MATTER
from mri2qmap.anatomy.voxel_model import TissueFractions
from mri2qmap.errors import Mri2QmapError
from mri2qmap.mrsignal.sequence import Sequence
from mri2qmap.pipeline.geometry import Geometry
from mri2qmap.simulation.quantitative_scan import QuantitativeTruth
from mri2qmap.simulation.simulator import COEFFICIENTS, Simulation, SimulationSettings
from mri2qmap.storage.written import FILES, listed, record_bytes

RECORD = "truth.json"
TSMI_FILE = "tsmi.npy"
B1_FILE = "B1map.nii.gz"
"""Written if the transmit field is not uniform; can be passed to `replay` as `b1_map`."""
LESIONS_FILE = "lesions.nii.gz"
"""Labels of lesions, in the order of `lesions` of the record; there if the scan has any."""
MASKS = {"white_matter": WHITE_MATTER, "grey_matter": GREY_MATTER}
_SCANNER_COORDINATES = 1
_new_image: Callable[..., nib.Nifti1Image] = nib.Nifti1Image  # without type annotations


@dataclass(frozen=True)
class Truth:
    """Content of the files written by `write_truth`. All volumes are (z, y, x).

    Attributes
    ----------
    t1, t2
        Relaxation times [s], 0 where there is no tissue.
    proton_density
        Real, without receive sensitivity.
    receive_field
        Shading of images combined with maps of unit root-sum-of-squares.
    white_matter, grey_matter
        Voxels filled to more than 90 % by the tissue.
    brain
        Voxels inside the skull.
    tsmi
        Noiseless (s, z, y, x) complex64, without receive sensitivity.
    sequence
        Timing and flip angles.
    affine
        Voxel indices (x, y, z, 1) to right-anterior-superior [mm].
    record
        Content of `truth.json`.
    b1
        Relative transmit field; None if it is uniform.
    lesions
        Label of the lesion that a voxel belongs to, 0 for none; None without lesions. ``lesions``
        of the record describes each: ``label``, ``name``, ``diameter_mm``.
    """

    t1: NDArray[np.float32]
    t2: NDArray[np.float32]
    proton_density: NDArray[np.float32]
    receive_field: NDArray[np.float32]
    white_matter: NDArray[np.bool_]
    grey_matter: NDArray[np.bool_]
    brain: NDArray[np.bool_]
    tsmi: NDArray[np.complex64]
    sequence: Sequence
    affine: NDArray[np.float64]
    record: dict[str, Any]
    b1: NDArray[np.float32] | None = None
    lesions: NDArray[np.int16] | None = None


def write_truth(folder: Path, simulation: Simulation, settings: SimulationSettings) -> None:
    """Write NIfTI volumes, the TSMI and a record of the simulation into an existing empty folder.

    Raises
    ------
    OSError
        If a file cannot be written.
    """
    truth, geometry = simulation.truth, simulation.truth.geometry
    volumes: dict[str, NDArray[Any]] = {
        "T1map": truth.t1(),
        "T2map": truth.t2(),
        "PDmap": truth.proton_density(),
        "receive_field": simulation.receive_field,
        "brain_mask": truth.brain.astype(np.uint8),
        **{f"{n}_mask": truth.pure(tissue).astype(np.uint8) for n, tissue in MASKS.items()},
    }
    if isinstance(truth, TissueFractions):
        volumes["tissue_fractions"] = truth.fractions  # the tissue is the fourth axis of the file
    elif truth.lesion_labels is not None:
        volumes["lesions"] = truth.lesion_labels
    for name, volume in volumes.items():
        nib.save(_nifti(volume, geometry), folder / f"{name}.nii.gz")
    if simulation.b1 is not None:
        nib.save(_nifti(simulation.b1, geometry), folder / B1_FILE)
    _save(folder / TSMI_FILE, simulation.tsmi)
    record = {**truth_record(simulation, settings), FILES: listed(folder)}
    (folder / RECORD).write_bytes(record_bytes(record))


def truth_record(simulation: Simulation, settings: SimulationSettings) -> dict[str, Any]:
    """Return the content of `truth.json`, without the list of files."""
    groups, frames, coils, samples = simulation.scan.kspace.shape
    return {
        "mri2qmap": __version__,
        "settings": asdict(settings),
        "noise_model": settings.effective_noise_model,
        "signal_amplitude": simulation.amplitude,
        "noise_std": simulation.noise_std,
        "groups": groups,
        "frames": frames,
        "coils": coils,
        "samples_per_arm": samples,
        "samples_per_voxel": groups * frames * samples / simulation.truth.brain.size,
        **_composition(simulation.truth),
        "sequence": asdict(simulation.scan.sequence),
        "geometry": asdict(simulation.truth.geometry),
    }


def _composition(truth: TissueFractions | QuantitativeTruth) -> dict[str, Any]:
    """What the anatomy consists of, for the record."""
    if isinstance(truth, TissueFractions):
        return {"tissues": [asdict(tissue) for tissue in truth.tissues]}
    lesions = [
        {"label": number, **asdict(lesion)} for number, lesion in enumerate(truth.lesions, start=1)
    ]
    return {"tissues": [], "lesions": lesions}


def simulated_truth(simulation: Simulation, settings: SimulationSettings) -> Truth:
    """Return what `read_truth` would read from the files of `write_truth`."""
    truth = simulation.truth
    return Truth(
        truth.t1(),
        truth.t2(),
        truth.proton_density(),
        simulation.receive_field,
        truth.pure(WHITE_MATTER),
        truth.pure(GREY_MATTER),
        truth.brain,
        simulation.tsmi,
        simulation.scan.sequence,
        truth.geometry.affine_ras_mm,
        truth_record(simulation, settings),
        simulation.b1,
        truth.lesion_labels if isinstance(truth, QuantitativeTruth) else None,
    )


def truth_bytes(voxels: int) -> int:
    """Return a lower estimate of the size of the files of a truth [bytes]."""
    return voxels * COEFFICIENTS * np.dtype(np.complex64).itemsize


def _save(path: Path, array: NDArray[Any]) -> None:
    """Write an array in the format of `numpy.save`, whose own errors omit the reason."""
    array = np.ascontiguousarray(array)
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(array))
        file.write(array.data)


def read_truth(folder: Path) -> Truth:
    """Read the files written by `write_truth`.

    Raises
    ------
    Mri2QmapError
        If a file is missing or unreadable.
    """
    if not (folder / RECORD).is_file():
        raise Mri2QmapError(
            f"truth {folder}: it contains no {RECORD}; expected the folder that mri2qmap simulate "
            "--truth wrote"
        )
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        sequence = Sequence(**{k: _tuple(v) for k, v in record["sequence"].items()})
        if not all("label" in lesion for lesion in record.get("lesions", ())):
            raise KeyError("label of a lesion")
        tsmi = np.load(folder / TSMI_FILE)
    except (OSError, ValueError, KeyError, TypeError, EOFError) as error:
        raise Mri2QmapError(
            f"truth {folder}: {RECORD} or {TSMI_FILE} cannot be read ({error})"
        ) from error
    t1, affine = read_volume(folder / "T1map.nii.gz")
    others = (
        read_volume(folder / f"{name}.nii.gz")[0]
        for name in ("T2map", "PDmap", "receive_field", "white_matter_mask", "grey_matter_mask")
    )
    t2, density, field, white, grey = others
    brain = read_volume(folder / "brain_mask.nii.gz")[0]
    if tsmi.shape[1:] != t1.shape:
        raise Mri2QmapError(f"truth {folder}: {TSMI_FILE} {tsmi.shape} and T1map {t1.shape} differ")
    b1 = read_volume(folder / B1_FILE)[0] if (folder / B1_FILE).is_file() else None
    lesions = _read_lesions(folder / LESIONS_FILE, t1.shape)
    return Truth(
        t1,
        t2,
        density,
        field,
        white > 0,
        grey > 0,
        brain > 0,
        tsmi,
        sequence,
        affine,
        record,
        b1,
        lesions,
    )


def _read_lesions(path: Path, shape: tuple[int, ...]) -> NDArray[np.int16] | None:
    """Labels (z, y, x) of the lesions; None without the file."""
    if not path.is_file():
        return None
    labels = read_volume(path)[0]
    if labels.shape != shape:
        raise Mri2QmapError(
            f"{path}: its matrix (z, y, x) is {labels.shape}, that of T1map {shape}; expected "
            "labels on the grid of the truth"
        )
    limits = np.iinfo(np.int16)
    if not np.all((labels == np.rint(labels)) & (labels >= 0) & (labels <= limits.max)):
        raise Mri2QmapError(
            f"{path}: it holds values that are no labels; expected whole numbers from 0 (no lesion)"
        )
    return labels.astype(np.int16)


def read_volume(path: Path) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Read volume (z, y, x) and affine of a NIfTI file.

    Raises
    ------
    Mri2QmapError
        If it is missing, unreadable or not three-dimensional.
    """
    if not path.is_file():
        raise Mri2QmapError(f"{path}: no such file; expected a NIfTI volume")
    try:
        image = nib.Nifti1Image.from_filename(path)
        data = np.asarray(image.dataobj, dtype=np.float32)
    except Exception as error:  # readers raise many types for damaged files
        raise Mri2QmapError(f"{path}: it cannot be read as NIfTI ({error})") from error
    if data.ndim != 3:
        raise Mri2QmapError(f"{path}: it has {data.ndim} dimensions; expected 3")
    return np.ascontiguousarray(data.transpose(2, 1, 0)), image.affine


def _nifti(volume: NDArray[Any], geometry: Geometry) -> nib.Nifti1Image:
    affine = geometry.affine_ras_mm
    image: Any = _new_image(np.ascontiguousarray(volume.T), affine)
    image.set_sform(affine, code=_SCANNER_COORDINATES)
    image.set_qform(affine, code=_SCANNER_COORDINATES)
    image.header.set_xyzt_units(xyz="mm")
    return cast(nib.Nifti1Image, image)


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
