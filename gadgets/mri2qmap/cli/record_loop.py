"""``mri2qmap record-loop``: record what the denoiser is given inside reconstructions."""

from __future__ import annotations

import argparse
from pathlib import Path

from mri2qmap.errors import Mri2QmapError

SMALLEST_MATRIX = 16
DICTIONARY_STEP = 0.06
"""Ratio of neighbouring T1 and T2 values minus one: coarse, for the sake of speed."""

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
    add = parser.add_argument
    add("--labels", type=Path, required=True, metavar="DIR", help="folder of label maps (NIfTI)")
    add("--subjects", nargs="+", required=True, metavar="NAME", help="label maps, taken in turn")
    add("--denoiser", default="small", metavar="MODEL", help="name or path (default: small)")
    add("-o", "--out", type=Path, required=True, metavar="DIR", help="folder of the recordings")
    add("--count", type=int, default=100, metavar="N", help="recordings (default: 100)")
    add("--first", type=int, default=0, metavar="N", help="number of the first one (default: 0)")
    add("--matrix", type=int, default=32, metavar="N", help="voxels along a side (default: 32)")
    add("--seed", type=int, default=0, metavar="N", help="of everything random (default: 0)")
    add("--threads", type=int, metavar="N", help="CPU threads (default: all)")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    lowest = {"count": 1, "first": 0, "matrix": SMALLEST_MATRIX, "seed": 0, "threads": 1}
    for name, least in lowest.items():
        value = getattr(args, name)
        if value is not None and value < least:
            raise Mri2QmapError(f"--{name} {value}: expected {least} or more")
    import numpy as np
    import torch

    from mri2qmap.denoiser.checkpoint import load_denoiser
    from mri2qmap.denoiser.label_maps import label_maps_of, load_label_map
    from mri2qmap.denoiser.loop_errors import recording_path
    from mri2qmap.mrsignal.dictionary import DictionarySettings, load_dictionary
    from mri2qmap.mrsignal.sequence import default_sequence
    from mri2qmap.simulation.loop_recording import RecordingSettings, record_loop

    if args.threads is not None:
        torch.set_num_threads(args.threads)
    label_maps = label_maps_of(args.labels, args.subjects)
    network = load_denoiser(args.denoiser).network
    anatomies = {name: load_label_map(path) for name, path in label_maps.items()}
    sequence = default_sequence()
    dictionary = load_dictionary(
        sequence, DictionarySettings(step=DICTIONARY_STEP), progress=args.report.progress
    )
    settings = RecordingSettings(matrix=args.matrix)
    try:
        args.out.mkdir(parents=True, exist_ok=True)
        numbers = range(args.first, args.first + args.count)
        paths = {number: recording_path(args.out, f"{number:06d}") for number in numbers}
        missing_numbers = [number for number, path in paths.items() if not path.exists()]
        for number in args.report.progress(missing_numbers, "recordings"):
            anatomy = anatomies[args.subjects[number % len(args.subjects)]]
            rng = np.random.default_rng([args.seed, number])
            recording = record_loop(anatomy, network, sequence, dictionary, settings, rng)
            recording.save(paths[number])
    except OSError as error:
        raise Mri2QmapError(f"output {args.out}: it cannot be written ({error})") from error
    print(
        f"{args.out}: recordings {numbers[0]} to {numbers[-1]}, {len(missing_numbers)} of them new"
    )
    return 0
