"""`mri2qmap replay`: a raw scan from a file becomes maps in a folder."""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import ismrmrd

    from mri2qmap.stream.items import Item
    from mri2qmap.stream.report import Reporter

DEFAULT_PIPELINE = "mri2qmap"
DEFAULT_TICK = 2.5
"""Unit of the time stamps on most scanners [ms]."""

_DESCRIPTION = """\
Reconstruct an ISMRMRD scan: run the gadgets of a pipeline in this process, without a server, or
send the scan to one: mri2qmap serve, or Gadgetron.

OUTDIR gets dicom/, nifti/, mrd.h5 and run.json (settings, versions, time and memory of each
gadget); from a server, what it sends. It appears when everything is written; after an error there
is nothing.
"""

_EXAMPLES = """\
examples:
  mri2qmap replay scan.h5 -o maps/
  mri2qmap replay scan.h5 --pipeline mrf_admm -o maps_no_prior/
  mri2qmap replay scan.h5 -o maps/ --overwrite --set pnp_admm.iterations=20 \\
      --set parametric_maps.dicom=classic
  mri2qmap replay scan.h5 -o maps/ --set pnp_admm.b1_map=b1.nii.gz \\
      --set combined_matching.b1_map=b1.nii.gz
  mri2qmap replay scan.h5 --server localhost:9002 --pipeline mri2qmap_connect -o maps/ --realtime
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
        help=f"pipeline file, or the name of one in pipelines/ (default: {DEFAULT_PIPELINE})",
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
    parser.add_argument(
        "--memory",
        type=float,
        metavar="GIB",
        help="what the reconstruction may take; a larger one is refused (default: what is free)",
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


def run(args: argparse.Namespace) -> int:
    """Run the subcommand."""
    if args.server is not None:
        return _run_remotely(args)
    from mri2qmap.cli.serving import memory_of
    from mri2qmap.errors import Mri2QmapError

    if args.configuration is not None or args.realtime or args.tick is not None:
        raise Mri2QmapError("--configuration, --realtime and --tick need --server HOST:PORT")
    record = replay_file(
        args.scan,
        args.pipeline or DEFAULT_PIPELINE,
        args.output,
        device=args.device,
        overwrite=args.overwrite,
        overrides=parse_overrides(args.overrides),
        memory=memory_of(args.memory),
        report=args.report,
        command=args.command,
    )
    print(f"{args.output}: maps written in {record['total_s']:.1f} s")
    return 0


def _run_remotely(args: argparse.Namespace) -> int:
    from mri2qmap.errors import Mri2QmapError

    if args.configuration is not None and (args.overrides or args.pipeline):
        raise Mri2QmapError(
            "--configuration names what the server has; --pipeline and --set are for a pipeline "
            "that is sent: give one or the other"
        )
    if args.memory is not None:
        raise Mri2QmapError("--memory is the server's to know: give it to the server's command")
    if args.device != "auto":
        raise Mri2QmapError("--device is the server's to choose: give it to the server's command")
    if args.tick is not None and not (args.realtime and 0 < args.tick < math.inf):
        raise Mri2QmapError(f"--tick {args.tick}: a positive number of ms, and --realtime expected")
    tick = DEFAULT_TICK if args.tick is None else args.tick
    record = replay_remotely(
        args.scan,
        args.server,
        args.output,
        pipeline=args.pipeline or DEFAULT_PIPELINE,
        configuration=args.configuration,
        overwrite=args.overwrite,
        overrides=parse_overrides(args.overrides),
        tick=tick * 1e-3 if args.realtime else None,
        report=args.report,
        command=args.command,
    )
    print(f"{args.output}: maps received in {record['total_s']:.1f} s")
    return 0


def parse_address(text: str) -> tuple[str, int]:
    """Parse HOST:PORT."""
    from mri2qmap.errors import Mri2QmapError

    host, colon, port = text.rpartition(":")
    if not (colon and host and port.isdecimal() and 0 < int(port) < 2**16):
        raise Mri2QmapError(f"--server {text}: HOST:PORT is expected, such as localhost:9002")
    return host.strip("[]"), int(port)


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
    memory: int | None = None,
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
    memory
        What it may take [bytes]; None: what is free.
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
    from mri2qmap.stream.memory_plan import available_bytes, check_memory
    from mri2qmap.stream.mrd_file import MrdFile
    from mri2qmap.stream.output_folder import OutputFolder
    from mri2qmap.stream.pipeline import read_pipeline
    from mri2qmap.stream.report import TerminalReporter
    from mri2qmap.stream.run_record import input_record, run_record
    from mri2qmap.stream.scan_info import ScanInfo

    report = report or TerminalReporter()
    with MrdFile(scan_file) as mrd:
        scan = ScanInfo.from_header(mrd.header, select_device(device), report)
        chosen = read_pipeline(pipeline, overrides)
        check_memory(scan, chosen.nodes, available_bytes(scan.device) if memory is None else memory)
        host = InProcessHost(chosen, scan)
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
            record = {
                **input_record(scan_file, command or []),
                **run_record(host, list(getattr(report, "lines", []))),
            }
            folder.finish(record)
    return record


def _files_of(
    images: Sequence[ismrmrd.Image], header: bytes, dicom_came: bool, report: Reporter
) -> Iterator[Item]:
    """Make DICOM, unless the server did, and NIfTI of the maps that came as images."""
    from mri2qmap.export.received_maps import method_of, received_maps

    maps = received_maps(images)
    if maps is None:
        report.log("the server sent no full set of maps as float images: no NIfTI is made of them")
        return
    from mri2qmap.parametric_maps import ParametricMapsSettings, parametric_maps
    from mri2qmap.stream.scan_info import ScanInfo

    settings = ParametricMapsSettings(
        dicom="none" if dicom_came else "both",
        mrd="none",
        mask_threshold=0,  # T1 and T2 are zero outside the object by now
        method=method_of(images[0]),
    )
    yield from parametric_maps(iter([maps]), ScanInfo.from_header(header), settings)


def replay_remotely(
    scan_file: str | Path,
    server: str,
    output: str | Path,
    *,
    pipeline: str | Path = DEFAULT_PIPELINE,
    configuration: str | None = None,
    overwrite: bool = False,
    overrides: Mapping[str, Mapping[str, str]] | None = None,
    tick: float | None = None,
    report: Reporter | None = None,
    command: list[str] | None = None,
) -> dict[str, Any]:
    """Let a server reconstruct a scan.

    What it does not send of DICOM and NIfTI is made here of the float images that it sends: a
    Gadgetron server passes on images only.

    Parameters
    ----------
    scan_file, output, overwrite, overrides, report, command
        As in `replay_file`.
    server
        HOST:PORT of `mri2qmap serve` or a Gadgetron server.
    pipeline
        Pipeline file, or the name of one of the project's; it is sent.
    configuration
        Name of a configuration that the server has, instead.
    tick
        Unit of the time stamps [s]: acquisitions are sent at the pace of the scan. None: as fast
        as the server takes them.

    Returns
    -------
    dict
        The record of the run, as in run.json.

    Raises
    ------
    Mri2QmapError
        For wrong input, and when the server reports an error or sends no maps; nothing is left of
        `output` then.
    """
    import ismrmrd

    from mri2qmap.errors import Mri2QmapError
    from mri2qmap.stream.client import RemoteReconstruction, paced
    from mri2qmap.stream.items import DicomObject
    from mri2qmap.stream.message_socket import connect
    from mri2qmap.stream.mrd_file import MrdFile
    from mri2qmap.stream.output_folder import OutputFolder
    from mri2qmap.stream.pipeline import pipeline_document
    from mri2qmap.stream.protocol import ConfigDocument, ConfigFile
    from mri2qmap.stream.report import TerminalReporter
    from mri2qmap.stream.run_record import input_record, remote_record

    report = report or TerminalReporter()
    chosen: ConfigFile | ConfigDocument
    if configuration is not None:
        chosen = ConfigFile(configuration)
    else:
        chosen = ConfigDocument(pipeline_document(pipeline, overrides))
    host, port = parse_address(server)
    with MrdFile(scan_file) as mrd, OutputFolder(output, mrd.header, overwrite) as folder:
        try:
            peer = connect(host, port)
        except ConnectionError as error:
            raise Mri2QmapError(f"--server {error}") from error
        remote = RemoteReconstruction(peer, chosen, mrd.header, report)
        items = report.progress(
            mrd.items(), "acquisitions", total=mrd.n_acquisitions + mrd.n_waveforms
        )
        images, dicom_came = [], False
        for item in remote.run(items if tick is None else paced(items, tick)):
            if isinstance(item, ismrmrd.Image):
                images.append(item)
            dicom_came = dicom_came or isinstance(item, DicomObject)
            folder.write(item)
        for item in _files_of(images, mrd.header, dicom_came, report):
            folder.write(item)
        record = {
            **input_record(scan_file, command or []),
            **remote_record(remote, server, configuration or str(pipeline)),
        }
        folder.finish(record)
    return record
