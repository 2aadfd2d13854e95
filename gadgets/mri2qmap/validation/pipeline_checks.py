"""Reading of a pipeline whose errors are collected, and of the files that its gadgets need."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mri2qmap.denoiser.checkpoint import Task, load_denoiser
from mri2qmap.denoiser.tsmi_restoration import load_tsmi_network
from mri2qmap.files.b1_map import read_b1_map
from mri2qmap.mrsignal.matching_settings import MatchingSettings
from mri2qmap.pipeline.findings import Findings
from mri2qmap.pipeline.pipeline_file import Overrides, Pipeline, load_gadget, read_pipeline
from mri2qmap.pipeline.scan_profile import STANDARD, ScanProfile
from mri2qmap.pipeline.settings import settings_as_dict
from mri2qmap.pipeline.simulation_cost import refuse_long_simulations
from mri2qmap.pnp_admm import PnpAdmmSettings
from mri2qmap.toeplitz_cg import ToeplitzCgSettings
from mri2qmap.validation.header import ExaminedHeader


@dataclass(frozen=True)
class SettingInForce:
    """A setting of a gadget.

    Attributes
    ----------
    gadget, name
        Where it is; the gadget is "scan" for keys of the scan profile.
    value, default
        As JSON values.
    """

    gadget: str
    name: str
    value: Any
    default: Any

    @property
    def changed(self) -> bool:
        """Whether it is not the default."""
        return bool(self.value != self.default)


def examine_pipeline(
    name: str | Path,
    overrides: Overrides,
    findings: Findings,
    profile: ScanProfile | None = None,
) -> Pipeline | None:
    """Read a pipeline; if that fails, tell each changed setting that is wrong.

    Parameters
    ----------
    name
        See `mri2qmap.pipeline.pipeline_file.read_pipeline`.
    overrides
        Changed settings by gadget.
    findings
        Takes the errors.
    profile
        Convention of the scans; None: that of the pipeline.

    Returns
    -------
        The pipeline with the changes that fit; None if it cannot be read.
    """
    whole = Findings()
    chosen = whole.attempt(read_pipeline, name, overrides, profile, code="pipeline")
    if chosen is not None or not any(overrides.values()):
        findings.extend(whole)
        return chosen
    if findings.attempt(read_pipeline, name, None, profile, code="pipeline") is None:
        return None
    fitting: dict[str, dict[str, str]] = {}
    errors = Findings()
    for gadget, properties in overrides.items():
        for prop, value in properties.items():
            each = Findings()
            change = {gadget: {prop: value}}
            if each.attempt(read_pipeline, name, change, profile, code="setting") is None:
                errors.extend(each)
            else:
                fitting.setdefault(gadget, {})[prop] = value
    if fitting == _plain(overrides):  # only together they do not fit
        findings.extend(whole)
        return None
    findings.extend(errors)
    return findings.attempt(read_pipeline, name, fitting, profile, code="setting")


def _plain(overrides: Mapping[str, Mapping[str, str]]) -> dict[str, dict[str, str]]:
    return {gadget: dict(properties) for gadget, properties in overrides.items() if properties}


def settings_in_force(pipeline: Pipeline) -> list[SettingInForce]:
    """Return the keys of a scan profile, and all settings of the gadgets in their order.

    A standard scan has no keys.
    """
    profile, standard = pipeline.scan_profile, settings_as_dict(STANDARD)
    found = []
    if not profile.is_standard:
        found = [
            SettingInForce("scan", key, value, standard[key])
            for key, value in settings_as_dict(profile).items()
            if key != "name"
        ]
    for node in pipeline.nodes:
        defaults = settings_as_dict(load_gadget(node.name)[1]())
        found += [
            SettingInForce(node.name, name, value, defaults.get(name))
            for name, value in settings_as_dict(node.settings).items()
        ]
    return found


def check_gadgets(pipeline: Pipeline, header: ExaminedHeader, findings: Findings) -> None:
    """Read the networks and maps that the gadgets need.

    Parameters
    ----------
    pipeline
        The pipeline.
    header
        The header; a network that depends on the sequence is only compared with one that is known.
    findings
        Takes the errors.
    """
    scan = header.scan
    for node in pipeline.nodes:
        settings = node.settings
        if isinstance(settings, MatchingSettings) and settings.b1_map:
            findings.attempt(read_b1_map, settings.b1_map, code="b1-map")
        if isinstance(settings, PnpAdmmSettings) and settings.denoiser != "none":
            arguments = (settings.denoiser, scan.device, Task.WEIGHTED, settings.patch)
            findings.attempt(load_denoiser, *arguments, code="network")
        if isinstance(settings, ToeplitzCgSettings) and settings.task is not None:
            if header.sequence_known:
                own = (settings.denoiser, settings.task, scan.sequence, scan.device, settings.patch)
                findings.attempt(load_tsmi_network, *own, code="network")
    if header.frames_known:
        findings.attempt(refuse_long_simulations, scan, pipeline.nodes)
