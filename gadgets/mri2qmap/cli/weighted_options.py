"""Options of the folders of acquired weighted images, the same in every command."""

from __future__ import annotations

import argparse
from pathlib import Path

_CONTRASTS = ("T1w", "T2w", "PDw")  # `Contrast`, without the import of PyTorch


def add_weighted_folders(parser: argparse._ActionsContainer) -> None:
    """Add ``--t1w``, ``--t2w`` and ``--pdw``."""
    for contrast in _CONTRASTS:
        parser.add_argument(
            f"--{contrast.lower()}",
            type=Path,
            metavar="DIR",
            help=f"folder of acquired {contrast} images",
        )


def weighted_folders(args: argparse.Namespace) -> dict[str, Path]:
    """Contrast -> folder, for the options that were given; see `find_weighted_files`."""
    folders = {contrast: getattr(args, contrast.lower()) for contrast in _CONTRASTS}
    return {contrast: folder for contrast, folder in folders.items() if folder is not None}
