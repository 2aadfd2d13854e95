"""Runs that can be stopped and go on."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import mri2qmap
from mri2qmap.errors import Mri2QmapError
from mri2qmap.files.state_files import StateFiles
from mri2qmap.pipeline.pipeline_file import Pipeline
from mri2qmap.pipeline.provenance import file_digest
from mri2qmap.pipeline.scan_header import ScanInfo
from mri2qmap.pipeline.settings import settings_as_dict


@contextmanager
def resumable(
    scan: ScanInfo, pipeline: Pipeline, inputs: Mapping[str, Path], output: Path
) -> Iterator[ScanInfo]:
    """Keep the states of a run beside its output folder until the block ends without an error.

    Of several processes, the main one writes them, and all read them.

    Parameters
    ----------
    scan, pipeline
        What runs.
    inputs
        Files that are read, by name: the states are of their contents.
    output
        Folder of the maps; that of the states has its name and ``.resume``.

    Yields
    ------
    ScanInfo
        The scan, with stores for the states.

    Raises
    ------
    Mri2QmapError
        If the scan is not a file, or the states that are there are of another run.
    """
    if "scan" not in inputs:
        raise Mri2QmapError(
            "resume: the scan is not a file, so that it cannot be known again; write it to one, or "
            "run without resuming"
        )
    settings: dict[str, Any] = {n.name: settings_as_dict(n.settings) for n in pipeline.nodes}
    settings["scan profile"] = pipeline.scan_profile.record()
    files = {name: path for name, path in inputs.items() if name not in ("scan", "pipeline")}
    run = {
        "scan": file_digest(inputs["scan"]),
        "pipeline or setting": json.dumps(settings, sort_keys=True, default=str),
        "network or field map": json.dumps({name: file_digest(p) for name, p in files.items()}),
        "version of mri2qmap": mri2qmap.__version__,
        "device": scan.device.type,
    }
    folder = output.with_name(f"{output.name}.resume")
    states = StateFiles(folder, run, scan.device, scan.report, writes=scan.processes.is_main)
    scan.processes.refuse_unless_same({"states of an earlier run": states.listing()})
    yield replace(scan, state_stores=states)
    if scan.processes.is_main:
        states.remove()
