"""`mri2qmap.reconstruct`: from raw data to maps, in this process."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from mri2qmap.api.joint_run import common_facts, data_checked_by_all, memory_of_process
from mri2qmap.api.progress import Progress, reporter_of
from mri2qmap.api.resuming import resumable
from mri2qmap.api.run import Run
from mri2qmap.api.run_output import (
    described_run,
    settings_inputs,
)
from mri2qmap.api.scans import ScanInput, open_source, scan_path
from mri2qmap.api.settings import Settings, overrides_of
from mri2qmap.evaluation.maps import Maps
from mri2qmap.files.scan_files import ScanFile, chosen_group
from mri2qmap.hosts.gpu_fallback import fitted_or_on_cpu
from mri2qmap.hosts.run_record import input_contents, input_record
from mri2qmap.machine.devices import AUTO, gpu_memory_limited, select_device
from mri2qmap.machine.process_group import SINGLE_PROCESS, ProcessGroup
from mri2qmap.pipeline.acquisition_checks import checked_acquisitions
from mri2qmap.pipeline.acquisition_policy import pipeline_policy
from mri2qmap.pipeline.items import Item
from mri2qmap.pipeline.memory_plan import checked_memory, with_channels_of
from mri2qmap.pipeline.pipeline_file import pipeline_path, read_pipeline
from mri2qmap.pipeline.progress_bars import bars_end_here
from mri2qmap.pipeline.scan_header import ScanInfo
from mri2qmap.pipeline.scan_profile_files import ScanProfileInput, scan_profile_path
from mri2qmap.pipeline.standard_scan import standard_scan
from mri2qmap.storage.inputs import as_path
from mri2qmap.validation.examination import checked_before, refuse_unfit_header

DEFAULT_PIPELINE = "mri2qmap"


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
) -> Iterator[tuple[Run, Iterator[Item]]]:
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
        cpu_allowed = str(device) == AUTO
        run = Run(chosen, info, header, inputs, given, logged_before, cpu_allowed)
        report.log(f"{source.name}: {described_run(source.n_acquisitions, info)}")
        items = conversion.items(source.items(), info)
        if path is not None:  # a caller's iterator is not touched before the run
            info, items = with_channels_of(items, info)
        run.scan = info = fitted_or_on_cpu(
            info,
            chosen.nodes,
            lambda fitted: memory_of_process(fitted) if limit is None else limit,
            cpu_allowed,
        )
        for kind, count in source.left_out.items():
            report.log(f"{source.name}: {count} messages {kind}: left out")
        number = source.n_acquisitions
        total = None if number is None else number + source.n_waveforms
        items = report.progress(items, "acquisitions", total=total)
        if isinstance(source, ScanFile):  # a file can be read twice
            items = checked_before(items, source, chosen, own_device, report)
        checked = checked_acquisitions(items, info, pipeline_policy(chosen))
        yield run, data_checked_by_all(checked, processes)
