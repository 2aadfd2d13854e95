"""Tiny ISMRMRD scans and tiny gadgets for the tests of hosts, checks and command line."""

from __future__ import annotations

import importlib
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import h5py
import ismrmrd
import nibabel
import numpy as np
import pydicom
import torch
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid

from mri2qmap.errors import Mri2QmapError
from mri2qmap.pipeline.acquisition_policy import AcquisitionPolicy
from mri2qmap.pipeline.items import DicomObject, Item, NiftiVolume, Provenance
from mri2qmap.pipeline.scan_header import ScanInfo

N_FRAMES = 4
MATRIX = 8
COILS = 2
SAMPLES = 24
GROUPS = 2
NOISE_SCANS = 2


def header(
    *,
    angles: str = "10 20 30 40",
    tr: str = "12",
    te: str = "0.7",
    ti: str = "20",
    limit: int | None = N_FRAMES - 1,
    matrix: str = "8 8 8",
    fov: str = "16 16 16",
    extra: str = "",
) -> str:
    """An ISMRMRD header; a list is given as words, an empty one leaves the element out."""
    lists = {"TR": tr, "TE": te, "TI": ti, "flipAngle_deg": angles}
    parameters = "".join(f"<{k}>{v}</{k}>" for k, words in lists.items() for v in words.split())
    limits = (
        f"<contrast><minimum>0</minimum><maximum>{limit}</maximum><center>0</center></contrast>"
    )
    size = "".join(f"<{a}>{n}</{a}>" for a, n in zip("xyz", matrix.split(), strict=True))
    extent = "".join(f"<{a}>{n}</{a}>" for a, n in zip("xyz", fov.split(), strict=True))
    space = f"<matrixSize>{size}</matrixSize><fieldOfView_mm>{extent}</fieldOfView_mm>"
    return (
        '<?xml version="1.0"?><ismrmrdHeader xmlns="http://www.ismrm.org/ISMRMRD">'
        "<experimentalConditions><H1resonanceFrequency_Hz>127000000</H1resonanceFrequency_Hz>"
        "</experimentalConditions><encoding>"
        f"<encodedSpace>{space}</encodedSpace><reconSpace>{space}</reconSpace>"
        f"<encodingLimits>{limits if limit is not None else ''}</encodingLimits>"
        "<trajectory>spiral</trajectory></encoding>"
        f"<sequenceParameters>{parameters}</sequenceParameters>{extra}</ismrmrdHeader>"
    )


def noise_scan(seed: int = 0) -> ismrmrd.Acquisition:
    rng = np.random.default_rng(seed)
    data = rng.standard_normal((COILS, SAMPLES)) + 1j * rng.standard_normal((COILS, SAMPLES))
    acquisition = ismrmrd.Acquisition.from_array(data.astype(np.complex64))
    acquisition.set_flag(ismrmrd.ACQ_IS_NOISE_MEASUREMENT)
    return acquisition


def readout(frame: int, group: int) -> ismrmrd.Acquisition:
    """A spiral of readable values: the arm goes through all three axes and ends at |k| = 0.5."""
    rng = np.random.default_rng([frame, group])
    data = rng.standard_normal((COILS, SAMPLES)) + 1j * rng.standard_normal((COILS, SAMPLES))
    radius = np.linspace(0, 0.5, SAMPLES)
    angle = np.linspace(0, 6, SAMPLES) + frame
    arm = np.stack([radius * np.cos(angle), radius * np.sin(angle), 0.3 * radius])
    arm[:, -1] = 0.5 * np.roll([1, 0, 0], frame)
    acquisition = ismrmrd.Acquisition.from_array(
        data.astype(np.complex64), np.ascontiguousarray(arm.T, np.float32)
    )
    acquisition.idx.contrast = frame
    acquisition.idx.segment = group
    return acquisition


def acquisitions() -> list[ismrmrd.Acquisition]:
    noise = [noise_scan(i) for i in range(NOISE_SCANS)]
    return [*noise, *(readout(f, g) for g in range(GROUPS) for f in range(N_FRAMES))]


def write_scan(
    path: Path, xml: str | None = None, data: list[ismrmrd.Acquisition] | None = None
) -> Path:
    dataset = ismrmrd.Dataset(str(path), mode="w")
    dataset.write_xml_header(xml if xml is not None else header())
    for acquisition in acquisitions() if data is None else data:
        dataset.append_acquisition(acquisition)
    dataset.close()
    return path


def with_trajectory(change: Callable[[np.ndarray], np.ndarray]) -> list[ismrmrd.Acquisition]:
    """The scan with the trajectory of every readout replaced by `change` of it."""
    result = [noise_scan()]
    for original in acquisitions()[NOISE_SCANS:]:
        changed = ismrmrd.Acquisition.from_array(
            original.data, np.ascontiguousarray(change(original.traj), np.float32)
        )
        changed.idx = original.idx
        result.append(changed)
    return result


def with_sample(number: int, value: complex) -> list[ismrmrd.Acquisition]:
    """The scan with one sample of acquisition `number` replaced."""
    result = acquisitions()
    result[number].data[1, 3] = value
    return result


def without_coils() -> list[ismrmrd.Acquisition]:
    empty = np.zeros((0, SAMPLES), np.complex64)
    return [ismrmrd.Acquisition.from_array(empty, readout(f, 0).traj) for f in range(N_FRAMES)]


def truncate(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: int(0.6 * len(content))])


def rename_group(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        file.move("dataset", "something")


def remove(name: str) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        with h5py.File(path, "r+") as file:
            del file["dataset"][name]

    return change


@dataclass(frozen=True)
class GainSettings(AcquisitionPolicy):
    """Settings of `gain`, a gadget that multiplies the data."""

    factor: float = 1.0
    fail_with: Literal["nothing", "user", "bug"] = "nothing"
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.factor <= 0:
            raise ValueError(f"factor must be positive, got {self.factor}")


def gain(items: Iterator[Item], scan: ScanInfo, settings: GainSettings) -> Iterator[Item]:
    for item in items:
        if settings.fail_with == "user":
            raise Mri2QmapError("this scan cannot be amplified")
        if settings.fail_with == "bug":
            raise ZeroDivisionError("division by zero")
        if isinstance(item, ismrmrd.Acquisition):
            item.data[:] *= settings.factor
        yield item


@dataclass(frozen=True)
class SumSettings:
    """Settings of `sum_up`, which makes one image of all data."""

    dicom: bool = True
    images: bool = True


def sum_up(items: Iterator[Item], scan: ScanInfo, settings: SumSettings) -> Iterator[Item]:
    total = 0.0
    for item in items:
        if isinstance(item, ismrmrd.Acquisition):
            if not item.is_flag_set(ismrmrd.ACQ_IS_NOISE_MEASUREMENT):
                total += float(np.abs(item.data).sum())
        elif not isinstance(item, Provenance):
            yield item
    if not settings.images:
        return
    volume = np.full(scan.matrix, total, np.float32)
    image = ismrmrd.Image(data=volume[None], meta=ismrmrd.Meta({"ImageComment": "sum"}))
    image.image_series_index = 7
    yield image
    yield NiftiVolume(nibabel.Nifti1Image(volume, np.eye(4)), "summap.nii.gz")
    if settings.dicom:
        yield DicomObject(small_dicom(), "sum/0001.dcm")


def small_dicom() -> pydicom.Dataset:
    dataset = pydicom.Dataset()
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = MRImageStorage
    dataset.SOPClassUID = MRImageStorage
    dataset.SOPInstanceUID = generate_uid(entropy_srcs=["sum"])
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.PatientName = "Nobody"
    return dataset


def fake_module(name: str, function: Callable[..., object]) -> types.ModuleType:
    """The module of a gadget with another function for it."""
    module = types.ModuleType(f"mri2qmap.{name}")
    own = vars(importlib.import_module(module.__name__))
    vars(module).update({key: own[key] for key in own if not key.startswith("__")})
    setattr(module, name, function)
    return module


def fake_modules() -> dict[str, types.ModuleType]:
    """Modules that stand for two of the gadgets."""
    fakes = fake_module("coil_sensitivity", gain), fake_module("parametric_maps", sum_up)
    return {module.__name__: module for module in fakes}


def expected_sum(factor: float = 1.0) -> float:
    return factor * sum(float(np.abs(a.data).sum()) for a in acquisitions()[NOISE_SCANS:])


def external(target: str, **properties: object) -> str:
    inner = "".join(f'<property name="{k}" value="{v}"/>' for k, v in properties.items())
    return (
        f'<external><execute name="mri2qmap.hosts.external_node" target="{target}" type="python"/>'
        f"<configuration>{inner}</configuration></external>"
    )


def pipeline_xml(*nodes: str, version: str = "<version>2</version>") -> str:
    reader = (
        "<reader><dll>gadgetron_core_readers</dll><classname>AcquisitionReader</classname></reader>"
    )
    writer = "<writer><dll>gadgetron_core_writers</dll><classname>ImageWriter</classname></writer>"
    return (
        f'<?xml version="1.0"?>\n<configuration>{version}<readers>{reader}</readers>'
        f"<writers>{writer}</writers>\n<stream>\n" + "\n".join(nodes) + "\n</stream>"
        "</configuration>"
    )


def scan_info(xml: str | None = None, device: str = "cpu") -> ScanInfo:
    return ScanInfo.from_header(xml or header(), torch.device(device))
