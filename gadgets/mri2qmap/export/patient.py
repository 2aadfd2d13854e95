"""Patient, study, scanner and UIDs of the DICOM objects, from the ISMRMRD header."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ismrmrd
from pydicom.uid import RE_VALID_UID, generate_uid
from pydicom.valuerep import DSfloat
from xsdata.models.datatype import XmlDate, XmlTime

from mri2qmap.pipeline.header_units import FIELD_T, HEIGHT_M, RESONANCE_HZ, WEIGHT_KG, Range

LeftOut = Callable[[str], None]
"""Takes a line on a value of the header that no DICOM object gets."""

_PROTON_HZ_PER_TESLA = 42.577e6
_DEFAULT_BODY_PART = "HEAD"
# Laterality is forbidden for unpaired body parts and demanded for all others, if only empty.
_UNPAIRED = frozenset(
    "ABDOMEN ABDOMENPELVIS BLADDER BRAIN CEREBELLUM CHEST CHESTABDOMEN COCCYX CSPINE FACE HEAD "
    "HEADNECK HEART JAW LIVER LSPINE NECK PANCREAS PELVIS PROSTATE SKULL SPINE SPLEEN SSPINE "
    "STERNUM TSPINE UTERUS WHOLEBODY".split()
)


@dataclass(frozen=True)
class ScanContext:
    """What all DICOM objects of one scan share.

    Attributes
    ----------
    attributes
        Patient, Study, Frame of Reference and common Series attributes by DICOM keyword.
    acquisition
        MR Image attributes that describe the fingerprinting acquisition.
    scanner
        Attributes of the acquisition equipment, empty when its maker is not known.
    study_uid, frame_of_reference_uid
        The header's where it has valid ones, else derived from the header.
    seed
        What identifies this scan and these settings; UIDs follow from it.
    """

    attributes: Mapping[str, Any]
    acquisition: Mapping[str, Any]
    scanner: Mapping[str, Any]
    study_uid: str
    frame_of_reference_uid: str
    seed: tuple[str, ...]

    def uid(self, *parts: str) -> str:
        """UID of a part of this export, the same whenever the same scan is replayed."""
        return _derived_uid(*self.seed, *parts)


def scan_context(header: Any, key: str, left_out: LeftOut | None = None) -> ScanContext:
    """Describe a scan.

    Parameters
    ----------
    header
        The `ismrmrd.xsd.ismrmrdHeader`; absent elements become empty or are left out, as the
        attribute's type in the DICOM standard allows.
    key
        What tells this export from others with the same header: geometry, settings, version.
    left_out
        Takes a line on each value that makes no sense, which is left out.
    """
    tell = left_out or _keep_quiet
    xml = ismrmrd.xsd.ToXML(header)
    study, measurement = header.studyInformation, header.measurementInformation
    study_uid = _valid_uid(study, "studyInstanceUID", tell) or _derived_uid(xml, "study")
    frame_uid = _valid_uid(measurement, "frameOfReferenceUID", tell) or _derived_uid(xml, "frame")
    attributes = {
        **_patient(header.subjectInformation, tell),
        **_study(study, tell),
        **_series(measurement, tell),
        "StudyInstanceUID": study_uid,
        "FrameOfReferenceUID": frame_uid,
        "PositionReferenceIndicator": "",
    }
    system = header.acquisitionSystemInformation
    institution = text(_get(system, "institutionName"), 64)
    if institution:
        attributes["InstitutionName"] = institution
    return ScanContext(
        attributes=attributes,
        acquisition=_acquisition(header, tell),
        scanner=_scanner(system),
        study_uid=study_uid,
        frame_of_reference_uid=frame_uid,
        seed=(xml, key),
    )


def text(value: object, length: int) -> str:
    """Make a valid LO or SH value: no control characters or backslashes, at most `length` bytes.

    The standard counts characters, but not all readers do.
    """
    if value is None:
        return ""
    kept = "".join(c for c in str(value) if unicodedata.category(c) not in ("Cc", "Cs"))
    return _shortened(kept.replace("\\", "/").strip(), length)


def person_name(value: object) -> str:
    """Make a valid PN value: at most 3 groups of at most 64 bytes and 5 components."""
    groups = text(value, 1000).split("=")[:3]
    limited = (_shortened("^".join(group.split("^")[:5]), 64) for group in groups)
    return "=".join(limited).rstrip("=")


def code_string(value: object) -> str:
    """Make a valid CS value: capitals, digits, space and underscore, at most 16 characters."""
    return re.sub(r"[^A-Z0-9_ ]", " ", text(value, 64).upper())[:16].strip()


def _shortened(value: str, length: int) -> str:
    return value.encode()[:length].decode(errors="ignore").strip()


def _keep_quiet(line: str) -> None:
    del line


def _get(element: Any, name: str) -> Any:
    return getattr(element, name, None)


def _nonsense(tell: LeftOut, name: str, expected: str) -> None:
    """Say what is left out, without the value: the line may go to the log of a server."""
    tell(f"ISMRMRD header: {name} makes no sense; {expected}; DICOM goes without it")


def _valid_uid(element: Any, name: str, tell: LeftOut) -> str:
    uid = text(_get(element, name), 1000)
    if len(uid) <= 64 and re.match(RE_VALID_UID, uid):
        return uid
    if uid:
        _nonsense(tell, name, "a DICOM UID is expected")
    return ""


def _derived_uid(*parts: str) -> str:
    # lengths keep ("a", "bc") and ("ab", "c") apart
    return str(generate_uid(entropy_srcs=[f"{len(part)}:{part}" for part in parts]))


def _date(element: Any, name: str, tell: LeftOut) -> str:
    value = _get(element, name)
    if isinstance(value, XmlDate) and 1 <= value.year <= 9999:
        return f"{value.year:04d}{value.month:02d}{value.day:02d}"
    if value is not None:
        _nonsense(tell, name, "a date is expected")
    return ""


def _time(element: Any, name: str, tell: LeftOut) -> str:
    value = _get(element, name)
    if not isinstance(value, XmlTime):
        if value is not None:
            _nonsense(tell, name, "a time is expected")
        return ""
    whole = f"{value.hour % 24:02d}{value.minute:02d}{value.second:02d}"
    return f"{whole}.{value.microsecond:06d}" if value.microsecond else whole


def _number(value: Any) -> DSfloat | None:
    """Positive finite number as DS, else None."""
    if value is None or not math.isfinite(value) or value <= 0:
        return None
    return DSfloat(float(value), auto_format=True)


def _within(element: Any, name: str, allowed: Range, tell: LeftOut) -> float | None:
    """The number of that name, None where there is none that can be."""
    value = _get(element, name)
    if value is None:
        return None
    if isinstance(value, int | float) and allowed.contains(value):
        return float(value)
    number = float(value) if isinstance(value, int | float) else math.nan
    _nonsense(tell, name, allowed.expectation(number))
    return None


def _patient(subject: Any, tell: LeftOut) -> dict[str, Any]:
    sex = text(_get(subject, "patientGender"), 16).upper()
    if sex[:1] not in ("", "M", "F", "O"):
        _nonsense(tell, "patientGender", "M, F or O is expected")
        sex = ""
    attributes: dict[str, Any] = {
        "PatientName": person_name(_get(subject, "patientName")),
        "PatientID": text(_get(subject, "patientID"), 64),
        "PatientBirthDate": _date(subject, "patientBirthdate", tell),
        "PatientSex": sex[:1],
    }
    weight = _within(subject, "patientWeight_kg", WEIGHT_KG, tell)
    height = _within(subject, "patientHeight_m", HEIGHT_M, tell)
    if weight is not None:
        attributes["PatientWeight"] = _number(weight)
    if height is not None:
        attributes["PatientSize"] = _number(height)
    return attributes


def _study(study: Any, tell: LeftOut) -> dict[str, Any]:
    attributes = {
        "StudyDate": _date(study, "studyDate", tell),
        "StudyTime": _time(study, "studyTime", tell),
        "StudyID": text(_get(study, "studyID"), 16),
        "AccessionNumber": text(_get(study, "accessionNumber"), 16),
        "ReferringPhysicianName": person_name(_get(study, "referringPhysicianName")),
        "BodyPartExamined": code_string(_get(study, "bodyPartExamined")) or _DEFAULT_BODY_PART,
    }
    if attributes["BodyPartExamined"] not in _UNPAIRED:
        attributes["Laterality"] = ""
    description = text(_get(study, "studyDescription"), 64)
    if description:
        attributes["StudyDescription"] = description
    return attributes


def _series(measurement: Any, tell: LeftOut) -> dict[str, Any]:
    position = _get(measurement, "patientPosition")
    attributes = {"PatientPosition": "" if position is None else str(position.value)}
    optional = {
        "SeriesDate": _date(measurement, "seriesDate", tell),
        "SeriesTime": _time(measurement, "seriesTime", tell),
        "ProtocolName": text(_get(measurement, "protocolName"), 64),
    }
    return attributes | {keyword: value for keyword, value in optional.items() if value}


def _scanner(system: Any) -> dict[str, Any]:
    vendor = text(_get(system, "systemVendor"), 64)
    if not vendor:
        return {}
    optional = {
        "manufacturer_model_name": text(_get(system, "systemModel"), 64),
        "device_serial_number": text(_get(system, "deviceSerialNumber"), 64),
        "institution_name": text(_get(system, "institutionName"), 64),
        "station_name": text(_get(system, "stationName"), 16),
    }
    return {"manufacturer": vendor} | {name: value for name, value in optional.items() if value}


def _common(values: Sequence[float] | None) -> DSfloat | str:
    """Return the one value that all frames share, else an empty string."""
    distinct = set(values or ())
    number = _number(distinct.pop()) if len(distinct) == 1 else None
    return "" if number is None else number


def _acquisition(header: Any, tell: LeftOut) -> dict[str, Any]:
    parameters = header.sequenceParameters
    inversion = _common(_get(parameters, "TI"))
    attributes: dict[str, Any] = {
        "ScanningSequence": ["GR", "IR"] if inversion else "GR",
        "SequenceVariant": "MP" if inversion else "NONE",
        "ScanOptions": "",
        "MRAcquisitionType": "3D",
        "RepetitionTime": _common(_get(parameters, "TR")),
        "EchoTime": _common(_get(parameters, "TE")),
        "EchoTrainLength": "",
        "ImagedNucleus": "1H",
    }
    frequency = _within(
        header.experimentalConditions, "H1resonanceFrequency_Hz", RESONANCE_HZ, tell
    )
    field = _within(header.acquisitionSystemInformation, "systemFieldStrength_T", FIELD_T, tell)
    if field is None and frequency is not None:
        field = round(frequency / _PROTON_HZ_PER_TESLA, 2)
    optional = {
        # an empty InversionTime is an error where it is not required
        "InversionTime": inversion,
        "FlipAngle": _common(_get(parameters, "flipAngle_deg")),
        "ImagingFrequency": None if frequency is None else _number(frequency * 1e-6),
        "MagneticFieldStrength": _number(field),
        "SequenceName": text(_get(header.measurementInformation, "sequenceName"), 16),
    }
    return attributes | {keyword: value for keyword, value in optional.items() if value}
