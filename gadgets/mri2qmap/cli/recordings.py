"""What the commands that record simulated reconstructions have in common."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from mri2qmap.cli.console import say
from mri2qmap.cli.thread_option import add_thread_option
from mri2qmap.errors import Mri2QmapError
from mri2qmap.storage.atomic import cannot_write

if TYPE_CHECKING:
    import numpy as np

    from mri2qmap.anatomy.label_maps import LabelMap

SMALLEST_MATRIX = 16
DICTIONARY_STEP = 0.06
"""Ratio of neighbouring T1 and T2 values minus one: coarse, for the sake of speed."""


class Recording(Protocol):
    """What can be written to a file, whole or not at all."""

    def save(self, path: Path) -> None:
        """Write the file."""


def add_arguments(parser: argparse.ArgumentParser, matrix: int) -> None:
    """Add the arguments that they share, with a default matrix."""
    add = parser.add_argument
    add("--labels", type=Path, required=True, metavar="DIR", help="folder of label maps (NIfTI)")
    add("--subjects", nargs="+", required=True, metavar="NAME", help="label maps, taken in turn")
    add("-o", "--out", type=Path, required=True, metavar="DIR", help="folder of the recordings")
    add("--count", type=int, default=100, metavar="N", help="recordings (default: 100)")
    add("--first", type=int, default=0, metavar="N", help="number of the first one (default: 0)")
    add(
        "--matrix",
        type=int,
        default=matrix,
        metavar="N",
        help="voxels along each side (default: %(default)s)",
    )
    add("--seed", type=int, default=0, metavar="N", help="of everything random (default: 0)")
    add_thread_option(parser)


def prepare(args: argparse.Namespace) -> dict[str, LabelMap]:
    """Check the arguments, set the threads and read the label maps of the subjects.

    Raises
    ------
    Mri2QmapError
        If a number is out of range, or a label map is missing or cannot be read.
    """
    lowest = {"count": 1, "first": 0, "matrix": SMALLEST_MATRIX, "seed": 0}
    for name, least in lowest.items():
        value = getattr(args, name)
        if value is not None and value < least:
            raise Mri2QmapError(f"--{name} {value}: expected {least} or more")

    from mri2qmap.anatomy.label_maps import label_maps_of, load_label_map

    return {
        name: load_label_map(path)
        for name, path in label_maps_of(args.labels, args.subjects).items()
    }


def record_all(
    args: argparse.Namespace,
    path_of: Callable[[str, int], Path],
    record: Callable[[str, np.random.Generator], Recording],
) -> None:
    """Make the recordings that are not there yet.

    Parameters
    ----------
    args
        With the arguments of `add_arguments`.
    path_of
        File of a recording: subject and number.
    record
        Makes a recording of a subject, with a generator that depends on seed and number alone.

    Raises
    ------
    Mri2QmapError
        If a file cannot be written.
    """
    import numpy as np

    numbers = range(args.first, args.first + args.count)
    files = {}
    for number in numbers:
        subject = args.subjects[number % len(args.subjects)]
        files[number] = subject, path_of(subject, number)
    missing = [number for number, (_, path) in files.items() if not path.exists()]
    try:
        args.out.mkdir(parents=True, exist_ok=True)
        for number in args.report.progress(missing, "recordings"):
            subject, path = files[number]
            record(subject, np.random.default_rng([args.seed, number])).save(path)
    except OSError as error:
        raise cannot_write(f"output {args.out}", error) from error
    say(f"{args.out}: recordings {numbers[0]} to {numbers[-1]}, {len(missing)} of them new")
