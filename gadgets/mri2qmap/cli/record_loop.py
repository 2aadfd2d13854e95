"""``mri2qmap record-loop``: record what the denoiser is given inside reconstructions."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from mri2qmap.cli.recordings import DICTIONARY_STEP, add_arguments, prepare, record_all

if TYPE_CHECKING:
    import numpy as np

    from mri2qmap.training.admm_recordings import AdmmRecording

_EXAMPLE = """\
Each recording is a simulated, undersampled and noisy scan of a head with tissues, texture, field of
view, sampling and noise of its own, reconstructed with the given denoiser as the prior; its truth
is recorded beside it. Training on such inputs (mri2qmap train --loop-errors) makes a denoiser fit
for its work. Use subjects that are for training. A recording depends on the seed, its number, the
subjects and the denoiser alone. Calling the command again continues where it stopped: what is in
DIR already is kept, whatever it was made with, so take another folder for other settings.

example:
  mri2qmap record-loop --labels training_label_maps --subjects training_seg_02 training_seg_03 \\
      --denoiser small -o recordings --count 200
  mri2qmap train my.yaml --labels training_label_maps --loop-errors recordings -o out/mine
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the command line."""
    parser = subparsers.add_parser(
        "record-loop",
        help="record the inputs of the denoiser in reconstructions, to train on",
        description="Record what the denoiser is given inside reconstructions of simulated scans.",
        epilog=_EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_arguments(parser, matrix=32)
    parser.add_argument(
        "--denoiser", default="small", metavar="MODEL", help="name or path (default: small)"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    anatomies = prepare(args)

    from mri2qmap.denoiser.checkpoint import load_denoiser
    from mri2qmap.mrsignal.dictionary import DictionarySettings, load_dictionary
    from mri2qmap.mrsignal.sequence import default_sequence
    from mri2qmap.training.admm_recordings import recording_path
    from mri2qmap.training.record_admm import RecordingSettings, record_admm

    network = load_denoiser(args.denoiser).network
    sequence = default_sequence()
    dictionary = load_dictionary(
        sequence, DictionarySettings(step=DICTIONARY_STEP), progress=args.report.progress
    )
    settings = RecordingSettings(matrix=args.matrix)

    def record(subject: str, rng: np.random.Generator) -> AdmmRecording:
        return record_admm(anatomies[subject], network, sequence, dictionary, settings, rng)

    record_all(args, lambda _, number: recording_path(args.out, f"{number:06d}"), record)
    return 0
