"""``mri2qmap evaluate``: compare maps with the truth of a simulation."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from mri2qmap.errors import Mri2QmapError

_EXAMPLE = """\
Errors are means over voxels that white or grey matter fills to more than 90 %. The floors are the
errors of matching the true images: as they are, and kept to the sphere of k-space that spiral
projections sample.

example:
  mri2qmap evaluate maps --truth truth --json metrics.json
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the command line."""
    parser = subparsers.add_parser(
        "evaluate",
        help="compare maps with the truth of a simulation",
        description="Compare the maps of a replay with the truth of the simulated scan.",
        epilog=_EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("output", type=Path, metavar="OUTDIR", help="folder written by replay")
    parser.add_argument(
        "--truth", type=Path, required=True, metavar="DIR", help="folder written by simulate"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers here too")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    if not args.output.is_dir():
        raise Mri2QmapError(
            f"{args.output}: there is no such folder; the one that mri2qmap replay wrote is "
            "expected"
        )
    from mri2qmap.evaluation.evaluate import evaluate_folders

    result = evaluate_folders(args.output, args.truth)
    print(table(result))
    if args.json is not None:
        text = json.dumps(result, indent=2, allow_nan=False) + "\n"
        scratch = args.json.with_name(f".{args.json.name}.partial")
        try:
            scratch.write_text(text, encoding="utf-8")
            scratch.replace(args.json)
        except OSError as error:
            scratch.unlink(missing_ok=True)
            raise Mri2QmapError(f"--json {args.json}: it cannot be written ({error})") from error
    return 0


def table(result: dict[str, Any]) -> str:
    """Lay the numbers out for people."""
    lines = [f"{'MAPE, white and grey matter [%]':34}{'T1':>8}{'T2':>8}{'T1+T2':>8}"]
    for name, prefix in (
        ("maps", "mape"),
        ("floor: matching the truth", "floor_matching"),
        ("floor: truth in sampled sphere", "floor_sphere"),
    ):
        values = (result[f"{prefix}_{key}"] for key in ("t1", "t2", "t1_t2"))
        lines.append(f"  {name:32}" + "".join(_cell(v, 8, 1) for v in values))
    lines += ["", f"{'median (truth)':20}{'T1 [ms]':>16}{'T2 [ms]':>16}{'T1 [%]':>9}{'T2 [%]':>9}"]
    for name, tissue in result["tissues"].items():
        cells = "".join(
            f"{_milliseconds(tissue, f'{key}_median', f'{key}_true'):>16}" for key in ("t1", "t2")
        )
        errors = "".join(_cell(tissue.get(f"mape_{key}"), 9, 1) for key in ("t1", "t2"))
        lines.append(f"  {name.replace('_', ' '):18}{cells}{errors}")
    lines += ["", f"{'synthesised images':20}{'T1w':>8}{'T2w':>8}{'PDw':>8}"]
    for name, key in (("PSNR [dB]", "psnr"), ("SSIM [%]", "ssim")):
        values = (result[f"{key}_{contrast}"] for contrast in ("t1w", "t2w", "pdw"))
        lines.append(f"  {name:18}" + "".join(_cell(v, 8, 1) for v in values))
    lines += ["", f"TSMI cosine distance [%]{_cell(result['cosine_distance'], 8, 2)}"]
    return "\n".join(lines)


def _cell(value: float | None, width: int, digits: int) -> str:
    return f"{'-':>{width}}" if value is None else f"{value:{width}.{digits}f}"


def _milliseconds(tissue: dict[str, Any], found: str, true: str) -> str:
    if found not in tissue:
        return "-"
    return f"{1e3 * tissue[found]:.0f} ({1e3 * tissue[true]:.0f})"
