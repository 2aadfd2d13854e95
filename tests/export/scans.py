"""Headers, geometries and maps for the export tests."""

import dataclasses
import io
from collections.abc import Iterable

import numpy as np
import pydicom
import torch

import mri2qmap.parametric_maps as gadget
from mri2qmap.mrsignal.sequence import default_sequence
from mri2qmap.pipeline.acquisition_stamp import AcquisitionStamp
from mri2qmap.pipeline.geometry import Geometry
from mri2qmap.pipeline.items import DicomObject, Item, NiftiVolume, ParameterMaps, Provenance
from mri2qmap.pipeline.scan_header import ScanInfo, parse_header

_HEADER = """<?xml version="1.0"?>
<ismrmrdHeader xmlns="http://www.ismrm.org/ISMRMRD">
{optional}
<experimentalConditions><H1resonanceFrequency_Hz>{frequency}</H1resonanceFrequency_Hz>
</experimentalConditions>
<encoding>
<encodedSpace><matrixSize><x>8</x><y>8</y><z>8</z></matrixSize>
<fieldOfView_mm><x>8</x><y>8</y><z>8</z></fieldOfView_mm></encodedSpace>
<reconSpace><matrixSize><x>8</x><y>8</y><z>8</z></matrixSize>
<fieldOfView_mm><x>8</x><y>8</y><z>8</z></fieldOfView_mm></reconSpace>
<encodingLimits/><trajectory>other</trajectory>
</encoding>
{parameters}
</ismrmrdHeader>"""

STUDY_UID = "1.2.826.0.1.3680043.8.498.1.2.3"
FRAME_UID = "1.2.826.0.1.3680043.8.498.4.5.6"

_FULL = f"""
<subjectInformation><patientName>{{name}}</patientName><patientWeight_kg>71.5</patientWeight_kg>
<patientHeight_m>1.78</patientHeight_m><patientID>ID-0042</patientID>
<patientBirthdate>1980-02-29</patientBirthdate><patientGender>F</patientGender>
</subjectInformation>
<studyInformation><studyDate>2024-03-01</studyDate><studyTime>14:05:09.250</studyTime>
<studyID>S7</studyID><accessionNumber>123456</accessionNumber>
<referringPhysicianName>Curie^Marie</referringPhysicianName>
<studyDescription>Research brain</studyDescription>
<studyInstanceUID>{STUDY_UID}</studyInstanceUID>
<bodyPartExamined>{{body_part}}</bodyPartExamined></studyInformation>
<measurementInformation><measurementID>m1</measurementID><seriesDate>2024-03-01</seriesDate>
<seriesTime>14:10:00</seriesTime><patientPosition>HFS</patientPosition>
<protocolName>mrf_tgas</protocolName><sequenceName>tgas_spi_sequence_v12</sequenceName>
<frameOfReferenceUID>{FRAME_UID}</frameOfReferenceUID></measurementInformation>
<acquisitionSystemInformation><systemVendor>Acme</systemVendor><systemModel>M1</systemModel>
<systemFieldStrength_T>2.89</systemFieldStrength_T><institutionName>Clinic</institutionName>
<stationName>a_station_name_that_is_long</stationName>
<deviceSerialNumber>99</deviceSerialNumber></acquisitionSystemInformation>
"""

_PARAMETERS = """<sequenceParameters><TR>12</TR><TR>12</TR><TE>0.7</TE><TI>20</TI>
<flipAngle_deg>10</flipAngle_deg><flipAngle_deg>20</flipAngle_deg></sequenceParameters>"""


def minimal_header(frequency=123_200_000):
    """Header with the mandatory elements only."""
    return parse_header(_HEADER.format(optional="", parameters="", frequency=frequency))


def full_header(name="Lovelace^Ada", body_part="BRAIN"):
    return parse_header(
        _HEADER.format(
            optional=_FULL.format(name=name, body_part=body_part),
            parameters=_PARAMETERS,
            frequency=123_200_000,
        )
    )


def scan_info(header) -> ScanInfo:
    return ScanInfo(header, default_sequence(2), (8, 8, 8), (1e-3, 1e-3, 1e-3))


def rotation() -> np.ndarray:
    """Oblique read, phase and slice directions (columns), each near a patient axis."""
    a, b, c = np.deg2rad([12.0, -17.0, 25.0])
    about_x = [[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]]
    about_y = [[np.cos(b), 0, np.sin(b)], [0, 1, 0], [-np.sin(b), 0, np.cos(b)]]
    about_z = [[np.cos(c), -np.sin(c), 0], [np.sin(c), np.cos(c), 0], [0, 0, 1]]
    return np.array(about_z) @ np.array(about_y) @ np.array(about_x)


def oblique_geometry(signs=(1, 1, 1), order=(0, 1, 2), matrix=(5, 6, 8)) -> Geometry:
    """Different sizes and spacings along every axis; directions rounded to single precision."""
    directions = (rotation() * np.array(signs))[:, order].astype(np.float32).astype(float)
    read, phase, slice_ = (tuple(column) for column in directions.T.tolist())
    return Geometry(
        matrix=matrix,
        voxel_size=(3.1e-3, 1.7e-3, 1.2e-3),
        position=(0.0123, -0.0456, 0.0789),
        read_dir=read,
        phase_dir=phase,
        slice_dir=slice_,
    )


def masked_maps(optional=True) -> ParameterMaps:
    """Maps without signal for x < 3."""
    maps = random_maps(oblique_geometry(), optional=optional)
    maps.proton_density[:, :, :3] = 0.01
    return maps


def patient_coordinate(geometry: Geometry, z: int, y: int, x: int) -> np.ndarray:
    """LPS position [mm] of a voxel, computed from the definition of `Geometry`."""
    n_z, n_y, n_x = geometry.matrix
    d_z, d_y, d_x = geometry.voxel_size
    return 1e3 * (
        np.array(geometry.position)
        + (x - n_x // 2) * d_x * np.array(geometry.read_dir)
        + (y - n_y // 2) * d_y * np.array(geometry.phase_dir)
        + (z - n_z // 2) * d_z * np.array(geometry.slice_dir)
    )


def random_maps(geometry: Geometry, seed=0, optional=False) -> ParameterMaps:
    rng = np.random.default_rng(seed)

    def volume(low, high, *leading):
        values = rng.uniform(low, high, (*leading, *geometry.matrix))
        return torch.from_numpy(values.astype(np.float32))

    return ParameterMaps(
        t1=volume(0.2, 3.5),
        t2=volume(0.02, 0.5),
        proton_density=torch.polar(volume(0.5, 2.0), volume(-3.0, 3.0)),
        match_quality=volume(0.5, 1.0),
        weighted=volume(0.1, 1.0, 3),
        geometry=geometry,
        t1_std=volume(0.01, 0.4) if optional else None,
        t2_std=volume(0.001, 0.04) if optional else None,
        consistency=volume(0.1, 8.0) if optional else None,
        receive_field="removed",
        receive_field_map=volume(0.3, 2.5) if optional else None,
    )


def zero_maps(geometry: Geometry) -> ParameterMaps:
    zero = torch.zeros(geometry.matrix)
    weighted = torch.zeros((3, *geometry.matrix))
    return ParameterMaps(zero, zero, zero.to(torch.complex64), zero, weighted, geometry)


PROVENANCE = Provenance("5" * 64)


def export(
    maps: ParameterMaps,
    header=None,
    provenance: Provenance | None = PROVENANCE,
    *,
    stamp: AcquisitionStamp | None = None,
    incomplete: str = "",
    **settings,
) -> list[Item]:
    scan = scan_info(minimal_header() if header is None else header)
    if provenance is not None:
        carried = {} if stamp is None else dataclasses.asdict(stamp)
        provenance = dataclasses.replace(provenance, incomplete=incomplete, **carried)
    items = [maps] if provenance is None else [provenance, maps]
    return list(
        gadget.parametric_maps(iter(items), scan, gadget.ParametricMapsSettings(**settings))
    )


def reread(dataset: pydicom.Dataset) -> pydicom.Dataset:
    """Write a data set to a file and read it again."""
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    buffer.seek(0)
    return pydicom.dcmread(buffer)


def series(items: Iterable[Item], folder: str) -> list[pydicom.Dataset]:
    """Files of one DICOM folder, in order."""
    return [
        reread(item.dataset)
        for item in items
        if isinstance(item, DicomObject) and item.path.startswith(f"{folder}/")
    ]


def parametric(items: Iterable[Item], stem: str) -> pydicom.Dataset:
    (found,) = (
        item.dataset
        for item in items
        if isinstance(item, DicomObject) and item.path == f"parametric/{stem}.dcm"
    )
    return reread(found)


def nifti(items: Iterable[Item], name: str):
    (found,) = (i.image for i in items if isinstance(i, NiftiVolume) and i.name == name)
    return found
