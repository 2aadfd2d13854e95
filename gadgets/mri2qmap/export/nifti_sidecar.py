"""JSON files beside the NIfTI volumes, as BIDS wants them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mri2qmap
from mri2qmap.errors import Mri2QmapError
from mri2qmap.export.series_identity import ExportRun
from mri2qmap.export.volumes import QuantityVolume
from mri2qmap.pipeline.items import sidecar_name

_RECEIVE_FIELD = "ReceiveField"
_PAPER = "MRI2Qmap: multi-parametric quantitative mapping with MRI-driven denoising priors"


def nifti_sidecar(volume: QuantityVolume, run: ExportRun) -> dict[str, Any]:
    """Return what the sidecar of a volume holds.

    Units, estimation and times [s] have the names of BIDS ("Quantitative MRI"); the others tell
    what BIDS has no name for.
    """
    spec = volume.spec
    sidecar: dict[str, Any] = {
        "Description": f"{spec.label}, {run.method}",
        "Units": nifti_unit(volume),
        "EstimationAlgorithm": f"{run.method}: dictionary matching of 3D MR fingerprinting data",
        "EstimationReference": _PAPER,
        "GeneratedBy": [{"Name": "mri2qmap", "Version": mri2qmap.__version__}],
    }
    strength = run.context.acquisition.get("MagneticFieldStrength")
    if strength:
        sidecar["MagneticFieldStrength"] = float(strength)
    if volume.echo is not None:
        sidecar["RepetitionTime"] = volume.echo.repetition_time
        sidecar["EchoTime"] = volume.echo.echo_time
        sidecar["Synthesised"] = True
    if volume.receive_field:
        sidecar[_RECEIVE_FIELD] = volume.receive_field
    if run.incomplete:
        sidecar["Incomplete"] = run.incomplete
    if run.provenance:
        sidecar["Provenance"] = run.provenance
    return sidecar


def nifti_unit(volume: QuantityVolume) -> str:
    """Return the unit of the values: seconds for times."""
    spec = volume.spec
    return "s" if spec.to_unit != 1 else spec.unit.meaning


def read_receive_field(volume: Path) -> str:
    """Return what the sidecar of a NIfTI file tells of the receive field; empty: nothing.

    Raises
    ------
    Mri2QmapError
        If there is a sidecar, but it cannot be read.
    """
    path = volume.with_name(sidecar_name(volume.name))
    if not path.is_file():
        return ""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise Mri2QmapError(f"{path}: it cannot be read as JSON ({error})") from error
    value = content.get(_RECEIVE_FIELD, "") if isinstance(content, Mapping) else ""
    return str(value)
