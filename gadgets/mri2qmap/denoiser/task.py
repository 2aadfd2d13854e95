"""What networks are trained for."""

from __future__ import annotations

from enum import StrEnum


class Task(StrEnum):
    """What a network is for."""

    WEIGHTED = "weighted"
    """Denoising weighted images: the prior of MRI2Qmap."""
    TSMI_NOISE = "tsmi_noise"
    """Removing white noise from TSMIs: the prior of MRF-PnP."""
    TSMI_ARTEFACTS = "tsmi_artefacts"
    """Removing what undersampling leaves in least-squares TSMIs: ARNet."""
