"""`mri2qmap replay`: a raw scan from a file becomes maps in a folder."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mri2qmap.stream.report import Reporter

_DESCRIPTION = """\
Reconstruct an ISMRMRD scan: run the gadgets of a pipeline in this process, without a server.

OUTDIR gets dicom/, nifti/, mrd.h5 and run.json (settings, versions, time and memory of each
gadget). It appears when everything is written; after an error there is nothing.
"""

_EXAMPLES = """\
examples:
  mri2qmap replay scan.h5 -o maps/
  mri2qmap replay scan.h5 --pipeline mrf_admm -o maps_no_prior/
  mri2qmap replay scan.h5 -o maps/ --overwrite --set pnp_admm.iterations=20 \\
      --set parametric_maps.dicom=classic
"""


def add_parser(subparsers: Any) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser(
        "replay",
        help="reconstruct a scan from an ISMRMRD file",
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("scan", metavar="SCAN.h5", type=Path, help="raw data, ISMRMRD in HDF5")
    parser.add_argument(
        "-p",
        "--pipeline",
        metavar="XML",
        default="mri2qmap",
        help="pipeline file, or the name of one in pipelines/ (default: %(default)s)",
    )
    parser.add_argument(
        "-o", "--output", metavar="OUTDIR", type=Path, required=True, help="folder to make"
    )
    parser.add_argument(
        "--device", default="auto", help="auto, cpu, cuda or cuda:N (default: %(default)s)"
    )
    parser.add_argument(
        "--set",
        metavar="GADGET.PROPERTY=VALUE",
        action="append",
        default=[],
        dest="overrides",
        help="change a setting of the pipeline; may be given several times",
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace OUTDIR if this program wrote it"
    )


def run(args: argparse.Namespace) -> int:
    """Run the subcommand."""
    record = replay_file(
        args.scan,
        args.pipeline,
        args.output,
        device=args.device,
        overwrite=args.overwrite,
        overrides=parse_overrides(args.overrides),
        report=args.report,
        command=args.command,
    )
    print(f"{args.output}: maps written in {record['total_s']:.1f} s")
    return 0


def parse_overrides(texts: list[str]) -> dict[str, dict[str, str]]:
    """Parse GADGET.PROPERTY=VALUE texts into property values by gadget."""
    from mri2qmap.errors import Mri2QmapError

    overrides: dict[str, dict[str, str]] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        gadget, dot, prop = name.strip().partition(".")
        if not (equals and dot and gadget and prop):
            raise Mri2QmapError(f"--set {text}: GADGET.PROPERTY=VALUE is expected")
        overrides.setdefault(gadget, {})[prop] = value.strip()
    return overrides


def replay_file(
    scan_file: str | Path,
    pipeline: str | Path,
    output: str | Path,
    *,
    device: str = "auto",
    overwrite: bool = False,
    overrides: Mapping[str, Mapping[str, str]] | None = None,
    report: Reporter | None = None,
    command: list[str] | None = None,
) -> dict[str, Any]:
    """Reconstruct a scan.

    Parameters
    ----------
    scan_file
        ISMRMRD file with the raw data.
    pipeline
        Pipeline file, or the name of one of the project's.
    output
        Folder to make: dicom/, nifti/, mrd.h5, run.json.
    device
        ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
    overwrite
        Replace `output` if this program wrote it.
    overrides
        By gadget: properties that replace those of the pipeline file.
    report
        Takes progress and log lines.
    command
        The command line, for the record.

    Returns
    -------
    dict
        The record of the run, as in run.json.

    Raises
    ------
    Mri2QmapError
        For wrong input; nothing is left of `output` then.
    """
    from mri2qmap.stream.acquisition_checks import checked_acquisitions
    from mri2qmap.stream.devices import device_name, select_device
    from mri2qmap.stream.in_process import InProcessHost
    from mri2qmap.stream.mrd_file import MrdFile
    from mri2qmap.stream.output_folder import OutputFolder
    from mri2qmap.stream.pipeline import read_pipeline
    from mri2qmap.stream.report import TerminalReporter
    from mri2qmap.stream.run_record import run_record
    from mri2qmap.stream.scan_info import ScanInfo

    report = report or TerminalReporter()
    with MrdFile(scan_file) as mrd:
        scan = ScanInfo.from_header(mrd.header, select_device(device), report)
        host = InProcessHost(read_pipeline(pipeline, overrides), scan)
        report.log(
            f"{scan_file}: {mrd.n_acquisitions} acquisitions, {scan.sequence.n_frames} frames, "
            f"matrix {' x '.join(str(n) for n in scan.matrix)} (z, y, x); "
            f"running on {device_name(scan.device)}"
        )
        with OutputFolder(output, mrd.header, overwrite) as folder:
            items = report.progress(
                mrd.items(), "acquisitions", total=mrd.n_acquisitions + mrd.n_waveforms
            )
            for item in host.run(checked_acquisitions(items, scan)):
                folder.write(item)
            record = run_record(host, scan_file, command or [], list(getattr(report, "lines", [])))
            folder.finish(record)
    return record
