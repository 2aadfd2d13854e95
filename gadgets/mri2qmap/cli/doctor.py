"""`mri2qmap doctor`: what this machine has, and what is missing for what."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import logging
import os
import re
import shutil
import tomllib
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

from mri2qmap.cli.findings import Finding

_DESCRIPTION = """\
Say what was found on this machine, and what is missing for what. The exit code is 0 when the main
job (mri2qmap replay) can run.
"""


def add_parser(subparsers: Any) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser(
        "doctor",
        help="say what this machine has, and what is missing for what",
        description=_DESCRIPTION,
        epilog="examples:\n  mri2qmap doctor\n  mri2qmap doctor --site site.toml",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--site",
        type=Path,
        metavar="FILE",
        help="check the file of a site too: its values, folders, ports and destinations",
    )


def run(args: argparse.Namespace) -> int:
    """Run the subcommand."""
    from mri2qmap.cli.main import REFUSED

    of_site: list[Finding] = []
    if args.site is not None:
        from mri2qmap.cli.site_checks import site_findings

        of_site = site_findings(args.site)  # first: it may name the cache folder
    findings = [*examine(), *of_site]
    width = max(len(finding.topic) for finding in findings)
    for finding in findings:
        if finding.found is not None:
            print(f"ok       {finding.topic:{width}}  {finding.found}")
        else:
            mark = "MISSING" if finding.needed else "missing"
            print(f"{mark}  {finding.topic:{width}}  {finding.missing_for}")
    print()
    able = all(finding.found is not None for finding in findings if finding.needed)
    asked = " as the site asks for" if of_site else ""
    print(
        f"The main job, mri2qmap replay, can run{asked}."
        if able
        else f"The main job, mri2qmap replay, cannot run{asked}: see MISSING above."
    )
    return 0 if able else REFUSED


def examine() -> list[Finding]:
    """Look at everything that the commands use; whatever is broken, this comes to an end."""
    sections = (
        *(_devices, _nufft, _packages, _gadgetron, _models, _pipelines),
        *(_cache, _loops, _current_folder),
    )
    findings: list[Finding] = []
    for section in sections:
        try:
            findings += section()
        except (Exception, SystemExit) as error:
            name = section.__name__.strip("_")
            findings.append(Finding(name, None, f"it could not be examined: {_words(error)}"))
    return findings


def _devices() -> list[Finding]:
    from mri2qmap.machine.container_limits import cpu_quota, memory_left

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    quota, memory = cpu_quota(), memory_left()
    limits = "" if quota is None else f", of which the container may use {quota:g}"
    if memory is not None:
        limits += f"; the container still allows {memory / 2**30:.1f} GiB of memory"
    with _imported("torch") as (torch, failure):
        if failure is not None:
            words = f"for speed: PyTorch does not load ({failure})"
            return [Finding("CPU", f"{cores} cores{limits}"), Finding("GPU", None, words)]
        from mri2qmap.machine.devices import device_name

        findings = [Finding("CPU", f"{cores} cores, {torch.get_num_threads()} threads{limits}")]
        if torch.cuda.is_available():
            for index in range(torch.cuda.device_count()):
                device = torch.device("cuda", index)
                size = torch.cuda.get_device_properties(device).total_memory / 2**30
                findings.append(Finding("GPU", f"{device_name(device)}, {size:.0f} GiB"))
        else:
            words = "for speed: PyTorch finds no CUDA device; the CPU will be used"
            findings.append(Finding("GPU", None, words))
        return findings


def _nufft() -> list[Finding]:
    return [
        _package("finufft", "NUFFT on the CPU", "for any reconstruction", needed=True),
        _cufinufft(),
    ]


def _packages() -> list[Finding]:
    required = (
        *("torch", "numpy", "scipy", "numba", "ismrmrd", "xsdata", "h5py", "pydicom", "highdicom"),
        *("nibabel", "rich", "safetensors"),
    )
    return [
        *(_package(name, name, "for any reconstruction", needed=True) for name in required),
        _optional("nilearn", "nilearn", "for the ICBM brain of mri2qmap simulate and demo"),
        _optional("matplotlib", "matplotlib", "for figures: Maps.plot, mri2qmap demo, evaluate"),
        _optional("skimage", "scikit-image", "for mri2qmap bench and evaluate --experiment"),
        _cupy(),
        _optional("distributed", "Dask distributed", "for mri2qmap replay with several scans"),
        _optional("pynetdicom", "pynetdicom", "for mri2qmap push to a DICOM node"),
        _optional("dicomweb_client", "dicomweb-client", "for mri2qmap push to a DICOMweb server"),
        _optional("monai", "MONAI", "for mri2qmap train"),
        _optional("yaml", "PyYAML", "for mri2qmap train"),
        _optional("bm4d", "BM4D", "only for mri2qmap bench"),
    ]


def _gadgetron() -> list[Finding]:
    server = shutil.which("gadgetron")
    client = shutil.which("gadgetron_ismrmrd_client")
    return [
        _package("gadgetron", "gadgetron (Python)", "for nodes of a Gadgetron server"),
        Finding("gadgetron (server)", server, "only for running under a Gadgetron server"),
        Finding("gadgetron (client)", client, "only for sending scans to a Gadgetron server"),
    ]


def _models() -> list[Finding]:
    from mri2qmap.machine.folders import model_folders

    names = sorted(
        {path.stem for folder in model_folders() for path in folder.glob("*.safetensors")}
    )
    return [
        Finding(
            "denoiser weights",
            ", ".join(names) if names else None,
            "for pipelines with a denoiser, such as mri2qmap: no .safetensors "
            f"file in {' or '.join(str(folder) for folder in model_folders())}; "
            "mri2qmap train makes one",
            needed=True,
        )
    ]


def _pipelines() -> list[Finding]:
    from mri2qmap.machine.folders import pipeline_folders

    names = sorted({p.stem for folder in pipeline_folders() for p in folder.glob("*.xml")})
    return [
        Finding(
            "pipelines",
            ", ".join(names) if names else None,
            "for mri2qmap replay by name: no pipelines/ folder was found",
            needed=True,
        )
    ]


def _cache() -> list[Finding]:
    from mri2qmap.machine.folders import cache_choice, shipped_cache
    from mri2qmap.storage.cache_size import most_bytes, used_bytes

    choice = cache_choice()
    passed_over = "; ".join(choice.refused)
    if choice.folder is None:
        words = f"for keeping dictionaries and compiled loops between runs: {passed_over}"
        return [Finding("cache folder", None, f"{words}; set MRI2QMAP_CACHE to a folder")]
    because = f" (passed over: {passed_over})" if passed_over else ""
    shipped = shipped_cache()
    also = "" if shipped is None else f", and what came with the installation in {shipped}"
    count, size = used_bytes(choice.folder)
    most = most_bytes(choice.folder)
    full = f"{size / 2**20:.0f} MiB of at most {most / 2**20:.0f} MiB"
    found = f"{choice.folder}{also}{because}; dictionaries: {count}, {full}"
    return [Finding("cache folder", found)]


def _loops() -> list[Finding]:
    from mri2qmap.machine.compiled_loops import chosen_folder_problem, loops_at_hand

    problem = chosen_folder_problem()
    folder = loops_at_hand()
    if folder is not None:
        return [Finding("compiled loops", f"{folder}{problem and f' ({problem})'}")]
    words = "for a first scan without delay: mri2qmap warm-up compiles them for this processor"
    return [Finding("compiled loops", None, f"{words}{problem and f'; {problem}'}")]


def _current_folder() -> list[Finding]:
    from mri2qmap.machine.folders import unwritable_reason

    folder = Path.cwd()
    reason = unwritable_reason(folder)
    if reason is None:
        return [Finding("current folder", str(folder))]
    user = f" for user {os.getuid()}" if hasattr(os, "getuid") else ""
    words = f"for results in it: {folder} cannot be written{user} ({reason}); change its owner"
    return [Finding("current folder", None, words)]


def _cufinufft() -> Finding:
    from mri2qmap.machine.gpu_packages import cufinufft_misfit, torch_cuda

    misfit = cufinufft_misfit(torch_cuda())
    purpose = "for non-uniform transforms on a GPU other than by CuPy"
    if misfit is None:
        return _optional("cufinufft", "NUFFT on a GPU", purpose)
    # A build of one's own may fit.
    return _package("cufinufft", "NUFFT on a GPU", f"{purpose}; {misfit}")


def _cupy() -> Finding:
    from mri2qmap.machine.gpu_packages import CUPY, cupy_misfit, gpu_extra, torch_cuda

    purpose = "for fused kernels and non-uniform transforms on a GPU"
    installed = [name for name, _ in CUPY.values() if _version(name) is not None]
    misfit = cupy_misfit(installed, torch_cuda())
    if misfit is not None:
        return Finding("CuPy", None, f"{purpose}: {misfit}")
    return _package("cupy", "CuPy", f"{purpose}: pip install 'mri2qmap[{gpu_extra()}]'")


def _optional(module: str, topic: str, missing_for: str) -> Finding:
    """Finding about a package that an extra installs."""
    from mri2qmap.machine.optional_packages import EXTRAS

    return _package(module, topic, f"{missing_for}: pip install 'mri2qmap[{EXTRAS[module][1]}]'")


def _package(module: str, topic: str, missing_for: str, needed: bool = False) -> Finding:
    """Import a package, since one that is there may still not load; compare its version."""
    with _imported(module) as (imported, failure):
        if failure is not None:
            return Finding(topic, None, f"{missing_for}{failure and f' ({failure})'}", needed)
        name = _distribution(module)
        version = _version(name) or str(getattr(imported, "__version__", "of unknown version"))
        least = _least_versions().get(name)
        if least is not None and _numbers(version) < _numbers(least):
            words = f"{missing_for} (version {version} is too old: pip install '{name}>={least}')"
            return Finding(topic, None, words, needed)
        return Finding(topic, f"{module} {version}", missing_for, needed)


@contextlib.contextmanager
def _imported(module: str) -> Iterator[tuple[Any, str | None]]:
    """Import a package quietly; give it and why it does not load: None, or "" where it is absent.

    Libraries fail in many ways as they are imported; some print, some end the program.
    """
    imported, failure = None, None
    silent = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        try:
            imported = importlib.import_module(module)
        except ModuleNotFoundError as error:
            absent = error.name in (None, module)
            failure = "" if absent else f"it does not load: {error}"
        except (Exception, SystemExit) as error:
            failure = f"it does not load: {_words(error)}"
        finally:
            logging.disable(silent)
    yield imported, failure


def _words(error: BaseException) -> str:
    text = " ".join(str(error).split())
    if isinstance(error, ImportError | OSError) and text:
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _distribution(module: str) -> str:
    """Name under which a module is installed."""
    if module == "cupy":
        from mri2qmap.machine.gpu_packages import cupy_distribution

        return cupy_distribution()
    known = {"skimage": "scikit-image", "yaml": "PyYAML"}
    return _normal(known.get(module, module))


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except Exception:  # not installed, or its metadata are damaged
        return None


def _least_versions() -> dict[str, str]:
    """Least version of each distribution that the project asks for."""
    from mri2qmap.machine.folders import project_file

    try:
        project = tomllib.loads(project_file().read_text(encoding="utf-8"))["project"]
        extras = project.get("optional-dependencies", {}).values()
        texts = [*project["dependencies"], *(text for extra in extras for text in extra)]
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        try:
            texts = metadata.requires("mri2qmap") or []
        except Exception:
            texts = []
    found = (re.match(r"([\w.-]+)\s*(?:\[[^]]*\])?\s*>=\s*([\d.]+)", text) for text in texts)
    return {_normal(match[1]): match[2] for match in found if match}


def _normal(name: str) -> str:
    """Name of a distribution as it is compared."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _numbers(version: str) -> tuple[int, ...]:
    """Leading numbers of a version, without zeros at the end."""
    match = re.match(r"\d+(?:\.\d+)*", version)
    numbers = [int(number) for number in match[0].split(".")] if match else []
    while numbers and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers)
