"""Pulseq sequence files (.seq): the fingerprinting train that one plays.

The open file format of Pulseq, versions 1.2 to 1.5, is read as text from its specification (Layton
et al., Magn Reson Med 77, 1544, 2017; https://pulseq.github.io/specification.pdf).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mri2qmap.machine.lazy_exports import lazy_exports

if TYPE_CHECKING:
    from mri2qmap.pulseq.train import PulseqTrain, read_train

__all__ = ["PulseqTrain", "read_train"]

__getattr__, __dir__ = lazy_exports(__name__, {"PulseqTrain": "train", "read_train": "train"})
