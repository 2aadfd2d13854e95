"""Denoisers in safetensors files: weights, shape and training history in one."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from mri2qmap.denoiser.network import (
    ConditionalResidualUNet,
    DenoiserConfig,
    current_setting_names,
)
from mri2qmap.denoiser.tensor_files import save_tensors
from mri2qmap.errors import Mri2QmapError
from mri2qmap.machine.folders import model_folders

_FORMAT = "mri2qmap denoiser 2"
_SUFFIX = ".safetensors"


class Task(StrEnum):
    """What a network is for."""

    WEIGHTED = "weighted"
    """Denoising weighted images: the prior of MRI2Qmap."""
    TSMI_NOISE = "tsmi_noise"
    """Removing white noise from TSMIs: the prior of MRF-PnP."""
    TSMI_ARTEFACTS = "tsmi_artefacts"
    """Removing what undersampling leaves in least-squares TSMIs: ARNet."""


@dataclass(frozen=True)
class Denoiser:
    """A network ready for use.

    Attributes
    ----------
    name : str
        Of the file, without suffix.
    network : ConditionalResidualUNet
        In evaluation mode, on its device.
    info : dict
        What the training recorded: steps, seconds, subjects and so on.
    """

    name: str
    network: ConditionalResidualUNet
    info: dict[str, object]

    @property
    def task(self) -> Task:
        """What it was trained for."""
        return _task(self.info)


def model_path(name: str) -> Path:
    """Find the file of a model.

    Parameters
    ----------
    name : str
        Name of a model of the project ("small"), or the path of a ``.safetensors`` file.

    Raises
    ------
    Mri2QmapError
        If there is no such file; the message lists what there is.
    """
    if name.endswith(_SUFFIX) or os.sep in name:
        try:
            there = Path(name).is_file()
        except (OSError, ValueError) as error:  # a folder that may not be entered
            raise Mri2QmapError(f"denoiser {name}: it cannot be read ({error})") from error
        if not there:
            raise Mri2QmapError(f"denoiser {name}: there is no such file")
        return Path(name)
    folders = [folder for folder in model_folders() if folder.is_dir()]
    for folder in folders:
        if (path := folder / f"{name}{_SUFFIX}").is_file():
            return path
    found = sorted({path.stem for folder in folders for path in folder.glob(f"*{_SUFFIX}")})
    raise Mri2QmapError(
        f"denoiser {name!r}: no {name}{_SUFFIX} in {' or '.join(map(str, model_folders()))};"
        f" available: {', '.join(found) or 'none'}; a path ending in {_SUFFIX} is accepted too"
    )


def save_denoiser(
    path: Path,
    network: ConditionalResidualUNet,
    info: Mapping[str, object],
    dtype: torch.dtype = torch.float32,
) -> None:
    """Write a network, its configuration and the history of its training.

    Parameters
    ----------
    path : Path
        The file; replaced in one step, so that it is never half written.
    network : ConditionalResidualUNet
        What to write.
    info : mapping
        Values that JSON can hold.
    dtype : torch.dtype
        Number format of the stored weights.
    """
    weights = {
        key: value.detach().to("cpu", dtype).contiguous()
        for key, value in network.state_dict().items()
    }
    metadata = {
        "format": _FORMAT,
        "config": json.dumps(dataclasses.asdict(network.config)),
        "info": json.dumps(dict(info)),
    }
    save_tensors(weights, path, metadata)


def models_for(task: Task) -> list[str]:
    """Names of the project's models that were trained for a task; files of no use are left out."""
    names = set()
    for path in (p for folder in model_folders() for p in folder.glob(f"*{_SUFFIX}")):
        with (
            suppress(SafetensorError, OSError, ValueError, KeyError, TypeError, AttributeError),
            safe_open(path, framework="pt") as file,
        ):
            if _task(json.loads(file.metadata()["info"])) is task:
                names.add(path.stem)
    return sorted(names)


def load_denoiser(
    name: str, device: torch.device | str = "cpu", task: Task = Task.WEIGHTED
) -> Denoiser:
    """Load a denoiser by name or path.

    A file that was loaded before and has not changed gives the same network again: leave it as it
    is.

    Parameters
    ----------
    name : str
        As :func:`model_path` takes it.
    device : torch.device or str
        Where the network goes.
    task : Task
        What it must have been trained for.

    Raises
    ------
    Mri2QmapError
        If there is no such file, it is not a whole and consistent denoiser, or it was trained for
        something else.
    """
    path = model_path(str(name))
    try:
        state = path.stat()
    except OSError as error:
        raise Mri2QmapError(f"denoiser {path}: it cannot be read ({error.strerror})") from error
    # The clock of a file system may tick too seldom to tell two versions apart.
    version = (state.st_mtime_ns, state.st_size, state.st_ino)
    denoiser = _load(path, version, torch.device(device))
    if denoiser.task is not task:
        raise Mri2QmapError(
            f"denoiser {name}: it was trained for the task {denoiser.task}, and {task} is needed"
            f" here; available: {', '.join(models_for(task)) or 'none'}"
        )
    return denoiser


def _task(info: Mapping[str, object]) -> Task:
    """Task in the history of a training; weights from before there were others lack it."""
    training = info.get("training")
    stored = training.get("task") if isinstance(training, dict) else None
    return Task(stored or Task.WEIGHTED)


@functools.lru_cache(maxsize=4)
def _load(path: Path, version: tuple[int, ...], device: torch.device) -> Denoiser:
    """Read a file; the version tells it from what it was before."""
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            weights = {key: file.get_tensor(key).float() for key in file.keys()}
    except PermissionError as error:
        raise Mri2QmapError(f"denoiser {path}: it cannot be read ({error})") from error
    except (SafetensorError, OSError, RuntimeError, ValueError) as error:
        raise Mri2QmapError(
            f"denoiser {path}: not a whole safetensors file ({error}); copy it again"
        ) from error
    if metadata.get("format") != _FORMAT:
        raise Mri2QmapError(
            f"denoiser {path}: its metadata has format {metadata.get('format')!r}, expected"
            f" {_FORMAT!r}; was it written by mri2qmap train?"
        )
    try:
        fields = current_setting_names(json.loads(metadata["config"]))
        for key, value in fields.items():
            fields[key] = tuple(value) if isinstance(value, list) else value
        config = DenoiserConfig(**fields)
        info = json.loads(metadata["info"])
        _task(info)  # refuses one that is not known
        network = ConditionalResidualUNet(config)
        network.load_state_dict(weights)
    except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
        raise Mri2QmapError(
            f"denoiser {path}: its configuration and its weights do not make a network ({error})"
        ) from error
    if not all(bool(torch.isfinite(value).all()) for value in weights.values()):
        raise Mri2QmapError(f"denoiser {path}: a weight is not finite; the training failed")
    return Denoiser(path.stem, network.to(device).eval().requires_grad_(False), info)
