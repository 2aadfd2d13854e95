"""Training of denoisers: data, random scans, optimisation and validation."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mri2qmap.machine.lazy_exports import lazy_exports

if TYPE_CHECKING:
    from mri2qmap.training.record_admm import RecordingSettings
    from mri2qmap.training.training import train
    from mri2qmap.training.training_config import TrainingConfig, read_training_config

__all__ = [
    "RecordingSettings",
    "TrainingConfig",
    "read_training_config",
    "train",
]

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "RecordingSettings": "record_admm",
        "TrainingConfig": "training_config",
        "read_training_config": "training_config",
        "train": "training",
    },
)
