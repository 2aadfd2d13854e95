"""``mri2qmap record-tsmi``: record TSMIs, to train networks that restore them."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from mri2qmap.cli.recordings import DICTIONARY_STEP, add_arguments, prepare, record_all
from mri2qmap.errors import Mri2QmapError

if TYPE_CHECKING:
    import numpy as np

    from mri2qmap.denoiser.tsmi_images import TsmiRecording

_EXAMPLE = """\
Each recording is a simulated, undersampled and noisy single-coil scan of a head with tissues,
texture and field of view of its own: its least-squares TSMI and the true one. The networks of ARNet
and MRF-PnP are trained on them (mri2qmap train --tsmi); ARNet's is for the acceleration and the
noise recorded. Give subjects for training and for validation alike: the configuration of the
training divides them. Calling the command again continues where it stopped: what is in DIR already
is kept, whatever it was made with, so take another folder for other settings.

example:
  mri2qmap record-tsmi --labels training_label_maps --subjects training_seg_02 training_seg_17 \\
      -o tsmis --count 60
  mri2qmap train models/arnet.yaml --tsmi tsmis -o out/arnet
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the command line."""
    parser = subparsers.add_parser(
        "record-tsmi",
        help="record TSMIs of simulated scans, to train on",
        description="Record TSMIs of simulated scans and their least-squares reconstructions.",
        epilog=_EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_arguments(parser, matrix=64)
    add = parser.add_argument
    add("--acceleration", type=float, default=2.0, metavar="R", help="R (default: 2)")
    add("--noise", type=float, default=0.25, metavar="X", help="as of simulate (default: 0.25)")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    for name in ("acceleration", "noise"):
        if not 0.01 <= getattr(args, name) <= 100:
            raise Mri2QmapError(f"--{name} {getattr(args, name):g}: expected 0.01 to 100")
    anatomies = prepare(args)

    from mri2qmap.denoiser.tsmi_images import tsmi_recording_path
    from mri2qmap.mrsignal.dictionary import DictionarySettings, load_dictionary
    from mri2qmap.mrsignal.sequence import default_sequence
    from mri2qmap.training.random_scans import ScanRanges
    from mri2qmap.training.record_tsmi import record_tsmi

    sequence = default_sequence()
    dictionary = load_dictionary(
        sequence, DictionarySettings(step=DICTIONARY_STEP), progress=args.report.progress
    )
    ranges = ScanRanges(
        matrix=args.matrix,
        acceleration=(args.acceleration,) * 2,
        noise=(args.noise,) * 2,
    )

    def record(subject: str, rng: np.random.Generator) -> TsmiRecording:
        return record_tsmi(anatomies[subject], sequence, dictionary, ranges, rng)

    record_all(args, lambda subject, number: tsmi_recording_path(args.out, subject, number), record)
    return 0
