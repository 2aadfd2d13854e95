"""What run.json says about a run."""

from __future__ import annotations

import importlib.metadata
import platform
from pathlib import Path
from typing import Any

import numpy as np

import mri2qmap
from mri2qmap.stream.devices import device_name
from mri2qmap.stream.in_process import InProcessHost, rounded
from mri2qmap.stream.settings import settings_as_dict

PACKAGES = (
    "torch",
    "numpy",
    "finufft",
    "cufinufft",
    "cupy-cuda12x",
    "ismrmrd",
    "gadgetron",
    "pydicom",
    "highdicom",
    "nibabel",
    "safetensors",
)


def versions() -> dict[str, str | None]:
    """Return the version of everything that bears on the result; None: not installed."""
    found: dict[str, str | None] = {
        "mri2qmap": mri2qmap.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
    }
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = None
    return found


def run_record(
    host: InProcessHost, scan_file: str | Path, command: list[str], log: list[str]
) -> dict[str, Any]:
    """Describe a finished run as JSON values.

    Parameters
    ----------
    host
        The host that ran it.
    scan_file
        The ISMRMRD file that was read.
    command
        The command line.
    log
        What the gadgets and checks had to say.
    """
    scan, path = host.scan, Path(scan_file)
    source, *gadgets, sink = host.accounts
    settings = [settings_as_dict(node.settings) for node in host.pipeline.nodes]
    sequence = scan.sequence
    return {
        "command": command,
        "input": {"file": str(path), "bytes": path.stat().st_size},
        "pipeline": host.pipeline.name,
        "device": device_name(scan.device),
        "versions": versions(),
        "scan": {
            "matrix_zyx": list(scan.matrix),
            "voxel_size_zyx_m": list(scan.voxel_size),
            "frames": sequence.n_frames,
            "flip_angle_min_max_deg": np.rad2deg(
                [min(sequence.flip_angles), max(sequence.flip_angles)]
            ).tolist(),
            "tr_min_max_s": [min(sequence.repetition_times), max(sequence.repetition_times)],
            "te_min_max_s": [min(sequence.echo_times), max(sequence.echo_times)],
            "ti_s": sequence.inversion_time,
        },
        "seeds": {
            node.name: chosen["seed"]
            for node, chosen in zip(host.pipeline.nodes, settings, strict=True)
            if "seed" in chosen
        },
        "total_s": rounded(host.total),
        "last_acquisition_s": rounded(host.last_acquisition),
        "source": source.as_dict(),
        "gadgets": [
            {"name": account.name, "settings": chosen, **account.as_dict()}
            for account, chosen in zip(gadgets, settings, strict=True)
        ],
        "output_busy_s": rounded(sink.busy),
        "log": log,
    }
