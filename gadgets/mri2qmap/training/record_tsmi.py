"""Record TSMIs of simulated heads and their least-squares reconstructions, to train networks on."""

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
    """Scan a head and reconstruct it as `toeplitz_cg` does before any prior.

    Parameters
    ----------
    anatomy
        The head.
    sequence, dictionary
        What is measured, and its subspace.
    ranges
        What the scan is drawn from.
    rng
        Source of everything random.

    Raises
    ------
    Mri2QmapError
        If no field of view that is drawn shows much of the head.
    """
    scan = draw_scan(anatomy, sequence, dictionary, ranges, rng)
    least_squares = scan.problem.solve()
    units = TsmiUnits.of(least_squares)
    return TsmiRecording(
        units.images(scan.truth).half(),
        units.images(least_squares).half(),
        tuple(sequence.numbers().tolist()),
    )
