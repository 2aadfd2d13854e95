"""Attributes that both DICOM forms share."""

from __future__ import annotations

import highdicom
from highdicom.pm import RealWorldValueMapping
from highdicom.sr import CodeContentItem
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code

import mri2qmap
from mri2qmap.export.patient import ScanContext
from mri2qmap.export.quantity import MAX_STORED
from mri2qmap.export.series_identity import NOT_FOR_DIAGNOSIS
from mri2qmap.export.volumes import QuantityVolume

MANUFACTURER = "MRI2Qmap"


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
