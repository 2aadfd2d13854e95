"""What the record of a run says, for a report: without names of files, people or machines."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from mri2qmap.errors import Mri2QmapError
from mri2qmap.pipeline.pipeline_file import load_gadget
from mri2qmap.pipeline.settings import settings_as_dict
from mri2qmap.report.findings import Facts

_STAMP = re.compile(r"^\d{4}-\d\d-\d\d\S*\s+")
_PATH = re.compile(r"\S*[/\\]\S+")
_FILE = "(a file)"
_SILENT = "parametric_maps"
"""Gadget whose log lines may quote what the header says of the patient."""


@dataclass(frozen=True)
class ChangedSetting:
    """A setting that is not the default, as text."""

    gadget: str
    name: str
    value: str
    default: str


@dataclass(frozen=True)
class Busy:
    """Computing time of one gadget [s]; `during` is None where it was not recorded."""

    name: str
    during: float | None
    total: float


class RunFacts:
    """The record of a run, whether it ran here or at a server.

    Parameters
    ----------
    record
        As in run.json.
    """

    def __init__(self, record: Mapping[str, Any]) -> None:
        self._client = record
        at_server = record.get("at_server")
        self.record: Mapping[str, Any] = at_server if isinstance(at_server, dict) else record

    @property
    def gadgets(self) -> list[dict[str, Any]]:
        """Entries of the gadgets; empty after a run at a Gadgetron server."""
        found = self.record.get("gadgets")
        return list(found) if isinstance(found, list) else []

    @property
    def at_server(self) -> bool:
        """Whether a server reconstructed the scan."""
        return "server" in self._client

    @property
    def pipeline(self) -> str:
        """Name of the pipeline, without a path."""
        name = str(self.record.get("pipeline") or self._client.get("configuration") or "unknown")
        return re.split(r"[/\\]", name)[-1]

    @property
    def versions(self) -> dict[str, str]:
        """Versions of the software that was installed, except the name of the platform."""
        found = self.record.get("versions") or {}
        return {name: str(v) for name, v in found.items() if v and name != "platform"}

    @property
    def iterations(self) -> list[dict[str, Any]]:
        """Iterations of the gadget that has an ADMM."""
        return next((g["iterations"] for g in self.gadgets if g.get("iterations")), [])

    def measured(self, name: str) -> float | None:
        """Return a number that a gadget measured; None if none did."""
        for gadget in self.gadgets:
            value = gadget.get("measured", {}).get(name)
            if isinstance(value, int | float):
                return float(value)
        return None

    def number(self, *keys: str) -> float | None:
        """Return a number of the record by its keys; None if there is none."""
        value: Any = self.record
        for key in keys:
            value = value.get(key) if isinstance(value, dict | Mapping) else None
        return float(value) if isinstance(value, int | float) else None

    @property
    def peak_bytes(self) -> float | None:
        """Peak memory of the GPU where there was one, else of the process, up to the maps."""
        gadgets = [g for g in self.gadgets if g.get("name") != "parametric_maps"]
        for key in ("gpu_peak_bytes", "rss_peak_bytes"):
            found = [float(g[key]) for g in gadgets if g.get(key)]
            if found:
                return max(found)
        return None

    @property
    def grown_bytes(self) -> float | None:
        """By how much the run raised the peak memory; None: not recorded."""
        if any(gadget.get("gpu_peak_bytes") for gadget in self.gadgets):
            return self.peak_bytes
        found = [float(g["rss_growth_bytes"]) for g in self.gadgets if "rss_growth_bytes" in g]
        return sum(found) if found else None

    @property
    def busy(self) -> list[Busy]:
        """Computing time of each gadget, in their order."""
        if self.gadgets:
            return [
                Busy(g["name"], g.get("busy_during_scan_s"), float(g.get("busy_s") or 0))
                for g in self.gadgets
            ]
        nodes = self._client.get("nodes") or []
        return [Busy(n["name"], None, float(n.get("busy_s") or 0)) for n in nodes]

    @cached_property
    def changed_settings(self) -> list[ChangedSetting]:
        """Settings of known gadgets that are not the default; names of files are left out."""
        changed = []
        for gadget in self.gadgets:
            try:
                defaults = settings_as_dict(load_gadget(gadget["name"])[1]())
            except (Mri2QmapError, ImportError, TypeError, ValueError):
                continue  # somebody's own gadget
            for name, value in gadget.get("settings", {}).items():
                default = defaults.get(name)
                if value != default:
                    changed.append(
                        ChangedSetting(gadget["name"], name, _shown(value), _shown(default))
                    )
        return changed

    @property
    def log(self) -> list[str]:
        """Log lines of the gadgets up to the maps, without time and paths."""
        names = [g["name"] for g in self.gadgets if g["name"] != _SILENT]
        lines = (_STAMP.sub("", str(line)) for line in self.record.get("log") or ())
        begins = tuple(f"{name}: " for name in (*names, "memory"))
        return [_PATH.sub(_FILE, line) for line in lines if line.startswith(begins)]

    def facts(self, match_quality: float | None) -> Facts:
        """Return what the rules of the traffic light look at.

        Parameters
        ----------
        match_quality
            Median of the match quality in the object; None: not known.
        """
        primal = [
            math.nan if step.get("primal") is None else float(step["primal"])
            for step in self.iterations
        ]
        return Facts(
            incomplete=self.record.get("incomplete"),
            voxels_not_finite=self.measured("voxels_not_finite"),
            match_quality=match_quality,
            at_table_limit=self.measured("at_table_limit"),
            coils=self.measured("coils"),
            noise_samples=self.measured("noise_samples"),
            noise_correlation=self.measured("noise_correlation_largest"),
            noise_deviation_ratio=self.measured("noise_deviation_ratio"),
            energy_kept=self.measured("energy_kept"),
            subspace_energy=self.measured("subspace_energy"),
            relative_noise=self.measured("relative_noise"),
            cg_residual=self.measured("cg_residual"),
            primal=primal,
            peak_bytes=self.peak_bytes,
            grown_bytes=self.grown_bytes,
            planned_bytes=self.number("memory", "planned_bytes"),
            attempts=tuple(map(str, self.record.get("memory", {}).get("attempts", ()))),
            incomplete_record=str(self._client.get("incomplete_record") or ""),
        )


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list | tuple):
        return " ".join(_shown(element) for element in value) or "none"
    text = str(value)
    return _FILE if re.search(r"[./\\]", text) else text or "none"
