"""What is known of the scans of a cohort before anything runs."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

import mri2qmap
from mri2qmap.api.run_output import settings_inputs
from mri2qmap.cohort.outcome import TABLE, ScanOutcome
from mri2qmap.errors import Mri2QmapError
from mri2qmap.files.output_folder import RUN_RECORD
from mri2qmap.files.scan_files import chosen_group, open_scan
from mri2qmap.hosts.run_record import input_contents, input_record
from mri2qmap.pipeline.memory_plan import planned_bytes, with_channels_of
from mri2qmap.pipeline.pipeline_file import Pipeline, pipeline_path, read_pipeline
from mri2qmap.pipeline.progress import Reporter
from mri2qmap.pipeline.scan_header import ScanInfo
from mri2qmap.pipeline.scan_profile_files import ScanProfileInput
from mri2qmap.pipeline.settings import settings_as_dict
from mri2qmap.pipeline.standard_scan import standard_scan
from mri2qmap.storage.inputs import as_path, refuse_inputs
from mri2qmap.storage.written import FILES, own_files, read_record
from mri2qmap.validation.examination import refuse_unfit_scan

_OTHERWISE = "make it again (--overwrite, or overwrite=True), or choose another output folder"


@dataclass(frozen=True)
class PlannedScan:
    """A scan that is to be reconstructed.

    Attributes
    ----------
    name
        Name of its folder.
    file
        Absolute path.
    output
        Folder to make, absolute.
    memory
        Planned peak memory [bytes].
    made_from
        What the record of its folder must say, see `_Recipe`.
    before
        Record of the folder that is to be replaced.
    """

    name: str
    file: Path
    output: Path
    memory: int
    made_from: Mapping[str, Any]
    before: Mapping[str, Any] | None = None

    def new_record(self) -> dict[str, Any] | None:
        """Return the record of its folder if that is complete and was made since the start."""
        record = _record_of(self.output)
        if record is None or record == self.before or _differences(record, self.made_from):
            return None
        return record


@dataclass(frozen=True)
class CohortPlan:
    """The scans of a cohort before the run.

    Attributes
    ----------
    pipeline
        Name of one of the project's pipelines, or the absolute path of a file.
    settings
        Changed settings; paths are absolute.
    scans
        What is to be reconstructed.
    ended
        Scans that are there already, and those that cannot be reconstructed.
    names
        All scans in the order of the caller.
    """

    pipeline: str
    settings: dict[str, dict[str, str]]
    scans: list[PlannedScan] = field(default_factory=list)
    ended: list[ScanOutcome] = field(default_factory=list)
    names: list[str] = field(default_factory=list)


def plan_cohort(
    files: Sequence[str | os.PathLike[str]],
    output: Path,
    pipeline: str | Path,
    overrides: Mapping[str, Mapping[str, str]],
    group: str | None,
    overwrite: bool,
    report: Reporter,
    scan_profile: ScanProfileInput | None = None,
) -> CohortPlan:
    """Check names and existing folders of all scans, and each scan that is to be reconstructed.

    The checks are those of `mri2qmap.validate`, without memory: each file is read once.

    Parameters
    ----------
    files
        The scans.
    output
        Folder of the folders of the scans.
    pipeline, overrides
        See `mri2qmap.pipeline.pipeline_file.read_pipeline`.
    group
        Group of each HDF5 file that contains the scan.
    overwrite
        Whether folders that exist are made again.
    report
        Receives log lines.
    scan_profile
        See `mri2qmap.pipeline.pipeline_file.read_pipeline`.

    Raises
    ------
    Mri2QmapError
        If the pipeline is wrong, two scans have one name, an output contains an input, or a folder
        exists that was made from something else.
    """
    named = _named([as_path(file, "scan") for file in files])
    changed = {gadget: dict(properties) for gadget, properties in overrides.items()}
    chosen = read_pipeline(pipeline, changed, scan_profile)
    read = settings_inputs(chosen)
    for name, path in read.items():
        if not path.is_absolute():  # the workers have other current folders
            gadget, _, prop = name.partition(".")
            changed.setdefault(gadget, {})[prop] = str(path.absolute())
    chosen = read_pipeline(pipeline, changed, scan_profile)
    path = pipeline_path(pipeline)
    own = Path(pipeline).name == str(pipeline) and not Path(pipeline).is_file()
    plan = CohortPlan(str(pipeline) if own else str(path.absolute()), changed)
    contents = input_contents(read)
    refused = []
    for name, file in report.progress(named.items(), "scans checked", total=len(named)):
        plan.names.append(name)
        folder = output / name
        refuse_inputs("output", folder, {"scan": file, "pipeline": path, **read})
        try:
            memory = _planned_bytes(file, group, chosen, report)
            recipe = _recipe(file, group, chosen, contents)
        except Mri2QmapError as error:
            plan.ended.append(_failed(name, error))
            continue
        record = None
        if _is_there(folder):
            record = _record_of(folder)
            if overwrite:
                own_files(folder, RUN_RECORD, "output", inputs=[file, path, *read.values()])
        if overwrite or not _is_there(folder):
            try:
                _check(file, group, chosen)
            except Mri2QmapError as error:
                plan.ended.append(_failed(name, error))
                continue
            plan.scans.append(PlannedScan(name, file, folder, memory, recipe, record))
            continue
        why = "it holds no complete result of this program"
        if record is not None:
            why = "; ".join(_differences(record, recipe))
        if record is None or why:
            refused.append(f"output {folder}: {why}")
        else:
            plan.ended.append(ScanOutcome.from_record(name, record, state="skipped"))
    if refused:
        more = f" ({len(refused) - 1} more such folders)" if len(refused) > 1 else ""
        raise Mri2QmapError(f"{refused[0]}{more}; {_OTHERWISE}")
    return plan


def _named(files: Sequence[Path]) -> dict[str, Path]:
    """Return the absolute path of each scan by the name of its folder."""
    if not files:
        raise Mri2QmapError("no scan was given; at least one ISMRMRD file is expected")
    named: dict[str, Path] = {}
    for file in files:
        name = file.stem
        if not name or name.startswith(".") or name == TABLE:
            raise Mri2QmapError(
                f"scan {file}: its output folder would be {name!r}, which is hidden or the table "
                "of the cohort; rename the file, or reconstruct it alone"
            )
        if name in named:
            raise Mri2QmapError(
                f"scans {named[name]} and {file}: both would be reconstructed into the folder "
                f"{name!r}; give each scan once, rename one file, or choose another output folder "
                "for it in a second command"
            )
        named[name] = file
    return {name: file.absolute() for name, file in named.items()}


def _planned_bytes(file: Path, group: str | None, pipeline: Pipeline, report: Reporter) -> int:
    with open_scan(file, chosen_group(group, pipeline.scan_profile, file)) as source:
        header, conversion = standard_scan(source.header, pipeline.scan_profile)
        scan = ScanInfo.from_header(header, torch.device("cpu"), report)
        quiet = replace(scan, report=Reporter())  # the run says it
        scan, _ = with_channels_of(conversion.items(source.items(), quiet), scan)
        return planned_bytes(scan, pipeline.nodes)


def _check(file: Path, group: str | None, pipeline: Pipeline) -> None:
    """Make the checks of a run, which has warnings for itself: see `refuse_unfit_scan`."""
    profile = pipeline.scan_profile
    with open_scan(file, chosen_group(group, profile, file)) as source:
        device = torch.device("cpu")
        refuse_unfit_scan(source, profile, pipeline, device, Reporter(), with_files=True)


def _failed(name: str, error: Mri2QmapError) -> ScanOutcome:
    return ScanOutcome(name, "failed", reason=" ".join(str(error).split()))


def _recipe(
    file: Path, group: str | None, pipeline: Pipeline, contents: Mapping[str, str]
) -> dict[str, Any]:
    """Return what determines the maps of a scan, by the words for it in messages."""
    group = chosen_group(group, pipeline.scan_profile, file)
    given = input_record(file, [], group, contents)["input"]
    return {
        "scan": _identity(given),
        "files of the gadgets": given["contents"],
        "pipeline": pipeline.name,
        "scan profile": pipeline.scan_profile.record()["settings"],
        "settings": {node.name: settings_as_dict(node.settings) for node in pipeline.nodes},
        "version of mri2qmap": mri2qmap.__version__,
    }


def _identity(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return what tells one scan file from another, wherever it is mounted."""
    return {key: given.get(key) for key in ("bytes", "modified_ns", "group")}


def _differences(record: Mapping[str, Any], recipe: Mapping[str, Any]) -> list[str]:
    """Say in what the record of a folder differs from what is asked for; empty: in nothing."""
    given = record.get("input") or {}
    found: dict[str, Any] = {
        "scan": _identity(given),
        "files of the gadgets": given.get("contents"),
        "pipeline": record.get("pipeline"),
        "scan profile": (record.get("scan_profile") or {}).get("settings", {}),
        "settings": {
            gadget.get("name"): gadget.get("settings") for gadget in record.get("gadgets") or []
        },
        "version of mri2qmap": (record.get("versions") or {}).get("mri2qmap"),
    }
    texts = []
    for what, wanted in recipe.items():
        if found[what] == wanted:
            continue
        if what == "settings":
            texts.append(_other_settings(found[what], wanted))
        elif what == "scan":
            texts.append("it was made from another scan (size, time of change or group)")
        elif isinstance(wanted, str):
            texts.append(f"it was made with another {what} ({found[what]}, now {wanted})")
        else:
            texts.append(f"it was made with other {what}")
    return texts


def _other_settings(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    """Name the first setting that differs."""
    for gadget, own in wanted.items():
        before = found.get(gadget) or {}
        for name, value in own.items():
            if before.get(name) != value:
                return (
                    f"it was made with other settings ({gadget}.{name}={before.get(name)}, now "
                    f"{value})"
                )
    return "it was made with other settings"


def _is_there(folder: Path) -> bool:
    """Whether a folder may not simply be made: an empty one counts as missing."""
    if not os.path.lexists(folder):
        return False
    try:
        return any(folder.iterdir())
    except OSError:
        return True


def _record_of(folder: Path) -> dict[str, Any] | None:
    """Return the record of a folder that holds all that the record lists, else None."""
    record = read_record(folder, RUN_RECORD)
    if record is None or not isinstance(record.get(FILES), dict):
        return None
    return record if all((folder / name).is_file() for name in record[FILES]) else None
