"""``mri2qmap train``: train a denoiser on label maps, weighted images or TSMIs."""

from __future__ import annotations

import argparse
from pathlib import Path

from mri2qmap.cli.console import say
from mri2qmap.cli.thread_option import add_thread_option
from mri2qmap.cli.weighted_options import add_weighted_folders, weighted_folders
from mri2qmap.errors import Mri2QmapError
from mri2qmap.storage.atomic import why

_EXAMPLE = """\
Label maps are whole-head segmentations with FreeSurfer's labels, in NIfTI; weighted images are
synthesised from them. Acquired weighted images are NIfTI files in one folder for each contrast
(IXI002-Guys-0828-T1.nii.gz), or in one folder for each subject (100307/T1w.nii.gz); those of one
subject must lie on each other, by their affines. Any of the four folders will do; with label maps
and weighted images the configuration sets the share of each. Which subjects are for training,
validation or neither the configuration says, or a random draw, which OUT/subjects.yaml records.

Networks that restore TSMIs (the task of the configuration) learn from recorded ones alone: --tsmi.

OUT then holds the weights, the state of the training and its progress (progress.csv and .png).
Calling the command again with the same folder continues where it stopped.

examples:
  mri2qmap record-loop --labels training_label_maps --subjects training_seg_02 -o loops --count 20
  mri2qmap train models/small.yaml --labels training_label_maps --loop-errors loops -o out/small
  cp out/small/weights.safetensors models/small.safetensors
  mri2qmap train models/base.yaml --t1w HCP --t2w HCP --pdw IXI-PD --labels label_maps -o out/base
  torchrun --nproc-per-node 4 -m mri2qmap.cli.main train models/base.yaml --labels label_maps \\
      -o out/base        (four GPUs, each with a quarter of every batch)
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the command line."""
    parser = subparsers.add_parser(
        "train",
        help="train a denoiser on label maps or weighted images",
        description="Train a denoiser on weighted images, acquired or synthesised from label maps.",
        epilog=_EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("config", type=Path, metavar="CONFIG.yaml", help="what to train, and how")
    add("--labels", type=Path, metavar="DIR", help="folder of label maps")
    add_weighted_folders(parser)
    add("--loop-errors", type=Path, metavar="DIR", help="recorded inputs (mri2qmap record-loop)")
    add("--tsmi", type=Path, metavar="DIR", help="recorded TSMIs (mri2qmap record-tsmi)")
    add("--initial", metavar="MODEL", help="denoiser to begin with, of this shape")
    add(
        "-o", "--out", type=Path, required=True, help="folder for the weights and all else, created"
    )
    add("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: auto)")
    add_thread_option(parser)
    add("--max-minutes", type=float, help="stop after this time, ready to be continued")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the command; 0 also when it stopped in time, ready to be continued."""
    import torch

    try:
        from mri2qmap.training.training import train
        from mri2qmap.training.training_config import read_training_config
        from mri2qmap.training.training_data import TrainingFolders
    except ModuleNotFoundError as error:
        raise Mri2QmapError(
            f"training needs {error.name}; install the extra: pip install 'mri2qmap[train]'"
        ) from error
    from mri2qmap.machine.devices import select_device
    from mri2qmap.machine.process_group import ProcessGroup

    if args.max_minutes is not None and not args.max_minutes > 0:
        raise Mri2QmapError(f"--max-minutes {args.max_minutes}: expected a positive number")
    processes = ProcessGroup.from_environment()
    device = select_device(processes.device_name(args.device, torch.cuda.is_available()))
    config = read_training_config(args.config)
    folders = TrainingFolders(args.labels, weighted_folders(args), args.loop_errors, args.tsmi)
    try:
        train(
            config,
            folders,
            args.out,
            device,
            max_minutes=args.max_minutes,
            initial=args.initial,
            processes=processes,
            log=say,  # a training does not fail over it
        )
    except OSError as error:
        raise Mri2QmapError(f"training into {args.out}: {why(error)}") from error
    return 0
