"""Record true TSMIs of simulated heads and their least-squares reconstructions, for training."""

from __future__ import annotations

import numpy as np

from mri2qmap.anatomy.label_maps import LabelMap
from mri2qmap.denoiser.tsmi_images import TsmiRecording, TsmiUnits
from mri2qmap.mrsignal.dictionary import Dictionary
from mri2qmap.mrsignal.sequence import Sequence
from mri2qmap.training.random_scans import ScanRanges, draw_scan


def record_tsmi(
    anatomy: LabelMap,
    sequence: Sequence,
    dictionary: Dictionary,
    ranges: ScanRanges,
    rng: np.random.Generator,
) -> TsmiRecording:
    """Simulate a scan of a head and reconstruct it as `toeplitz_cg` does without a prior.

    Parameters
    ----------
    anatomy
        Label map of the head.
    sequence, dictionary
        Sequence, and dictionary with its subspace.
    ranges
        Ranges of the parameters of the scan.
    rng
        Random number generator.

    Raises
    ------
    Mri2QmapError
        If all fields of view drawn are almost empty.
    """
    scan = draw_scan(anatomy, sequence, dictionary, ranges, rng)
    least_squares = scan.problem.solve()
    units = TsmiUnits.of(least_squares)
    return TsmiRecording(
        units.images(scan.truth).half(),
        units.images(least_squares).half(),
        tuple(sequence.numbers().tolist()),
    )
