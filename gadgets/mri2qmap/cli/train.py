"""``mri2qmap train``: train a denoiser on images synthesised from label maps."""

from __future__ import annotations

import argparse
from pathlib import Path

from mri2qmap.errors import Mri2QmapError

_EXAMPLE = """\
The label maps are whole-head FreeSurfer-style segmentations in NIfTI, named in the configuration
(models/small.yaml). Calling the command again with the same folder continues where it stopped.

example:
  mri2qmap train models/small.yaml --labels training_label_maps -o out/small --threads 2
  cp out/small/weights.safetensors models/small.safetensors
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the command line."""
    parser = subparsers.add_parser(
        "train",
        help="train a denoiser on images synthesised from label maps",
        description="Train a denoiser on weighted images synthesised from label maps.",
        epilog=_EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("config", type=Path, metavar="CONFIG.yaml", help="what to train, and how")
    parser.add_argument("--labels", type=Path, required=True, help="folder of the label maps")
    parser.add_argument(
        "-o", "--out", type=Path, required=True, help="folder for checkpoints and the weights"
    )
    parser.add_argument("--device", default="cpu", help="torch device (default: cpu)")
    parser.add_argument("--threads", type=int, help="CPU threads (default: all)")
    parser.add_argument(
        "--max-minutes", type=float, help="stop after this time, ready to be continued"
    )
    parser.add_argument("--initial", metavar="MODEL", help="denoiser to begin with, of this shape")
    parser.add_argument(
        "--loop-errors", type=Path, metavar="DIR", help="recorded inputs (mri2qmap record-loop)"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the command; 0 also when it stopped in time, ready to be continued."""
    import torch

    try:
        from mri2qmap.denoiser.training import train
        from mri2qmap.denoiser.training_config import read_training_config
    except ModuleNotFoundError as error:
        raise Mri2QmapError(
            f"training needs {error.name}; install the extra: pip install 'mri2qmap[train]'"
        ) from error
    if args.threads is not None:
        if args.threads < 1:
            raise Mri2QmapError(f"--threads {args.threads}: expected 1 or more")
        torch.set_num_threads(args.threads)
    if args.max_minutes is not None and args.max_minutes <= 0:
        raise Mri2QmapError(f"--max-minutes {args.max_minutes}: expected a positive number")
    try:
        device = torch.device(args.device)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise Mri2QmapError(f"--device {args.device}: not usable here ({error})") from error
    config = read_training_config(args.config)
    try:
        train(
            config,
            args.labels,
            args.out,
            device,
            args.max_minutes,
            args.initial,
            args.loop_errors,
        )
    except OSError as error:
        raise Mri2QmapError(f"training into {args.out}: {error}") from error
    return 0
