"""Denoisers in safetensors files, each with its weights, configuration and training history."""

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
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from mri2qmap.denoiser.network import ConditionalResidualUNet, DenoiserConfig
from mri2qmap.errors import Mri2QmapError
from mri2qmap.machine.file_access import MODEL_SUFFIX, is_model_path
from mri2qmap.machine.folders import model_folders
from mri2qmap.storage.tensor_files import save_tensors

_FORMAT = "mri2qmap denoiser 2"
#: Former names of settings, which saved configurations may contain.
_FORMER_NAMES = {"first_estimates": "prefilter"}


class Task(StrEnum):
    """Purpose that a network was trained for."""

    WEIGHTED = "weighted"
    """Denoising of weighted images: the prior of MRI2Qmap."""
    TSMI_NOISE = "tsmi_noise"
    """Removal of white noise from TSMIs: the prior of MRF-PnP."""
    TSMI_ARTEFACTS = "tsmi_artefacts"
    """Removal of undersampling artefacts from least-squares TSMIs: ARNet."""


@dataclass(frozen=True)
class Denoiser:
    """A network ready for inference.

    Attributes
    ----------
    name : str
        File name without suffix.
    network : ConditionalResidualUNet
        Network in evaluation mode, on its device.
    info : dict
        Training history from the file: steps, seconds, subjects and more.
    """

    name: str
    network: ConditionalResidualUNet
    info: dict[str, object]

    @property
    def task(self) -> Task:
        """Purpose that the network was trained for."""
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
        If the file does not exist or cannot be accessed; the message lists the available models.
    """
    if is_model_path(name):
        try:
            exists = Path(name).is_file()
        except (OSError, ValueError) as error:  # for example a folder without permission
            raise Mri2QmapError(f"denoiser {name}: it cannot be read ({error})") from error
        if not exists:
            raise Mri2QmapError(f"denoiser {name}: no such file")
        return Path(name)
    folders = [folder for folder in model_folders() if folder.is_dir()]
    for folder in folders:
        if os.path.isfile(path := folder / f"{name}{MODEL_SUFFIX}"):  # False for any odd name
            return path
    found = sorted({path.stem for folder in folders for path in folder.glob(f"*{MODEL_SUFFIX}")})
    raise Mri2QmapError(
        f"denoiser {name!r}: no {name}{MODEL_SUFFIX} in {' or '.join(map(str, model_folders()))};"
        f" available: {', '.join(found) or 'none'}; a path ending in {MODEL_SUFFIX} is accepted too"
    )


def save_denoiser(
    path: Path,
    network: ConditionalResidualUNet,
    info: Mapping[str, object],
    dtype: torch.dtype = torch.float32,
) -> None:
    """Write a network, its configuration and its training history.

    Parameters
    ----------
    path : Path
        Output file. It is replaced atomically.
    network : ConditionalResidualUNet
        Network to store.
    info : mapping
        Training history; values must be serialisable as JSON.
    dtype : torch.dtype
        Data type of the stored weights.
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
    """Return the names of the project's models for a task; unreadable files are skipped."""
    names = set()
    for path in (p for folder in model_folders() for p in folder.glob(f"*{MODEL_SUFFIX}")):
        with (
            suppress(SafetensorError, OSError, ValueError, KeyError, TypeError, AttributeError),
            safe_open(path, framework="pt") as file,
        ):
            if _task(json.loads(file.metadata()["info"])) is task:
                names.add(path.stem)
    return sorted(names)


def load_denoiser(
    name: str,
    device: torch.device | str = "cpu",
    task: Task = Task.WEIGHTED,
    patch: int | None = None,
) -> Denoiser:
    """Load a denoiser by name or path.

    The result is cached until the file changes. Callers must not modify the network.

    Parameters
    ----------
    name : str
        Name or path, see :func:`model_path`.
    device : torch.device or str
        Device of the network.
    task : Task
        Purpose that the network must have been trained for.
    patch : int, optional
        Side of the patches it will be given [voxels].

    Raises
    ------
    Mri2QmapError
        If the file does not exist, is damaged or inconsistent, or holds a network for another task
        or for larger patches.
    """
    path = model_path(str(name))
    try:
        state = path.stat()
    except OSError as error:
        raise Mri2QmapError(f"denoiser {path}: it cannot be read ({error.strerror})") from error
    # File times may be too coarse to distinguish two versions; size and inode are compared too.
    version = (state.st_mtime_ns, state.st_size, state.st_ino)
    denoiser = _load(path, version, torch.device(device))
    if denoiser.task is not task:
        raise Mri2QmapError(
            f"denoiser {name}: it was trained for the task {denoiser.task}, but {task} is required;"
            f" available: {', '.join(models_for(task)) or 'none'}"
        )
    if patch is not None and patch < (least := denoiser.network.config.size_multiple):
        raise Mri2QmapError(
            f"denoiser {name}: patches of {patch} voxels are too small for it; set patch={least} or"
            " more"
        )
    return denoiser


def current_setting_names(saved: Mapping[str, Any]) -> dict[str, Any]:
    """Return saved settings of a `DenoiserConfig` under their current names.

    Raises
    ------
    ValueError
        If a setting is given under its former and its current name.
    """
    settings: dict[str, Any] = {}
    for name, value in saved.items():
        current = _FORMER_NAMES.get(name, name)
        if current in settings:
            raise ValueError(f"network: {current} is given twice, also under a former name")
        settings[current] = value
    return settings


def _task(info: Mapping[str, object]) -> Task:
    """Return the task in a training history; the first checkpoints do not name one."""
    training = info.get("training")
    stored = training.get("task") if isinstance(training, dict) else None
    return Task(stored or Task.WEIGHTED)


@functools.lru_cache(maxsize=4)
def _load(path: Path, version: tuple[int, ...], device: torch.device) -> Denoiser:
    """Read a file. ``version`` identifies its content in the cache."""
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            weights = {key: file.get_tensor(key).float() for key in file.keys()}
    except PermissionError as error:
        raise Mri2QmapError(f"denoiser {path}: it cannot be read ({error})") from error
    except (SafetensorError, OSError, RuntimeError, ValueError) as error:
        raise Mri2QmapError(
            f"denoiser {path}: damaged or incomplete safetensors file ({error}); copy it again"
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
        _task(info)  # raises ValueError for an unknown task
        network = ConditionalResidualUNet(config)
        network.load_state_dict(weights)
    except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
        raise Mri2QmapError(
            f"denoiser {path}: its configuration and weights do not form a valid network ({error})"
        ) from error
    if not all(bool(torch.isfinite(value).all()) for value in weights.values()):
        raise Mri2QmapError(f"denoiser {path}: a weight is not finite; the training diverged")
    return Denoiser(path.stem, network.to(device).eval().requires_grad_(False), info)
