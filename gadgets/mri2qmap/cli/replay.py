"""`mri2qmap replay`: a raw scan from a file becomes maps in a folder."""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mri2qmap.cli.console import say, silence_messages
from mri2qmap.cli.thread_option import add_thread_option
from mri2qmap.hosts.deadlines import DEFAULT_DEADLINES
from mri2qmap.report.file_names import PAGE

if TYPE_CHECKING:
    from collections.abc import Mapping

DEFAULT_PIPELINE = "mri2qmap"
DEFAULT_TICK = 2.5
"""Unit of the time stamps on most scanners [ms]."""

_DESCRIPTION = """\
Reconstruct an ISMRMRD scan: run the gadgets of a pipeline in this process, without a server, or
send the scan to one: mri2qmap serve, or Gadgetron.

OUTDIR gets dicom/, nifti/, mrd.h5, a report to look at (report.html, report.png) and run.json
(settings, versions, time and memory of each gadget); from a server, what it sends. It appears when
everything is written; after an error there is nothing.

Several scans are reconstructed by processes of this machine, or by the workers of a Dask scheduler,
each into a folder of OUTDIR with its name. The table of them is OUTDIR/cohort.csv. The same command
once more skips what is done.
"""

_EXAMPLES = """\
examples:
  mri2qmap replay scan.h5 -o maps/
  mri2qmap replay scan.h5 --pipeline mrf_admm -o maps_no_prior/
  mri2qmap replay scans.h5 --group dataset_2 -o maps_2/
  mri2qmap replay meas.h5 --scan-profile siemens -o maps/
  mri2qmap replay scan.h5 -o maps/ --overwrite --set pnp_admm.iterations=20 \\
      --set parametric_maps.dicom=classic
  mri2qmap replay scan.h5 -o maps/ --set pnp_admm.b1_map=b1.nii.gz \\
      --set combined_matching.b1_map=b1.nii.gz
  mri2qmap replay a.h5 b.h5 c.h5 -o cohort/ --scheduler tcp://localhost:8786
  mri2qmap replay scan.h5 --server localhost:9002 --pipeline mri2qmap_connect -o maps/ --realtime
  torchrun --nproc-per-node 2 --no-python mri2qmap replay scan.h5 -o maps/
                                                (one scan on two GPUs, or by two processes)
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
    parser.add_argument(
        "scans",
        metavar="SCAN",
        type=Path,
        nargs="+",
        help="raw data, ISMRMRD in HDF5 or as a stream; of several scans, each gets a folder in "
        "OUTDIR",
    )
    add_scan_options(parser)
    parser.add_argument(
        "-p",
        "--pipeline",
        metavar="XML",
        help=f"pipeline file, or the name of one in pipelines/ (default: {DEFAULT_PIPELINE})",
    )
    parser.add_argument(
        "-o", "--output", metavar="OUTDIR", type=Path, required=True, help="folder to make"
    )
    parser.add_argument(
        "--device",
        default="auto",
        help="auto (a GPU; the CPU if there is none or its memory does not suffice), cpu, cuda or "
        "cuda:N (default: %(default)s)",
    )
    add_thread_option(parser)
    add_set_option(parser)
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="replace OUTDIR if it holds what this program wrote and nothing else",
    )
    parser.add_argument(
        "--resume",
        action="store_true",
        help="keep the state of the iterations in OUTDIR.resume until the maps are written, and go "
        "on from it if such a run was stopped",
    )
    parser.add_argument(
        "--memory",
        metavar="SIZE",
        help="what the reconstruction may take, such as 11GB, 11GiB or 11000000000B; without a "
        "unit in GiB: each process of torchrun, or all workers of this machine together. A scan "
        "that needs more takes longer, or is refused (default: what is free, of several scans "
        "0.8 of it)",
    )
    cohort = parser.add_argument_group("several scans")
    cohort.add_argument(
        "--workers",
        type=int,
        metavar="N",
        help="processes of this machine (default: as many as cores and memory allow)",
    )
    cohort.add_argument(
        "--scheduler",
        metavar="ADDRESS",
        help="use the workers of a Dask scheduler instead, such as tcp://localhost:8786",
    )
    cohort.add_argument(
        "--patience",
        type=float,
        metavar="S",
        help="with --scheduler: how long a scan waits for a worker where there is none yet, or one "
        "was lost (default: 60 s)",
    )
    parser.add_argument(
        "--no-report",
        action="store_false",
        dest="with_report",
        help="do not write report.html and report.png",
    )
    parser.add_argument(
        "--pdf", action="store_true", help="write the sheet of the report as report.pdf as well"
    )
    parser.add_argument(
        "--progress-file",
        metavar="FILE",
        type=Path,
        help="keep the stage and step of the reconstruction in this JSON file, for programs that "
        "watch it",
    )
    remote = parser.add_argument_group("with a server")
    remote.add_argument(
        "--server",
        metavar="HOST:PORT",
        help="send the scan there; the pipeline goes along, its gadgets run at the server",
    )
    remote.add_argument(
        "--configuration",
        metavar="NAME",
        help="use the configuration that the server has under this name instead of --pipeline",
    )
    remote.add_argument(
        "--retrieve",
        action="store_true",
        help="fetch the maps of a scan that was put into the queue of the server by mri2qmap queue "
        "with the same pipeline; it is not sent again",
    )
    remote.add_argument(
        "--realtime",
        action="store_true",
        help="send acquisitions at the pace of the scan, by their time stamps",
    )
    remote.add_argument(
        "--tick",
        type=float,
        metavar="MS",
        help=f"unit of the time stamps, with --realtime (default: {DEFAULT_TICK} ms)",
    )
    remote.add_argument(
        "--timeout",
        type=float,
        metavar="S",
        help="give up when the server is silent for so long while it has everything or reads "
        f"nothing; a server of this program sends a text every {DEFAULT_DEADLINES.heartbeat:g} s "
        f"(default: {DEFAULT_DEADLINES.answer:g} s)",
    )


def run(args: argparse.Namespace) -> int:
    """Run the subcommand."""
    from mri2qmap.errors import Mri2QmapError

    if args.pdf and not args.with_report:
        raise Mri2QmapError("--pdf is a form of the report: leave out --no-report")
    if args.progress_file is not None:
        from mri2qmap.pipeline.progress_file import ProgressFile

        args.report = ProgressFile(args.report, args.progress_file)
    if args.server is not None:
        return _run_remotely(args)

    flags = (args.realtime or None, args.retrieve or None)
    of_server = (args.configuration, *flags, args.tick, args.timeout)
    if any(option is not None for option in of_server):
        raise Mri2QmapError(
            "--configuration, --retrieve, --realtime, --tick and --timeout need --server HOST:PORT"
        )
    if len(args.scans) > 1 or args.scheduler is not None:
        from mri2qmap.cli.cohort_replay import run_cohort

        return run_cohort(args, args.pipeline or DEFAULT_PIPELINE, parse_overrides(args.overrides))
    from mri2qmap.api.reconstruction import reconstruct_to_folder
    from mri2qmap.cli.serving import memory_of
    from mri2qmap.machine.process_group import ProcessGroup

    if args.workers is not None or args.patience is not None:
        raise Mri2QmapError("--workers and --patience are for several scans, or --scheduler")
    processes = ProcessGroup.from_environment()
    if not processes.is_main:
        silence_messages()
    record = reconstruct_to_folder(
        args.scans[0],
        args.output,
        args.pipeline or DEFAULT_PIPELINE,
        args.device,
        settings=parse_overrides(args.overrides),
        progress=args.report,
        group=args.group,
        memory=memory_of(args.memory),
        processes=processes,
        scan_profile=args.scan_profile,
        overwrite=args.overwrite,
        resume=args.resume,
        report=args.with_report,
        pdf=args.pdf,
        command=args.command,
    )
    if processes.is_main:
        say(f"{args.output}: maps written{_in_seconds(record)}{_report(args.output, record)}")
    return 0


def _run_remotely(args: argparse.Namespace) -> int:
    from mri2qmap.cli.remote_replay import replay_remotely
    from mri2qmap.errors import Mri2QmapError
    from mri2qmap.machine.process_group import ProcessGroup

    if ProcessGroup.from_environment().world_size > 1:
        raise Mri2QmapError("--server: one process sends a scan; start it without torchrun")
    if len(args.scans) > 1:
        raise Mri2QmapError("--server takes one scan; give the others in commands of their own")
    if any(option is not None for option in (args.scheduler, args.workers, args.patience)):
        raise Mri2QmapError("--scheduler, --workers and --patience are not for --server")
    if args.configuration is not None and (args.overrides or args.pipeline):
        raise Mri2QmapError(
            "--configuration names what the server has; --pipeline and --set are for a pipeline "
            "that is sent: give one or the other"
        )
    if args.retrieve and (args.configuration is not None or args.realtime):
        raise Mri2QmapError(
            "--retrieve fetches maps by scan and pipeline: leave out --configuration and --realtime"
        )
    if args.memory is not None:
        raise Mri2QmapError("--memory is set on the server: mri2qmap serve --memory")
    if args.threads is not None:
        raise Mri2QmapError("--threads is set on the server: mri2qmap serve --threads")
    if args.resume:
        raise Mri2QmapError("--resume is for a reconstruction in this process, without --server")
    if args.device != "auto":
        raise Mri2QmapError("--device is set on the server: mri2qmap serve --device")
    if args.tick is not None and not args.realtime:
        raise Mri2QmapError("--tick needs --realtime")
    if args.tick is not None and not 0 < args.tick < math.inf:
        raise Mri2QmapError(f"--tick {args.tick}: a positive number of ms is expected")
    tick = DEFAULT_TICK if args.tick is None else args.tick
    record = replay_remotely(
        args.scans[0],
        args.server,
        args.output,
        pipeline=args.pipeline or DEFAULT_PIPELINE,
        configuration=args.configuration,
        overwrite=args.overwrite,
        group=args.group,
        overrides=parse_overrides(args.overrides),
        scan_profile=args.scan_profile,
        tick=tick * 1e-3 if args.realtime else None,
        timeout=args.timeout,
        retrieve=args.retrieve,
        report=args.report,
        with_report=args.with_report,
        pdf=args.pdf,
        command=args.command,
    )
    say(f"{args.output}: maps received{_in_seconds(record)}{_report(args.output, record)}")
    return 0


def _in_seconds(record: Mapping[str, Any]) -> str:
    total = record.get("total_s")
    return "" if total is None else f" in {total:.1f} s"


def _report(output: Path, record: Mapping[str, Any]) -> str:
    """Say where the report is, if there is one."""
    files = record.get("report")
    return f"; report: {output / PAGE}" if isinstance(files, list) and PAGE in files else ""


def add_scan_options(parser: argparse.ArgumentParser) -> None:
    """Add ``--group`` and ``--scan-profile``."""
    parser.add_argument(
        "--group",
        metavar="NAME",
        help="group of the HDF5 file that holds the scan (default: the only one that does)",
    )
    add_profile_option(parser)


def add_profile_option(parser: argparse.ArgumentParser) -> None:
    """Add ``--scan-profile``."""
    parser.add_argument(
        "--scan-profile",
        metavar="NAME_OR_TOML",
        help="convention in which scans are written (counters, trajectory, sequence): a TOML file, "
        "or siemens, siemens_spiral, ge, philips, pulseq (default: <scan> of the pipeline, or that "
        "of mri2qmap simulate)",
    )


def add_set_option(parser: argparse.ArgumentParser) -> None:
    """Add ``--set``, whose texts `parse_overrides` takes."""
    parser.add_argument(
        "--set",
        metavar="GADGET.PROPERTY=VALUE",
        action="append",
        default=[],
        dest="overrides",
        help="change a setting of the pipeline; may be given several times",
    )


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
