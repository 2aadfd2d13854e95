"""`mri2qmap anatomy`: quantitative maps with texture and lesions, to be simulated."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mri2qmap.cli.console import say

if TYPE_CHECKING:
    from mri2qmap.anatomy.quantitative_maps import QuantitativeMaps

_DESCRIPTION = """\
Make a folder of quantitative maps, T1map, T2map and PDmap with masks of the tissues, whose every
voxel has its own values: mri2qmap simulate --anatomy FOLDER scans it.

--labels draws a textured brain from a label map of FreeSurfer: variation within tissues, gradual
borders, vessels, iron. --t1w makes maps from images of a head without skull: real structure, times
mapped from the intensities. Lesions of graded size and contrast are drawn into the white matter.
"""

_EXAMPLES = """\
examples:
  mri2qmap anatomy --labels training_seg_18.nii.gz -o textured_18/
  mri2qmap anatomy --t1w T1w_brain.nii.gz --t2w T2w_brain.nii.gz -o head/ --no-lesions
  mri2qmap simulate scan.h5 --anatomy textured_18/ --truth truth/
"""


def add_parser(subparsers: Any) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser(
        "anatomy",
        help="make quantitative maps with texture and lesions, for simulate",
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--labels", metavar="NIFTI", type=Path, help="label map of a head")
    source.add_argument(
        "--t1w", metavar="NIFTI", type=Path, help="T1-weighted image, zero outside the brain"
    )
    parser.add_argument(
        "--t2w", metavar="NIFTI", type=Path, help="with --t1w: T2-weighted image of the same head"
    )
    parser.add_argument(
        "-o", "--output", metavar="FOLDER", type=Path, required=True, help="folder to make"
    )
    parser.add_argument(
        "--strength",
        type=float,
        help="with --labels: factor of the variation within tissues (1: as published)",
    )
    parser.add_argument("--no-lesions", action="store_true", help="draw no lesions")
    parser.add_argument(
        "--lesion-radius",
        metavar="MM",
        type=float,
        default=float("inf"),
        help="largest distance of the lesions from the centre of the brain (default: anywhere)",
    )
    parser.add_argument("--seed", type=int, default=0, help="of all random numbers (%(default)s)")
    parser.add_argument(
        "--overwrite", action="store_true", help="replace FOLDER if it holds such maps and no more"
    )


def run(args: argparse.Namespace) -> int:
    """Run the subcommand."""
    from mri2qmap.anatomy.quantitative_maps import RECORD, write_quantitative_maps
    from mri2qmap.errors import Mri2QmapError
    from mri2qmap.storage.folder_place import FolderPlace

    if args.t2w is not None and args.t1w is None:
        raise Mri2QmapError("--t2w is for --t1w: name the T1-weighted image too")
    if args.strength is not None and (args.labels is None or not 0 <= args.strength <= 5):
        raise Mri2QmapError(f"--strength {args.strength}: 0 to 5 is expected, with --labels")
    if not args.lesion_radius > 0:
        raise Mri2QmapError(
            f"--lesion-radius {args.lesion_radius}: a positive distance is expected"
        )
    if args.seed < 0:
        raise Mri2QmapError(f"--seed {args.seed}: 0 or more is expected")
    inputs = {name: getattr(args, name) for name in ("labels", "t1w", "t2w")}
    given = {name: path for name, path in inputs.items() if path is not None}
    place = FolderPlace(
        args.output, RECORD, overwrite=args.overwrite, what="anatomy", inputs=given, room=0
    )
    try:
        maps = _maps(args)
        write_quantitative_maps(place.partial, maps, {"command": args.command})
        place.put_in_place()
    finally:
        place.remove()
    lesions = ", ".join(lesion.name for lesion in maps.lesions) or "none"
    say(f"{args.output}: maps written; lesions: {lesions}")
    return 0


def _maps(args: argparse.Namespace) -> QuantitativeMaps:
    import numpy as np
    from scipy import ndimage

    from mri2qmap.anatomy.lesions import LESIONS
    from mri2qmap.anatomy.texture import TextureSettings, textured_anatomy, with_lesions
    from mri2qmap.anatomy.weighted_maps import weighted_maps

    lesions = () if args.no_lesions else LESIONS
    if args.labels is not None:
        strength = 1.0 if args.strength is None else args.strength
        settings = TextureSettings(
            strength=strength, lesions=lesions, lesion_radius_mm=args.lesion_radius
        )
        return textured_anatomy(args.labels, settings, args.seed)
    maps = weighted_maps(args.t1w, args.t2w)
    if not lesions:
        return maps
    # Without the holes that noise leaves in the mask.
    where = ndimage.median_filter(maps.white_matter.astype(np.uint8), size=3) > 0
    rng = np.random.default_rng(args.seed)
    return with_lesions(maps, lesions, where, args.lesion_radius, rng)
