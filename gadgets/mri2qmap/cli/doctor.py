"""`mri2qmap doctor`: what this machine has, and what is missing for what."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import Any

_DESCRIPTION = """\
Say what was found on this machine, and what is missing for what. The exit code is 0 when the main
job (mri2qmap replay) can run.
"""


@dataclass(frozen=True)
class Finding:
    """One line of the doctor's report.

    Attributes
    ----------
    topic
        What was looked for.
    found
        What is there; None when it is not.
    missing_for
        What cannot be done without it, and how to get it.
    needed
        Whether the main job needs it.
    """

    topic: str
    found: str | None
    missing_for: str = ""
    needed: bool = False


def add_parser(subparsers: Any) -> None:
    """Add the subcommand."""
    subparsers.add_parser(
        "doctor",
        help="say what this machine has, and what is missing for what",
        description=_DESCRIPTION,
        epilog="example:\n  mri2qmap doctor",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def run(args: argparse.Namespace) -> int:
    """Run the subcommand."""
    from mri2qmap.cli.main import REFUSED

    findings = examine()
    width = max(len(finding.topic) for finding in findings)
    for finding in findings:
        if finding.found is not None:
            print(f"ok       {finding.topic:{width}}  {finding.found}")
        else:
            mark = "MISSING" if finding.needed else "missing"
            print(f"{mark}  {finding.topic:{width}}  {finding.missing_for}")
    able = all(finding.found is not None for finding in findings if finding.needed)
    print()
    print(
        "The main job, mri2qmap replay, can run."
        if able
        else "The main job, mri2qmap replay, cannot run: see MISSING above."
    )
    return 0 if able else REFUSED


def examine() -> list[Finding]:
    """Look at everything that the commands use."""
    return [*_devices(), *_nufft(), *_packages(), *_gadgetron(), *_models(), *_folders()]


def _devices() -> list[Finding]:
    import os

    import torch

    from mri2qmap.stream.devices import device_name

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    findings = [Finding("CPU", f"{cores} cores, {torch.get_num_threads()} threads in use")]
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            device = torch.device("cuda", index)
            memory = torch.cuda.get_device_properties(device).total_memory / 2**30
            findings.append(Finding("GPU", f"{device_name(device)}, {memory:.0f} GiB"))
    else:
        findings.append(
            Finding("GPU", None, "for speed: PyTorch finds no CUDA device; the CPU will be used")
        )
    return findings


def _nufft() -> list[Finding]:
    return [
        _package("finufft", "NUFFT on the CPU", "for any reconstruction", needed=True),
        _package("cufinufft", "NUFFT on a GPU", "for a GPU: pip install 'mri2qmap[gpu]'"),
    ]


def _packages() -> list[Finding]:
    required = ("torch", "numpy", "ismrmrd", "h5py", "pydicom", "highdicom", "nibabel")
    return [
        *(_package(name, name, "for any reconstruction", needed=True) for name in required),
        _package("numba", "numba", "for fast matching on the CPU"),
        _package("safetensors", "safetensors", "for the denoisers and the cache", needed=True),
        _package("cupy", "CuPy", "for fused GPU kernels: pip install 'mri2qmap[gpu]'"),
        _package("monai", "MONAI", "for mri2qmap train: pip install 'mri2qmap[train]'"),
        _package("bm4d", "BM4D", "only for mri2qmap bench: pip install 'mri2qmap[bench]'"),
        _package("nilearn", "nilearn", "for the ICBM brain of mri2qmap simulate and demo"),
        _package("matplotlib", "matplotlib", "for the pictures of mri2qmap demo"),
    ]


def _gadgetron() -> list[Finding]:
    import shutil

    server = shutil.which("gadgetron")
    client = shutil.which("gadgetron_ismrmrd_client")
    return [
        _package("gadgetron", "gadgetron (Python)", "for nodes of a Gadgetron server"),
        Finding("gadgetron (server)", server, "only for running under a Gadgetron server"),
        Finding("gadgetron (client)", client, "only for sending scans to a Gadgetron server"),
    ]


def _models() -> list[Finding]:
    from mri2qmap.denoiser.checkpoint import model_folders

    names = sorted(
        {path.stem for folder in model_folders() for path in folder.glob("*.safetensors")}
    )
    return [
        Finding(
            "denoiser weights",
            ", ".join(names) if names else None,
            "for the pipelines with a prior (mri2qmap, mri2qmap_single_coil): no .safetensors "
            f"file in {' or '.join(str(folder) for folder in model_folders())}; "
            "mri2qmap train makes one",
            needed=True,
        )
    ]


def _folders() -> list[Finding]:
    from mri2qmap.mrsignal.dictionary import cache_folder
    from mri2qmap.stream.pipeline import pipeline_folders

    pipelines = sorted({p.stem for folder in pipeline_folders() for p in folder.glob("*.xml")})
    cache = cache_folder()
    return [
        Finding(
            "pipelines",
            ", ".join(pipelines) if pipelines else None,
            "for mri2qmap replay by name: no pipelines/ folder was found",
            needed=True,
        ),
        Finding(
            "cache folder",
            str(cache) if _writable(cache) else None,
            f"for keeping dictionaries between runs: {cache} cannot be written",
        ),
    ]


def _package(module: str, topic: str, missing_for: str, needed: bool = False) -> Finding:
    """Import a package, since one that is there may still not load."""
    import importlib

    try:
        imported = importlib.import_module(module)
    except (ImportError, OSError) as error:
        text = "" if isinstance(error, ModuleNotFoundError) else f" (it does not load: {error})"
        return Finding(topic, None, missing_for + text, needed)
    version = getattr(imported, "__version__", None) or _version(module)
    return Finding(topic, f"{module} {version}", missing_for, needed)


def _version(module: str) -> str:
    from importlib import metadata

    names = metadata.packages_distributions().get(module, [module])
    return metadata.version(names[0])


def _writable(folder: Any) -> bool:
    """Say whether `folder`, or the first parent that exists, may be written to."""
    import os

    while not folder.exists():
        folder = folder.parent
    return os.access(folder, os.W_OK)
