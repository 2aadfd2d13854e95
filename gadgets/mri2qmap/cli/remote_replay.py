"""A scan from a file is sent to a server, and the maps that come back are written to a folder."""

from __future__ import annotations

import logging
import math
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import ismrmrd

    from mri2qmap.export.expected_maps import ExpectedMaps
    from mri2qmap.hosts.deadlines import Deadlines
    from mri2qmap.hosts.message_socket import MessageSocket
    from mri2qmap.pipeline.items import Item
    from mri2qmap.pipeline.pipeline_file import Pipeline
    from mri2qmap.pipeline.progress import Reporter
    from mri2qmap.pipeline.scan_header import ScanInfo

logger = logging.getLogger(__name__)


def parse_address(text: str) -> tuple[str, int]:
    """Parse HOST:PORT."""
    from mri2qmap.errors import Mri2QmapError

    host, colon, port = text.rpartition(":")
    if not (colon and host and port.isdecimal() and 0 < int(port) < 2**16):
        raise Mri2QmapError(f"--server {text}: HOST:PORT is expected, such as localhost:9002")
    return host.strip("[]"), int(port)


def client_deadlines(timeout: float | None) -> Deadlines:
    """Return the deadlines of a client.

    Writing has no deadline of its own: a server that computes may read nothing for long, but sends
    heartbeats.

    Parameters
    ----------
    timeout
        See `replay_remotely`.

    Raises
    ------
    Mri2QmapError
        If it is not a positive number.
    """
    from mri2qmap.errors import Mri2QmapError
    from mri2qmap.hosts.deadlines import Deadlines

    if timeout is None:
        return Deadlines(write=math.inf)
    if not timeout > 0:
        raise Mri2QmapError(f"--timeout {timeout:g}: a positive number of seconds is expected")
    return Deadlines(write=math.inf, answer=timeout, connect=min(timeout, Deadlines.connect))


def connected(server: str, timeout: float | None) -> MessageSocket:
    """Return a connection to a server.

    Parameters
    ----------
    server, timeout
        See `replay_remotely`.

    Raises
    ------
    Mri2QmapError
        If there is no server.
    """
    from mri2qmap.errors import Mri2QmapError
    from mri2qmap.hosts.connecting import connect

    host, port = parse_address(server)
    try:
        return connect(host, port, client_deadlines(timeout))
    except ConnectionError as error:
        raise Mri2QmapError(f"--server {error}") from error


def promised_maps(
    document: bytes | None, configuration: str | None, pipeline: str | Path
) -> ExpectedMaps:
    """Say what must come: what `parametric_maps` makes, if that is known, else T1, T2 and PD.

    Parameters
    ----------
    document
        The pipeline that is sent; None where the server's own is used.
    configuration
        Its name; it is taken for the program's own pipeline of that name, if there is one.
    pipeline
        Where the document was read, for messages.

    Raises
    ------
    Mri2QmapError
        If nothing of what the pipeline makes can be sent.
    """
    from mri2qmap.errors import Mri2QmapError
    from mri2qmap.export.expected_maps import ExpectedMaps
    from mri2qmap.export.quantity import UNCERTAINTY, Quantity
    from mri2qmap.pipeline.pipeline_file import kept_pipeline_path, pipeline_document, settings_in

    hint = ""
    if document is None:
        try:
            document = pipeline_document(kept_pipeline_path(configuration or ""))
        except Mri2QmapError:
            return ExpectedMaps()  # a configuration of the server's own
        hint = (
            f"--configuration {configuration} is taken for this program's pipeline of that name: "
            "where the server's differs, give the file with --pipeline"
        )
    settings = settings_in(document, configuration or str(pipeline))
    last = settings.get("parametric_maps")
    if not (hasattr(last, "mrd") and hasattr(last, "dicom")):  # not there, or of a later version
        return ExpectedMaps()
    optional: list[Quantity] = []
    if getattr(settings.get("combined_matching"), "uncertainty", False):
        optional += UNCERTAINTY
    if getattr(settings.get("pnp_admm"), "consistency", False):
        optional.append(Quantity.CONSISTENCY)
    if getattr(settings.get("combined_matching"), "receive_field", "") == "mapped":
        optional.append(Quantity.RECEIVE_FIELD)
    expected = ExpectedMaps.from_settings(last, optional)
    if not hint and not expected.forms:
        hint = 'a Gadgetron server passes on images only: set parametric_maps.mrd="float" for it'
    return expected.with_hint(hint)


def known_pipeline(
    document: bytes | None, configuration: str | None, pipeline: str | Path
) -> Pipeline | None:
    """Return the pipeline of the server, if this program knows all of it.

    Parameters
    ----------
    document, configuration, pipeline
        See `promised_maps`; the document has no ``<scan>``.

    Returns
    -------
        None for a configuration of the server's own, and for a file with gadgets, nodes or settings
        that this program does not know, as the server may.

    Raises
    ------
    Mri2QmapError
        If the settings of one of the project's pipelines are wrong.
    """
    from mri2qmap.errors import Mri2QmapError
    from mri2qmap.pipeline.pipeline_file import kept_pipeline_path, parse_pipeline, read_pipeline

    try:
        if document is None:
            return read_pipeline(kept_pipeline_path(configuration or ""))
        return parse_pipeline(document, Path(pipeline).stem, str(pipeline))
    except Mri2QmapError:
        if document is not None and not Path(pipeline).is_file():
            raise
        return None


def _files_of(
    images: Sequence[ismrmrd.Image],
    scan: ScanInfo,
    dicom: str,
    nifti: bool,
    report: Reporter,
) -> Iterator[Item]:
    """Make the DICOM and NIfTI of the maps that came as images."""
    from mri2qmap.export.received_maps import (
        received_maps,
        received_provenance,
        reconstruction_method,
    )

    if dicom == "none" and not nifti:
        return
    maps = received_maps(images)
    if maps is None:
        what = " and ".join(["DICOM"] * (dicom != "none") + ["NIfTI"] * nifti)
        text = (
            f"no {what} is made: that takes all maps and weighted images as float images "
            '(parametric_maps.mrd="float" with synthetic_images="true"), and the server sent others'
        )
        report.log(text)
        logger.warning("%s", text)
        return
    from mri2qmap.parametric_maps import ParametricMapsSettings, parametric_maps

    settings = ParametricMapsSettings(
        dicom=dicom,  # type: ignore[arg-type]
        mrd="none",
        nifti=nifti,
        mask_threshold=0,  # T1 and T2 are zero outside the object by now
        method=reconstruction_method(images),
    )
    yield from parametric_maps(iter([received_provenance(images), maps]), scan, settings)


def replay_remotely(
    scan_file: str | Path,
    server: str,
    output: str | Path,
    *,
    pipeline: str | Path = "mri2qmap",
    configuration: str | None = None,
    overwrite: bool = False,
    group: str | None = None,
    overrides: Mapping[str, Mapping[str, str]] | None = None,
    tick: float | None = None,
    timeout: float | None = None,
    report: Reporter | None = None,
    with_report: bool = True,
    pdf: bool = False,
    command: list[str] | None = None,
    scan_profile: str | None = None,
    retrieve: bool = False,
) -> dict[str, Any]:
    """Let a server reconstruct a scan.

    What the pipeline makes of DICOM and NIfTI and the server does not send is made here of the
    float images that it sends: a Gadgetron server passes on images only.

    Parameters
    ----------
    scan_file, output, overwrite, group, overrides, report, command
        As in `mri2qmap.api.reconstruction.reconstruct_to_folder`.
    server
        HOST:PORT of `mri2qmap serve` or a Gadgetron server.
    pipeline
        Pipeline file, or the name of one of the project's; it is sent.
    configuration
        Name of a configuration that the server has, instead.
    tick
        Unit of the time stamps [s]: acquisitions are sent at the pace of the scan. None: as fast
        as the server takes them.
    with_report
        Whether to write report.html and report.png, with the maps of the float images.
    pdf
        Whether to write report.pdf as well.
    scan_profile
        Convention in which the scan is written; None: what the ``<scan>`` of the pipeline that is
        sent says. The scan is converted here.
    retrieve
        Whether the maps are fetched that the server has made of this scan since it was put into its
        queue with the same pipeline. Nothing is sent but the header and a digest.
    timeout
        Time for which the server may be silent when it has everything, or reads nothing [s]; None:
        the default ``answer`` of `mri2qmap.hosts.deadlines.Deadlines`.

    Returns
    -------
    dict
        The record of the run, as in run.json.

    Raises
    ------
    Mri2QmapError
        For wrong input, when the server reports an error or goes away without a word of the end,
        and when a map that the pipeline promises does not come, comes twice with two contents, or
        is not one of this scan with finite values; nothing is left of `output` then.
    """
    from mri2qmap.api.run_output import described, overrides_inputs, record_with_report
    from mri2qmap.export.expected_maps import ServerResponse
    from mri2qmap.export.patient import scan_context
    from mri2qmap.export.received_maps import received_maps
    from mri2qmap.files.output_folder import OutputFolder
    from mri2qmap.files.scan_files import chosen_group, open_scan
    from mri2qmap.hosts.client import RemoteReconstruction, paced
    from mri2qmap.hosts.protocol import ConfigDocument, ConfigFile
    from mri2qmap.hosts.run_record import input_record, remote_record, with_digest
    from mri2qmap.hosts.scan_digest import queue_identifier, scan_digest
    from mri2qmap.hosts.session_opening import Order
    from mri2qmap.pipeline.pipeline_file import pipeline_document, pipeline_path
    from mri2qmap.pipeline.progress import TerminalReporter, logged_lines
    from mri2qmap.pipeline.scan_header import ScanInfo
    from mri2qmap.pipeline.scan_log import scan_identity
    from mri2qmap.pipeline.scan_profile_files import scan_profile_path
    from mri2qmap.pipeline.scan_section import taken_profile
    from mri2qmap.pipeline.standard_scan import standard_scan
    from mri2qmap.validation.examination import log_warnings, refuse_unfit_scan

    report = report or TerminalReporter()
    chosen: ConfigFile | ConfigDocument
    document = None
    if configuration is None:
        document = pipeline_document(pipeline, overrides)
    profile, document = taken_profile(document, scan_profile, str(pipeline))
    if document is None:
        chosen = ConfigFile(configuration or "")
    else:
        chosen = ConfigDocument(document)
    expected = promised_maps(document, configuration, pipeline)
    parse_address(server)
    client_deadlines(timeout)
    inputs = {"scan": Path(scan_file), **overrides_inputs(overrides or {})}
    if configuration is None:
        inputs["pipeline"] = pipeline_path(pipeline)
    if (path := scan_profile_path(scan_profile)) is not None:
        inputs["scan profile"] = path
    group = chosen_group(group, profile, Path(scan_file))
    with (
        open_scan(scan_file, group) as mrd,
        nullcontext(standard_scan(mrd.header, profile)) as (header, conversion),
        OutputFolder(output, header, overwrite, inputs=inputs) as folder,
    ):
        scan = ScanInfo.from_header(header, report=report)
        scan_context(scan.header, "")  # what DICOM and NIfTI need is tried before the scan is sent
        if (known := known_pipeline(document, configuration, pipeline)) is not None:
            log_warnings(refuse_unfit_scan(mrd, profile, known, scan.device, report))
        given = input_record(scan_file, command or [], group)
        items = report.progress(
            conversion.items(mrd.items(), scan),
            "acquisitions",
            total=mrd.n_acquisitions + mrd.n_waveforms,
        )
        order, identifier = Order.NOW, ""
        if retrieve:
            order, identifier = (
                Order.RETRIEVAL,
                queue_identifier(scan_digest(header, items), document or b""),
            )
            items = iter(())
        peer = connected(server, timeout)
        remote = RemoteReconstruction(peer, chosen, header, report, order, identifier)
        answer = ServerResponse(expected, scan)
        for item in remote.run(items if tick is None else paced(items, tick)):
            if answer.add(item):
                folder.write(item)
            else:
                report.log("the server sent an image twice: it is kept once")
        maps = answer.checked_maps(dicom_is_sent=remote.record is not None)
        dicom = "none" if answer.dicom_received else expected.dicom
        for item in _files_of(maps, scan, dicom, expected.nifti, report):
            folder.write(item)
        record = {
            **with_digest(given),
            "scan_identity": scan_identity(header, scan.header),
            "scan_profile": profile.record(),
            **described(
                lambda: remote_record(
                    remote, server, configuration or str(pipeline), logged_lines(report)
                ),
                report,
            ),
        }
        if with_report:
            record = record_with_report(
                folder, record, scan, header, lambda: received_maps(maps), 0, pdf
            )
        folder.finish(record)
    return record
