"""`mri2qmap.reconstruct`: from raw data to maps, in this process."""

from __future__ import annotations

import copy
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import ismrmrd
import torch

from mri2qmap.api.joint_run import common_facts, data_checked_by_all, memory_of_process
from mri2qmap.api.progress import NewLines, Progress, QuietReporter, reporter_of
from mri2qmap.api.resuming import resumable
from mri2qmap.api.run_items import exported_maps, noted_maps, on_cpu
from mri2qmap.api.run_output import (
    described,
    described_run,
    output_bytes,
    record_with_report,
    settings_inputs,
)
from mri2qmap.api.scans import ScanInput, open_source, scan_path
from mri2qmap.api.settings import Settings, overrides_of
from mri2qmap.errors import Mri2QmapError
from mri2qmap.evaluation.maps import Maps
from mri2qmap.files.output_folder import OutputFolder
from mri2qmap.files.scan_files import ScanFile, chosen_group
from mri2qmap.hosts.in_process import InProcessHost
from mri2qmap.hosts.run_record import input_contents, input_record, run_record, with_digest
from mri2qmap.machine.devices import gpu_memory_limited, select_device
from mri2qmap.machine.process_group import SINGLE_PROCESS, ProcessGroup
from mri2qmap.pipeline.acquisition_checks import checked_acquisitions
from mri2qmap.pipeline.acquisition_policy import pipeline_policy
from mri2qmap.pipeline.items import Item, ParameterMaps
from mri2qmap.pipeline.memory_plan import checked_memory, fitted_to_memory, with_channels_of
from mri2qmap.pipeline.pipeline_file import Pipeline, pipeline_path, read_pipeline
from mri2qmap.pipeline.progress import logged_lines
from mri2qmap.pipeline.progress_bars import bars_end_here
from mri2qmap.pipeline.scan_header import ScanInfo
from mri2qmap.pipeline.scan_profile_files import ScanProfileInput, scan_profile_path
from mri2qmap.pipeline.standard_scan import standard_scan
from mri2qmap.storage.inputs import as_path
from mri2qmap.validation.examination import checked_before, refuse_unfit_header

DEFAULT_PIPELINE = "mri2qmap"
EXPORT = "parametric_maps"
"""The gadget that makes files of the maps; it comes last."""


def reconstruct(
    scan: ScanInput,
    pipeline: str | Path = DEFAULT_PIPELINE,
    device: str | torch.device = "auto",
    settings: Settings | None = None,
    progress: Progress = None,
    group: str | None = None,
    memory: int | None = None,
    processes: ProcessGroup | None = None,
    scan_profile: ScanProfileInput | None = None,
) -> Maps:
    """Reconstruct a scan: run the gadgets of a pipeline in this process.

    Parameters
    ----------
    scan
        Path of an ISMRMRD file (HDF5 or stream), a `mri2qmap.Scan` with header and acquisitions, a
        simulated scan, or an open `ismrmrd.Dataset`.
    pipeline
        Pipeline file, or the name of one that comes with the package: "mri2qmap" (MRI2Qmap),
        "mrf_admm", "lrtv", "llr", "svdmrf" and others.
    device
        "auto" (a CUDA GPU where there is one, else the CPU), "cpu", "cuda" or "cuda:N".
    settings
        Properties of gadgets that replace those of the pipeline:
        ``{"pnp_admm.iterations": 20}`` or ``{"pnp_admm": {"iterations": 20}}``.
    progress
        None: bars on standard error where that is a terminal. True: log lines as well. False:
        nothing. A function: called as ``progress(stage, done, total)``. A
        `mri2qmap.pipeline.progress.Reporter`: it takes progress and log lines.
    group
        Group of an HDF5 file that contains the scan; None: the only one that does.
    memory
        Bytes that the reconstruction may use, in each process; None: what is free. If it needs
        more, memory is spared at the cost of time. If that is not enough, it is refused.
    processes
        Processes that reconstruct the scan together, all of which call this function:
        `ProcessGroup.from_environment` under torchrun. None: this one alone. All get the maps;
        only the main process reports progress.
    scan_profile
        Convention in which the scan is written: a `mri2qmap.ScanProfile`, the name of one that
        comes with the package ("siemens", "ge", "philips", "pulseq") or the path of a TOML file.
        None: what the ``<scan>`` of the pipeline says, else the convention of this program.

    Returns
    -------
    Maps
        T1, T2 [s], proton density and more as arrays (z, y, x), with the record of the run.

    Raises
    ------
    Mri2QmapError
        For wrong input, before the run as far as possible.
    GadgetError
        When a gadget fails for a reason other than its input.
    """
    with _prepared(
        scan, pipeline, device, settings, progress, group, memory, processes, scan_profile
    ) as (run, items):
        return run.maps(items)


def reconstruct_to_folder(
    scan: ScanInput,
    output: str | Path,
    pipeline: str | Path = DEFAULT_PIPELINE,
    device: str | torch.device = "auto",
    settings: Settings | None = None,
    progress: Progress = None,
    group: str | None = None,
    memory: int | None = None,
    processes: ProcessGroup | None = None,
    scan_profile: ScanProfileInput | None = None,
    *,
    overwrite: bool = False,
    resume: bool = False,
    report: bool = True,
    pdf: bool = False,
    command: Sequence[str] = (),
    scratch: Path | None = None,
) -> dict[str, Any]:
    """Reconstruct a scan and write files as they are made, as `mri2qmap replay` does.

    The files are those of ``reconstruct(...).save(output)``, but the folder is tried before the
    run: whether it may be replaced, contains an input, and has room.

    Parameters
    ----------
    scan, pipeline, device, settings, progress, group, memory, processes, scan_profile
        See `reconstruct`. Only the main process writes files.
    output
        Folder to make: dicom/, nifti/, mrd.h5, report.html, report.png, run.json. It may exist if
        it is empty. It appears when everything is written; after an error nothing of it stays.
    overwrite
        Replace `output` if it contains what this program wrote and nothing else.
    resume
        Keep the state of the iterations in the folder ``OUTPUT.resume`` until the maps are written,
        and go on from what is there. Data are read again. The scan must be a file.
    report
        Whether to write report.html and report.png. If they cannot be made, this is a warning.
    pdf
        Whether to write report.pdf, which is the sheet of report.png, as well.
    command
        The command line that asked for the run, for the record.
    scratch
        Existing folder for unfinished files, on the same file system; None: that of `output`.

    Returns
    -------
        The record of the run, as in run.json.

    Raises
    ------
    Mri2QmapError
        For wrong input, before the run as far as possible, and when the folder cannot be written.
    GadgetError
        When a gadget fails for a reason other than its input.
    """
    with _prepared(
        scan, pipeline, device, settings, progress, group, memory, processes, scan_profile, command
    ) as (run, items):
        folder = as_path(output, "output")
        with ExitStack() as stack:
            if resume:
                states = resumable(run.scan, run.reconstruction, run.inputs, folder)
                run.scan = stack.enter_context(states)
            if not run.scan.processes.is_main:
                return run.without_files(items)
            return run.to_folder(items, folder, overwrite, scratch, report, pdf)


@contextmanager
def _prepared(
    scan: ScanInput,
    pipeline: str | Path,
    device: str | torch.device,
    settings: Settings | None,
    progress: Progress,
    group: str | None,
    memory: int | None,
    processes: ProcessGroup | None,
    scan_profile: ScanProfileInput | None,
    command: Sequence[str] = (),
) -> Iterator[tuple[_Run, Iterator[Item]]]:
    """Check everything that is known before the run; give the run and the checked acquisitions."""
    processes = processes or SINGLE_PROCESS
    report = reporter_of(progress if processes.is_main else False)
    logged_before = len(getattr(report, "lines", ()))
    overrides = overrides_of(settings)
    limit = None if memory is None else checked_memory(memory)
    own_device = select_device(processes.device_name(str(device), torch.cuda.is_available()))
    with bars_end_here(), ExitStack() as stack:
        stack.enter_context(processes.connected(own_device))
        stack.enter_context(gpu_memory_limited(own_device, limit))
        chosen = read_pipeline(pipeline, overrides, scan_profile)
        group = chosen_group(group, chosen.scan_profile, scan_path(scan))
        source = stack.enter_context(open_source(scan, group))
        header, conversion = standard_scan(source.header, chosen.scan_profile)
        refuse_unfit_header(header, source.name, chosen, own_device)
        info = replace(ScanInfo.from_header(header, own_device, report), processes=processes)
        processes.refuse_unless_same(common_facts(header, info, chosen))
        path = scan_path(scan)
        read = settings_inputs(chosen)
        inputs = {"pipeline": pipeline_path(pipeline), **read}
        if (profile_path := scan_profile_path(scan_profile)) is not None:
            inputs["scan profile"] = profile_path
        if path is not None:
            inputs = {"scan": path, **inputs}
        given = {"command": list(command), "input": {"file": None, "name": source.name}}
        if path is not None:
            given = input_record(path, list(command), group, input_contents(read))
        run = _Run(chosen, info, header, inputs, given, logged_before)
        report.log(f"{source.name}: {described_run(source.n_acquisitions, info)}")
        available = memory_of_process(info) if limit is None else limit
        items = conversion.items(source.items(), info)
        if path is not None:  # a caller's iterator is not touched before the run
            info, items = with_channels_of(items, info)
        run.scan = info = fitted_to_memory(info, chosen.nodes, available)
        for kind, count in source.left_out.items():
            report.log(f"{source.name}: {count} messages {kind}: left out")
        number = source.n_acquisitions
        total = None if number is None else number + source.n_waveforms
        items = report.progress(items, "acquisitions", total=total)
        if isinstance(source, ScanFile):  # a file can be read twice
            items = checked_before(items, source, chosen, own_device, report)
        checked = checked_acquisitions(items, info, pipeline_policy(chosen))
        yield run, data_checked_by_all(checked, processes)


@dataclass
class _Run:
    """One run of a pipeline, in two hosts: up to the maps, and from the maps to files.

    Attributes
    ----------
    pipeline, scan
        What runs.
    header
        The scan's header, for the files.
    inputs
        Files that are read; they must not be in the output folder.
    given
        Beginning of the record.
    logged_before
        Number of lines that the reporter held before the run.
    """

    pipeline: Pipeline
    scan: ScanInfo
    header: bytes
    inputs: dict[str, Path]
    given: dict[str, Any]
    logged_before: int

    def __post_init__(self) -> None:
        nodes = self.pipeline.nodes
        count = len(nodes) - (nodes[-1].name == EXPORT)
        self.reconstruction = replace(self.pipeline, nodes=nodes[:count])
        self._last = replace(self.pipeline, nodes=nodes[count:])

    def to_folder(
        self,
        items: Iterable[Item],
        output: Path,
        overwrite: bool,
        scratch: Path | None,
        report: bool,
        pdf: bool,
    ) -> dict[str, Any]:
        """Reconstruct, and write files as they are made; return the record."""
        with self._folder(output, overwrite, scratch) as folder:
            start = time.perf_counter()
            host = InProcessHost(self.reconstruction, self.scan, start)
            maps: list[ParameterMaps] = []
            found = noted_maps(host.run(items), maps) if report else host.run(items)
            export = self._export(found, folder, self.scan, start)
            record = self._record(host, export)
            if report:
                record = self._with_report(folder, record, maps, pdf)
            folder.finish(record)
        return record

    def without_files(self, items: Iterable[Item]) -> dict[str, Any]:
        """Take part in a reconstruction whose files another process writes; return the record."""
        host = InProcessHost(self.reconstruction, self.scan)
        for _ in host.run(items):
            pass
        return self._record(host, None)

    def maps(self, items: Iterable[Item]) -> Maps:
        """Reconstruct; files are made of the maps when they are saved."""
        if not self._last.nodes:
            raise Mri2QmapError(
                f"pipeline {self.pipeline.name}: its last gadget must be {EXPORT}, whose settings "
                f"say how maps are masked; it is {self.pipeline.nodes[-1].name}"
            )
        from mri2qmap.parametric_maps import log_left_out

        log_left_out(self.scan)  # before the first acquisition
        host = InProcessHost(self.reconstruction, self.scan)
        kept: list[Item] = []
        for item in host.run(items):
            if isinstance(item, ParameterMaps):
                kept.append(on_cpu(item))
            elif not isinstance(item, ismrmrd.Acquisition | ismrmrd.Waveform):
                kept.append(item)
        arrays = exported_maps(kept, self.scan, self.pipeline.name, self._last.nodes[-1].settings)
        maps = replace(arrays, record=self._record(host, None))
        return maps.with_writer(_MapWriter(self, host, kept))

    def write(
        self, items: Iterable[Item], host: InProcessHost, output: Path, overwrite: bool
    ) -> None:
        """Write the files of maps that `host` has made."""
        device = self.scan.device
        if device.type == "cuda" and not torch.cuda.is_available():
            raise Mri2QmapError(
                f"output {output}: the maps were reconstructed on {device}, which their files and "
                "identifiers name, and there is no GPU here; save them where one is"
            )
        scan = replace(self.scan, report=NewLines(self.scan.report))
        with self._folder(output, overwrite) as folder:
            start = time.perf_counter() - host.total  # as if it had not waited
            maps: list[ParameterMaps] = []
            export = self._export(noted_maps(iter(items), maps), folder, scan, start)
            folder.finish(self._with_report(folder, self._record(host, export), maps))

    def _folder(self, output: Path, overwrite: bool, scratch: Path | None = None) -> OutputFolder:
        room, largest = output_bytes(self.pipeline, self.scan)
        return OutputFolder(
            output,
            self.header,
            overwrite,
            inputs=self.inputs,
            room=room,
            largest=largest,
            scratch=scratch,
        )

    def _export(
        self, items: Iterator[Item], folder: OutputFolder, scan: ScanInfo, start: float
    ) -> InProcessHost | None:
        """Write what the last gadget makes; return its host, if the pipeline has that gadget."""
        export = InProcessHost(self._last, scan, start) if self._last.nodes else None
        for item in items if export is None else export.run(items):
            folder.write(item)
        return export

    def _record(self, host: InProcessHost, export: InProcessHost | None) -> dict[str, Any]:
        report = self.scan.report
        lines = logged_lines(report, self.logged_before)
        found = described(lambda: run_record(host, lines, export), report)
        return {**with_digest(self.given), **found}

    def _with_report(
        self,
        folder: OutputFolder,
        record: dict[str, Any],
        maps: Sequence[ParameterMaps],
        pdf: bool = False,
    ) -> dict[str, Any]:
        settings = self._last.nodes[-1].settings if self._last.nodes else None
        threshold = getattr(settings, "mask_threshold", 0.0)
        known = maps[0] if len(maps) == 1 else None
        return record_with_report(
            folder, record, self.scan, self.header, lambda: known, threshold, pdf
        )


class _MapWriter:
    """Writes the maps of a run; it can be pickled, and then leaves the caller's reporter behind."""

    def __init__(self, run: _Run, host: InProcessHost, kept: list[Item]) -> None:
        self._run, self._host, self._kept = run, host, kept

    def __call__(self, folder: Path, overwrite: bool) -> None:
        """See `mri2qmap.evaluation.maps.MapWriter`."""
        self._run.write(self._kept, self._host, folder, overwrite)

    def __getstate__(self) -> dict[str, Any]:
        """Replace the reporter, which may hold a function or a terminal, by its lines."""
        report = QuietReporter()
        report.lines = cast(QuietReporter, self._run.scan.report).lines  # see `reporter_of`
        run, host = copy.copy(self._run), copy.copy(self._host)
        run.scan = host.scan = replace(self._run.scan, report=report)
        return {"_run": run, "_host": host, "_kept": self._kept}
