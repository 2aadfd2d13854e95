"""The option ``--threads`` of commands that compute."""

from __future__ import annotations

import argparse

from mri2qmap.errors import Mri2QmapError

MOST_THREADS = 1024


def add_thread_option(parser: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    """Add ``--threads``."""
    parser.add_argument(
        "--threads",
        type=int,
        metavar="N",
        help="CPU threads (default: the cores that this process may use, or OMP_NUM_THREADS)",
    )


def set_threads(args: argparse.Namespace) -> None:
    """Use as many threads as ``--threads`` says, if the command has it and it was given.

    Raises
    ------
    Mri2QmapError
        If the number is not positive, or so large that libraries fail.
    """
    threads = getattr(args, "threads", None)
    if threads is None:
        return
    if not 1 <= threads <= MOST_THREADS:
        raise Mri2QmapError(f"--threads {threads}: expected 1 to {MOST_THREADS}")
    import torch

    torch.set_num_threads(threads)
