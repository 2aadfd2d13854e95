"""DICOM attributes of patient, study and scanner, and UIDs, from the ISMRMRD header."""

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

Warn = Callable[[str], None]
"""Receives a message on a header value that is omitted from the DICOM objects."""

_PROTON_HZ_PER_TESLA = 42.577e6
_DEFAULT_BODY_PART = "HEAD"
# Laterality is forbidden for unpaired body parts, and required (possibly empty) for all others.
_UNPAIRED = frozenset(
    "ABDOMEN ABDOMENPELVIS BLADDER BRAIN CEREBELLUM CHEST CHESTABDOMEN COCCYX CSPINE FACE HEAD "
    "HEADNECK HEART JAW LIVER LSPINE NECK PANCREAS PELVIS PROSTATE SKULL SPINE SPLEEN SSPINE "
    "STERNUM TSPINE UTERUS WHOLEBODY".split()
)


@dataclass(frozen=True)
class ScanContext:
    """Attributes shared by all DICOM objects of one scan.

    Attributes
    ----------
    attributes
        Patient, Study, Frame of Reference and common Series attributes by DICOM keyword.
    acquisition
        MR Image attributes of the fingerprinting acquisition.
    scanner
        Attributes of the acquisition equipment; empty if its manufacturer is unknown.
    study_uid, frame_of_reference_uid
        UIDs from the header if valid, otherwise derived from the header.
    seed
        Identification of the scan and the settings, from which UIDs are derived.
    """

    attributes: Mapping[str, Any]
    acquisition: Mapping[str, Any]
    scanner: Mapping[str, Any]
    study_uid: str
    frame_of_reference_uid: str
    seed: tuple[str, ...]

    def uid(self, *parts: str) -> str:
        """Return the UID of a part of this export; repeated exports of a scan give the same UID."""
        return _derived_uid(*self.seed, *parts)


def scan_context(header: Any, key: str, warn: Warn | None = None) -> ScanContext:
    """Return the attributes shared by all DICOM objects of a scan.

    Parameters
    ----------
    header
        The `ismrmrd.xsd.ismrmrdHeader`. Attributes of absent elements are empty or omitted,
        according to their type in the DICOM standard.
    key
        Distinguishes exports with the same header: geometry, settings, version.
    warn
        Receives a message on each invalid value, which is omitted.
    """
    warn = warn or _ignore
    xml = ismrmrd.xsd.ToXML(header)
    study, measurement = header.studyInformation, header.measurementInformation
    study_uid = _valid_uid(study, "studyInstanceUID", warn) or _derived_uid(xml, "study")
    frame_uid = _valid_uid(measurement, "frameOfReferenceUID", warn) or _derived_uid(xml, "frame")
    attributes = {
        **_patient(header.subjectInformation, warn),
        **_study(study, warn),
        **_series(measurement, warn),
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
        acquisition=_acquisition(header, warn),
        scanner=_scanner(system),
        study_uid=study_uid,
        frame_of_reference_uid=frame_uid,
        seed=(xml, key),
    )


def text(value: object, length: int) -> str:
    """Return a valid LO or SH value: no control characters or backslashes, at most `length` bytes.

    The standard limits the number of characters, but some readers limit the number of bytes.
    """
    if value is None:
        return ""
    kept = "".join(c for c in str(value) if unicodedata.category(c) not in ("Cc", "Cs"))
    return _shortened(kept.replace("\\", "/").strip(), length)


def person_name(value: object) -> str:
    """Return a valid PN value: at most 3 groups of at most 64 bytes and 5 components."""
    groups = text(value, 1000).split("=")[:3]
    limited = (_shortened("^".join(group.split("^")[:5]), 64) for group in groups)
    return "=".join(limited).rstrip("=")


def code_string(value: object) -> str:
    """Return a valid CS value: capitals, digits, space and underscore, at most 16 characters."""
    return re.sub(r"[^A-Z0-9_ ]", " ", text(value, 64).upper())[:16].strip()


def _shortened(value: str, length: int) -> str:
    return value.encode()[:length].decode(errors="ignore").strip()


def _ignore(line: str) -> None:
    del line


def _get(element: Any, name: str) -> Any:
    return getattr(element, name, None)


def _invalid(warn: Warn, name: str, expected: str) -> None:
    """Warn of an invalid value; the value is not shown, because the log may be public."""
    warn(f"ISMRMRD header: {name} is invalid and omitted from DICOM; {expected}")


def _valid_uid(element: Any, name: str, warn: Warn) -> str:
    uid = text(_get(element, name), 1000)
    if len(uid) <= 64 and re.match(RE_VALID_UID, uid):
        return uid
    if uid:
        _invalid(warn, name, "a DICOM UID is expected")
    return ""


def _derived_uid(*parts: str) -> str:
    # the lengths distinguish ("a", "bc") from ("ab", "c")
    return str(generate_uid(entropy_srcs=[f"{len(part)}:{part}" for part in parts]))


def _date(element: Any, name: str, warn: Warn) -> str:
    value = _get(element, name)
    if isinstance(value, XmlDate) and 1 <= value.year <= 9999:
        return f"{value.year:04d}{value.month:02d}{value.day:02d}"
    if value is not None:
        _invalid(warn, name, "a date is expected")
    return ""


def _time(element: Any, name: str, warn: Warn) -> str:
    value = _get(element, name)
    if not isinstance(value, XmlTime):
        if value is not None:
            _invalid(warn, name, "a time is expected")
        return ""
    whole = f"{value.hour % 24:02d}{value.minute:02d}{value.second:02d}"
    return f"{whole}.{value.microsecond:06d}" if value.microsecond else whole


def _number(value: Any) -> DSfloat | None:
    """Return a positive finite number as DS, else None."""
    if value is None or not math.isfinite(value) or value <= 0:
        return None
    return DSfloat(float(value), auto_format=True)


def _within(element: Any, name: str, allowed: Range, warn: Warn) -> float | None:
    """Return the value of a numeric element; None if it is absent or out of range."""
    value = _get(element, name)
    if value is None:
        return None
    if isinstance(value, int | float) and allowed.contains(value):
        return float(value)
    number = float(value) if isinstance(value, int | float) else math.nan
    _invalid(warn, name, allowed.expectation(number))
    return None


def _patient(subject: Any, warn: Warn) -> dict[str, Any]:
    sex = text(_get(subject, "patientGender"), 16).upper()
    if sex[:1] not in ("", "M", "F", "O"):
        _invalid(warn, "patientGender", "M, F or O is expected")
        sex = ""
    attributes: dict[str, Any] = {
        "PatientName": person_name(_get(subject, "patientName")),
        "PatientID": text(_get(subject, "patientID"), 64),
        "PatientBirthDate": _date(subject, "patientBirthdate", warn),
        "PatientSex": sex[:1],
    }
    weight = _within(subject, "patientWeight_kg", WEIGHT_KG, warn)
    height = _within(subject, "patientHeight_m", HEIGHT_M, warn)
    if weight is not None:
        attributes["PatientWeight"] = _number(weight)
    if height is not None:
        attributes["PatientSize"] = _number(height)
    return attributes


def _study(study: Any, warn: Warn) -> dict[str, Any]:
    attributes = {
        "StudyDate": _date(study, "studyDate", warn),
        "StudyTime": _time(study, "studyTime", warn),
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


def _series(measurement: Any, warn: Warn) -> dict[str, Any]:
    position = _get(measurement, "patientPosition")
    attributes = {"PatientPosition": "" if position is None else str(position.value)}
    optional = {
        "SeriesDate": _date(measurement, "seriesDate", warn),
        "SeriesTime": _time(measurement, "seriesTime", warn),
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
    """Return the value that all frames share, else an empty string."""
    distinct = set(values or ())
    number = _number(distinct.pop()) if len(distinct) == 1 else None
    return "" if number is None else number


def _acquisition(header: Any, warn: Warn) -> dict[str, Any]:
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
        header.experimentalConditions, "H1resonanceFrequency_Hz", RESONANCE_HZ, warn
    )
    field = _within(header.acquisitionSystemInformation, "systemFieldStrength_T", FIELD_T, warn)
    if field is None and frequency is not None:
        field = round(frequency / _PROTON_HZ_PER_TESLA, 2)
    optional = {
        # an empty InversionTime is an error if the attribute is not required
        "InversionTime": inversion,
        "FlipAngle": _common(_get(parameters, "flipAngle_deg")),
        "ImagingFrequency": None if frequency is None else _number(frequency * 1e-6),
        "MagneticFieldStrength": _number(field),
        "SequenceName": text(_get(header.measurementInformation, "sequenceName"), 16),
    }
    return attributes | {keyword: value for keyword, value in optional.items() if value}
