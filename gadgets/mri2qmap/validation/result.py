"""The result of a validation: what a scan is, what does not fit, and what the run will take."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

from mri2qmap.pipeline.findings import Finding, Level
from mri2qmap.validation.description import ScanDescription
from mri2qmap.validation.pipeline_checks import SettingInForce
from mri2qmap.validation.run_time import TimeEstimate

SCHEMA = 1
"""Version of the JSON document; it changes when a key is renamed or removed."""


@dataclass(frozen=True)
class MemoryPlan:
    """Memory of a reconstruction.

    Attributes
    ----------
    needed_bytes, available_bytes
        Planned peak, and what there is.
    spared
        Whether memory is spared at the cost of time.
    """

    needed_bytes: int
    available_bytes: int
    spared: bool


@dataclass(frozen=True)
class Validation:
    """The result of `mri2qmap.validate`.

    Attributes
    ----------
    scan
        File and group, or name of the scan.
    pipeline
        Name of the pipeline.
    scan_profile
        Name of the scan profile.
    findings
        What does not fit: errors, then warnings, then hints.
    description
        What the scan is; None if it cannot be opened.
    settings
        Settings in force; empty if the pipeline cannot be read.
    memory
        Planned memory; None if it is not known.
    time
        Estimated time; None if the scan does not fit.
    """

    scan: str
    pipeline: str
    scan_profile: str = "standard"
    findings: tuple[Finding, ...] = ()
    description: ScanDescription | None = None
    settings: tuple[SettingInForce, ...] = ()
    memory: MemoryPlan | None = None
    time: TimeEstimate | None = None

    @property
    def fits(self) -> bool:
        """Whether there is no error, so that a run starts."""
        return not any(finding.level is Level.ERROR for finding in self.findings)

    @property
    def codes(self) -> tuple[str, ...]:
        """Codes of the findings."""
        return tuple(finding.code for finding in self.findings)

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values, as `mri2qmap validate --json` writes them; see docs/validate.md."""
        return {
            "schema": SCHEMA,
            "scan": self.scan,
            "pipeline": self.pipeline,
            "scan_profile": self.scan_profile,
            "fits": self.fits,
            "findings": [_plain(finding) for finding in self.findings],
            "description": _plain(self.description),
            "settings": [
                _plain(setting) | {"changed": setting.changed} for setting in self.settings
            ],
            "memory": _plain(self.memory),
            "time": _plain(self.time),
        }


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, tuple | list):
        return [_plain(element) for element in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return str(value) if isinstance(value, Level) else value
