"""Attributes that both DICOM forms share."""

from __future__ import annotations

import highdicom
from highdicom.pm import RealWorldValueMapping
from highdicom.sr import CodeContentItem
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code

import mri2qmap
from mri2qmap.export.patient import ScanContext
from mri2qmap.export.quantity import MAX_STORED
from mri2qmap.export.series_identity import NOT_FOR_DIAGNOSIS
from mri2qmap.export.volumes import QuantityVolume

MANUFACTURER = "MRI2Qmap"
_REGIONS = {
    "ABDOMEN": ("818983003", "Abdomen"),
    "BRAIN": ("12738006", "Brain"),
    "CHEST": ("816094009", "Chest"),
    "HEAD": ("69536005", "Head"),
    "HEART": ("80891009", "Heart"),
    "KNEE": ("72696002", "Knee"),
    "LEG": ("30021000", "Leg"),
    "LIVER": ("10200004", "Liver"),
    "NECK": ("45048000", "Neck"),
    "PELVIS": ("816092008", "Pelvis"),
    "PROSTATE": ("41216001", "Prostate"),
    "SPINE": ("421060004", "Spine"),
}
"""SNOMED CT codes of body parts (DICOM PS3.16, annex L)."""
_ANY_REGION = ("38266002", "Entire body")


def contributing_equipment(context: ScanContext) -> list[highdicom.ContributingEquipment]:
    """Return the items of the scanner, if its manufacturer is known, and of this software."""
    equipment = []
    if context.scanner:
        equipment.append(
            highdicom.ContributingEquipment(
                purpose_of_reference=codes.DCM.AcquisitionEquipment, **context.scanner
            )
        )
    equipment.append(
        highdicom.ContributingEquipment(
            manufacturer=MANUFACTURER,
            manufacturer_model_name="mri2qmap",
            software_versions=mri2qmap.__version__,
            purpose_of_reference=codes.DCM.ProcessingEquipment,
            contribution_description=NOT_FOR_DIAGNOSIS,
        )
    )
    return equipment


def frame_anatomy(body_part: str) -> Dataset:
    """Return the item of FrameAnatomySequence for a value of BodyPartExamined.

    Readers of multi-frame objects, such as dcmqi, rely on it. A body part without a code here is
    coded as the entire body.
    """
    value, meaning = _REGIONS.get(body_part, _ANY_REGION)
    region = highdicom.sr.CodedConcept(value=value, scheme_designator="SCT", meaning=meaning)
    item = Dataset()
    item.AnatomicRegionSequence = [region]
    item.FrameLaterality = "U"
    return item


def real_world_mapping(volume: QuantityVolume, integer: bool) -> RealWorldValueMapping:
    """Return the mapping from stored pixel values to the quantity in its unit.

    Parameters
    ----------
    volume
        The volume.
    integer
        Whether pixels are stored as scaled integers; otherwise, as floats in the unit itself.
    """
    spec = volume.spec
    top = float(max(volume.in_unit().max(), volume.window[1]))
    explanation = f"{spec.label} in {spec.unit.meaning}"
    mapping = RealWorldValueMapping(
        lut_label=str(volume.quantity),
        lut_explanation=f"{explanation}, saturated at {MAX_STORED}" if integer else explanation,
        unit=Code(*spec.unit),
        value_range=(0, MAX_STORED) if integer else (0.0, top),
        slope=1.0 / volume.steps_per_unit if integer else 1.0,
        intercept=0.0,
        quantity_definition=None if spec.code is None else Code(*spec.code),
    )
    if spec.derivation is not None:
        mapping.QuantityDefinitionSequence.append(
            CodeContentItem(name=codes.DCM.Derivation, value=Code(*spec.derivation))
        )
    return mapping
