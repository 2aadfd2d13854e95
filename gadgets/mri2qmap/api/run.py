"""One run of a pipeline: from checked acquisitions to maps, and from maps to files."""

from __future__ import annotations

import copy
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import ismrmrd
import torch

from mri2qmap.api.progress import NewLines, QuietReporter
from mri2qmap.api.run_items import exported_maps, noted_maps, on_cpu
from mri2qmap.api.run_output import described, output_bytes, record_with_report
from mri2qmap.errors import Mri2QmapError
from mri2qmap.evaluation.maps import Maps
from mri2qmap.files.output_folder import OutputFolder
from mri2qmap.hosts.in_process import InProcessHost
from mri2qmap.hosts.run_record import run_record, with_digest
from mri2qmap.pipeline.items import Item, ParameterMaps
from mri2qmap.pipeline.pipeline_file import Pipeline
from mri2qmap.pipeline.progress import logged_lines
from mri2qmap.pipeline.scan_header import ScanInfo

EXPORT = "parametric_maps"
"""The gadget that makes files of the maps; it comes last."""


@dataclass
class Run:
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
    cpu_allowed
        Whether the CPU may take over from a GPU whose memory is exhausted.
    """

    pipeline: Pipeline
    scan: ScanInfo
    header: bytes
    inputs: dict[str, Path]
    given: dict[str, Any]
    logged_before: int
    cpu_allowed: bool = False

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
            host = self._host(start)
            maps: list[ParameterMaps] = []
            found = noted_maps(host.run(items), maps) if report else host.run(items)
            export = self._export(found, folder, host, self.scan, start)
            record = self._record(host, export)
            if report:
                record = self._with_report(folder, record, maps, pdf)
            folder.finish(record)
        return record

    def without_files(self, items: Iterable[Item]) -> dict[str, Any]:
        """Take part in a reconstruction whose files another process writes; return the record."""
        host = self._host()
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
        host = self._host()
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
        device = host.scan.device
        if device.type == "cuda" and not torch.cuda.is_available():
            raise Mri2QmapError(
                f"output {output}: the maps were reconstructed on {device}, which their files and "
                "identifiers name, and there is no GPU here; save them where one is"
            )
        scan = replace(host.scan, report=NewLines(self.scan.report))
        with self._folder(output, overwrite) as folder:
            start = time.perf_counter() - host.total  # as if it had not waited
            maps: list[ParameterMaps] = []
            export = self._export(noted_maps(iter(items), maps), folder, host, scan, start)
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

    def _host(self, start: float | None = None) -> InProcessHost:
        """Return the host of the reconstruction."""
        return InProcessHost(
            self.reconstruction, self.scan, start, recover=True, cpu_allowed=self.cpu_allowed
        )

    def _export(
        self,
        items: Iterator[Item],
        folder: OutputFolder,
        host: InProcessHost,
        scan: ScanInfo,
        start: float,
    ) -> InProcessHost | None:
        """Write what the last gadget makes of the output of a host.

        Returns the host of the last gadget, if the pipeline has that gadget.
        """
        last = self._last
        export = InProcessHost(last, scan, start, after=host) if last.nodes else None
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

    def __init__(self, run: Run, host: InProcessHost, kept: list[Item]) -> None:
        self._run, self._host, self._kept = run, host, kept

    def __call__(self, folder: Path, overwrite: bool) -> None:
        """See `mri2qmap.evaluation.maps.MapWriter`."""
        self._run.write(self._kept, self._host, folder, overwrite)

    def __getstate__(self) -> dict[str, Any]:
        """Replace the reporter, which may hold a function or a terminal, by its lines."""
        report = QuietReporter()
        report.lines = cast(QuietReporter, self._run.scan.report).lines  # see `reporter_of`
        run, host = copy.copy(self._run), copy.copy(self._host)
        run.scan = replace(run.scan, report=report)
        host.scan = replace(host.scan, report=report)
        return {"_run": run, "_host": host, "_kept": self._kept}
