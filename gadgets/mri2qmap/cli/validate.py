"""`mri2qmap validate`: whether a scan and a pipeline fit, before a run."""

from __future__ import annotations

import argparse
import json
import shutil
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mri2qmap.cli.replay import (
    DEFAULT_PIPELINE,
    add_scan_options,
    add_set_option,
    parse_overrides,
)
from mri2qmap.cli.thread_option import add_thread_option

if TYPE_CHECKING:
    from mri2qmap.pipeline.findings import Finding
    from mri2qmap.validation.result import Validation

DOES_NOT_FIT = 3
"""Exit code for a scan or pipeline with an error."""

_DESCRIPTION = """\
Check an ISMRMRD scan and a pipeline before a run: what the scan is, what does not fit and what to
do, the settings that are not the default, and memory and time of the run on this machine. mri2qmap
replay makes the same checks first.

Exit code: 0 when the scan fits (warnings and hints are allowed), 3 when it does not, 2 for wrong
arguments.
"""

_EXAMPLES = """\
examples:
  mri2qmap validate scan.h5
  mri2qmap validate scan.h5 --pipeline mrf_admm --set pnp_admm.iterations=20
  mri2qmap validate meas.h5 --scan-profile siemens
  mri2qmap validate scan.h5 --json | jq -r '.findings[].code'
"""

_LABEL = 16
"""Columns of the labels."""
_WIDEST = 100
"""Most columns."""


def add_parser(subparsers: Any) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser(
        "validate",
        help="check a scan and a pipeline before a run",
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("scan", metavar="SCAN", type=Path, help="raw data, as for replay")
    add_scan_options(parser)
    parser.add_argument(
        "-p",
        "--pipeline",
        metavar="XML",
        default=DEFAULT_PIPELINE,
        help="pipeline file, or the name of one in pipelines/ (default: %(default)s)",
    )
    parser.add_argument(
        "--device", default="auto", help="auto, cpu, cuda or cuda:N (default: %(default)s)"
    )
    add_thread_option(parser)
    add_set_option(parser)
    parser.add_argument(
        "--memory",
        metavar="SIZE",
        help="what the reconstruction may take, such as 11GB, 11GiB or 11000000000B; without a "
        "unit in GiB (default: what is free)",
    )
    parser.add_argument(
        "--no-time",
        action="store_false",
        dest="with_time",
        help="do not estimate the time, which takes a few seconds",
    )
    parser.add_argument(
        "--json", action="store_true", help="write one JSON document, with all settings"
    )


def run(args: argparse.Namespace) -> int:
    """Run the subcommand."""
    from mri2qmap.api.validation import validate
    from mri2qmap.cli.serving import memory_of

    result = validate(
        args.scan,
        args.pipeline,
        args.device,
        parse_overrides(args.overrides),
        args.group,
        memory_of(args.memory),
        args.with_time,
        args.scan_profile,
    )
    if args.json:
        print(json.dumps(result.to_dict(), indent=2))
    else:
        print(_text(result))
    return 0 if result.fits else DOES_NOT_FIT


def _text(result: Validation) -> str:
    """Return the result for people."""
    from mri2qmap.pipeline.scan_log import printable

    width = min(_WIDEST, shutil.get_terminal_size().columns)
    lines = [f"{result.scan}", ""]
    for label, text in _rows(result):
        lines += _wrapped(f"  {label:{_LABEL}}", text, width)
    for finding in result.findings:
        lines += ["", *_finding(finding, width)]
    lines += ["", _summary(result)]
    return "\n".join(printable(line) for line in lines)


def _wrapped(start: str, text: str, width: int) -> list[str]:
    return textwrap.wrap(
        text,
        max(width, len(start) + 20),
        initial_indent=start,
        subsequent_indent=" " * len(start),
        break_on_hyphens=False,
        break_long_words=False,
    )


def _rows(result: Validation) -> list[tuple[str, str]]:
    """Return what is known, by label."""
    from mri2qmap.pipeline.scan_profile import STANDARD

    rows = _scan_rows(result)
    changed = [s for s in result.settings if s.changed]
    if result.settings:
        rows.append(("pipeline", result.pipeline))
        if result.scan_profile != STANDARD.name:
            rows.append(("scan profile", result.scan_profile))
        labels = ["not default", *[""] * len(changed)]
        names = [f"{s.gadget}.{s.name}" for s in changed]
        widest = max(map(len, names), default=0)
        rows += [
            (label, f"{name:{widest}}  {_value(s.value)} (default {_value(s.default)})")
            for label, name, s in zip(labels, names, changed, strict=False)
        ] or [("not default", "no setting")]
    if result.memory is not None:
        from mri2qmap.pipeline.memory_budget import gib

        spared = ", at the cost of time" if result.memory.spared else ""
        needed, available = gib(result.memory.needed_bytes), gib(result.memory.available_bytes)
        rows.append(("memory", f"{needed} of {available} available{spared}"))
    if result.time is not None:
        rows.append(("time", _time(result)))
    return rows


def _scan_rows(result: Validation) -> list[tuple[str, str]]:
    scan = result.description
    if scan is None:
        return []
    rows: list[tuple[str, str]] = []
    if scan.matrix is not None and scan.voxel_size_mm and scan.field_of_view_mm:
        rows.append(("matrix", f"{_sides(scan.matrix)} (x, y, z)"))
        rows.append(("field of view", f"{_sides(scan.field_of_view_mm)} mm"))
        rows.append(("voxel", f"{_sides(scan.voxel_size_mm)} mm"))
    groups = "" if scan.groups is None else f" in {_counted(scan.groups, 'group')}"
    if scan.groups_announced is not None and scan.groups_announced != scan.groups:
        groups += f" of {scan.groups_announced} announced"
    frames = "" if scan.frames is None else f", {scan.frames} frames"
    rows.append(("readouts", f"{scan.readouts}{groups}{frames}"))
    if scan.samples_per_readout is not None:
        density = ""
        if scan.samples_per_voxel is not None:
            density = (
                f", {scan.samples_per_voxel:.2f} per voxel and coil, R = {scan.acceleration:.1f}"
            )
        rows.append(("samples", f"{_range(scan.samples_per_readout)} per readout{density}"))
    if scan.coils is not None:
        virtual = scan.virtual_coils
        compressed = "" if virtual is None else f", compressed to {virtual}"
        rows.append(("coils", f"{scan.coils}{compressed}"))
    rows.append(("noise scans", str(scan.noise_scans or "none")))
    if scan.trajectory_extent is not None:
        extent = ", ".join(f"{k:.3g}" for k in scan.trajectory_extent)
        rows.append(("trajectory", f"up to {extent} cycles/voxel (x, y, z)"))
    if scan.tr_ms is not None and scan.te_ms is not None and scan.flip_angle_deg is not None:
        rows.append(
            (
                "sequence",
                f"TR {_range(scan.tr_ms)} ms, TE {_range(scan.te_ms)} ms, TI {scan.ti_ms:g} ms, "
                f"flip angles {_range(scan.flip_angle_deg)} degrees, from {scan.sequence_origin}",
            )
        )
    if scan.field_strength_t is not None:
        rows.append(("field strength", f"{scan.field_strength_t:g} T"))
    if scan.axes is not None:
        rows.append(("orientation", f"x, y, z run to {', '.join(scan.axes)}"))
    rows.append(("patient fields", ", ".join(scan.patient_fields) or "none"))
    return rows


def _finding(finding: Finding, width: int) -> list[str]:
    places = "" if finding.count == 1 else f" (and {finding.count - 1} more places)"
    where = f"{finding.where}{places}: " if finding.where else ""
    lines = _wrapped(f"{finding.level:7}  ", f"{finding.code}", width)
    lines += _wrapped(f"  {'':{_LABEL}}"[:9], f"{where}{finding.what}", width)
    if finding.why:
        lines += _wrapped(" " * 9, finding.why, width)
    if finding.advice:
        lines += _wrapped(" " * 9 + "-> ", finding.advice, width)
    return lines


def _summary(result: Validation) -> str:
    from collections import Counter

    count = Counter(str(finding.level) for finding in result.findings)
    found = ", ".join(_counted(n, level) for level, n in count.items()) or "nothing to remark"
    return f"{'The scan fits' if result.fits else 'The scan does not fit'}: {found}."


def _time(result: Validation) -> str:
    time = result.time
    assert time is not None
    if time.low is None or time.likely is None or time.high is None:
        return f"not estimated: {time.reason}"
    threads = _counted(time.threads, "thread")
    return f"about {_span(time.likely)} ({_span(time.low)} to {_span(time.high)}) with {threads}"


def _span(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def _counted(count: int, word: str) -> str:
    return f"{count} {word}{'s' * (count != 1)}"


def _sides(zyx: tuple[float, ...]) -> str:
    return " x ".join(f"{side:.4g}" for side in reversed(zyx))


def _range(pair: tuple[float, ...]) -> str:
    low, high = pair
    return f"{low:.4g}" if low == high else f"{low:.4g} to {high:.4g}"


def _value(value: object) -> str:
    from mri2qmap.machine.words import shortened
    from mri2qmap.pipeline.settings import property_text

    text = property_text(tuple(value) if isinstance(value, list) else value)
    return shortened(text) or "none"
