"""Run the reconstructions of an experiment; results that exist are not computed again."""

from __future__ import annotations

import hashlib
import json
import math
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from mri2qmap.anatomy.sources import anatomy_hash
from mri2qmap.denoiser.checkpoint import model_path
from mri2qmap.errors import Mri2QmapError
from mri2qmap.evaluation.evaluate import evaluate, truth_dictionary
from mri2qmap.evaluation.maps import Maps
from mri2qmap.export.quantity import Quantity
from mri2qmap.export.volumes import export_volumes
from mri2qmap.files.mrd_file import MrdFile
from mri2qmap.hosts.in_process import InProcessHost, reset_peak_memory
from mri2qmap.machine.devices import device_name, select_device
from mri2qmap.mrsignal.sequence import default_sequence
from mri2qmap.pipeline.acquisition_checks import checked_acquisitions
from mri2qmap.pipeline.acquisition_policy import pipeline_policy
from mri2qmap.pipeline.items import ParameterMaps
from mri2qmap.pipeline.pipeline_file import Pipeline, read_pipeline
from mri2qmap.pipeline.progress import Reporter
from mri2qmap.pipeline.provenance import file_digest
from mri2qmap.pipeline.scan_header import ScanInfo
from mri2qmap.pipeline.settings import settings_as_dict
from mri2qmap.pipeline.standard_scan import standard_scan
from mri2qmap.simulation.mrd_writer import write_scan
from mri2qmap.simulation.simulator import SimulationSettings, simulate
from mri2qmap.simulation.truth import Truth, read_truth, write_truth
from mri2qmap.studies.cases import Case, Experiment
from mri2qmap.studies.catalogue import QUALITY, TEXTURE, TRUE_B1
from mri2qmap.studies.extra_tables import ExtraTable, ExtraTables, Key
from mri2qmap.studies.iterations import ITERATIONS, IterationWatch
from mri2qmap.studies.reliability import RELIABILITY, Reliability, reliability
from mri2qmap.studies.result_table import ResultTable

KEY = ("anatomy", "content", "scan", "pipeline", "settings", "device")
"""Columns that identify a reconstruction, see `result_key`."""
EXTRA_TABLES = (ITERATIONS, RELIABILITY)
ERRORS = tuple(
    f"{name}_{key}"
    for name in ("mape", "lower_bound_matching", "lower_bound_sphere")
    for key in ("t1", "t2", "t1_t2")
)
GADGET_TIMES = {
    "seconds_cg": "toeplitz_cg",
    "seconds_admm": "pnp_admm",
    "seconds_matching": "combined_matching",
}
METRICS = (*ERRORS, "cosine_distance", *QUALITY, *TEXTURE, "seconds", "peak_gib", *GADGET_TIMES)
"""Errors [%], PSNR [dB], SSIM [%], local standard deviations in white matter over those of the
truth, times [s] and peak memory of the process [GiB]."""
MASK_THRESHOLD = 0.05
"""Of the exported maps, see `export_volumes`."""


@dataclass(frozen=True)
class Subject:
    """An anatomy to scan.

    Attributes
    ----------
    name
        Name in tables.
    source
        See `mri2qmap.anatomy.sources.load_anatomy`.
    """

    name: str
    source: str

    def content(self) -> str:
        """Short hash of its files, which distinguishes different files of the same name."""
        return anatomy_hash(self.source)


@dataclass(frozen=True)
class Result:
    """Metrics of one case for one scan; NaN if a metric was not measured.

    `extra_rows` are the rows of the extra table of the experiment, if it has one.
    """

    case: Case
    subject: str
    seed: int
    metrics: Mapping[str, float]
    extra_rows: tuple[Any, ...] = ()


class ExperimentRunner:
    """Simulates scans and reconstructs them.

    Parameters
    ----------
    table
        Table with the columns `KEY` and `METRICS`. Results that it contains are not computed again;
        new results are added immediately.
    scan
        The scan; anatomy, seed and, for some cases, acceleration, noise and B1 are replaced.
    device
        See `select_device`.
    report
        Receives progress and log lines.
    extra_tables
        Like `table`: the tables `EXTRA_TABLES` with the columns `KEY`.
    """

    def __init__(
        self,
        table: ResultTable,
        scan: SimulationSettings,
        device: str = "auto",
        report: Reporter | None = None,
        extra_tables: ExtraTables | None = None,
    ) -> None:
        self._table = table
        self._extra_tables = extra_tables
        self._scan = scan
        self._device = select_device(device)
        self._report = report or Reporter()

    def run(
        self, experiment: Experiment, subjects: Sequence[Subject], seeds: Sequence[int]
    ) -> list[Result]:
        """Return the results of all cases for all subjects and seeds.

        Raises
        ------
        Mri2QmapError
            If an anatomy or a pipeline cannot be used.
        ValueError
            If the experiment has an extra table, and this runner has none.
        """
        extra_table = experiment.extra_table
        if extra_table is not None and self._extra_tables is None:
            raise ValueError(f"an experiment with {extra_table.name} needs extra_tables")
        cases = experiment.cases(self._scan.coils == 1)
        pipelines = [without_export(read_pipeline(c.pipeline, c.overrides)) for c in cases]
        results: list[Result] = []
        for subject in subjects:
            content = subject.content()
            for seed in seeds:
                for scan, numbers in self._scans(cases, subject, seed):
                    chosen = [(cases[n], pipelines[n]) for n in numbers]
                    results += self._results(scan, chosen, subject, content, extra_table)
        order = {id(case): number for number, case in enumerate(cases)}
        return sorted(results, key=lambda result: order[id(result.case)])

    def _scans(
        self, cases: Sequence[Case], subject: Subject, seed: int
    ) -> Iterator[tuple[SimulationSettings, list[int]]]:
        """The different scans of the cases, each with the indices of its cases."""
        of_scan: dict[SimulationSettings, list[int]] = {}
        for number, case in enumerate(cases):
            own = {
                name: getattr(case, name)
                for name in ("acceleration", "noise", "b1_spread")
                if getattr(case, name) is not None
            }
            scan = replace(self._scan, anatomy=subject.source, seed=seed, **own)
            of_scan.setdefault(scan, []).append(number)
        yield from of_scan.items()

    def _results(
        self,
        scan: SimulationSettings,
        cases: Sequence[tuple[Case, Pipeline]],
        subject: Subject,
        content: str,
        extra_table: ExtraTable | None,
    ) -> Iterator[Result]:
        keys = [result_key(scan, p, subject, content, self._device) for _, p in cases]

        def rows(key: Key, pipeline: Pipeline) -> tuple[Any, ...] | None:
            if extra_table is None or self._extra_tables is None:
                return ()
            return self._extra_tables.get(extra_table, key, pipeline)

        def is_known(key: Key, pipeline: Pipeline) -> bool:
            return self._table.get(key) is not None and rows(key, pipeline) is not None

        if not all(is_known(key, p) for (_, p), key in zip(cases, keys, strict=True)):
            with _simulated(scan, self._report) as (file, truth):
                for (case, pipeline), key in zip(cases, keys, strict=True):
                    if not is_known(key, pipeline):
                        why = self._table.outdated(key)
                        self._report.log(f"{subject.name}, seed {scan.seed}: {case.label}{why}")
                        self._compute(key, file, truth, pipeline)
        for (case, pipeline), key in zip(cases, keys, strict=True):
            values = self._table.get(key) or ()
            metrics = {
                name: float(value) if value else math.nan
                for name, value in zip(METRICS, values, strict=True)
            }
            yield Result(case, subject.name, scan.seed, metrics, rows(key, pipeline) or ())

    def _compute(self, key: Key, file: Path, truth: Truth, pipeline: Pipeline) -> None:
        """Reconstruct, and add the result to all tables."""
        watch = IterationWatch(truth, self._report)
        metrics, deviations = self._reconstruct(file, truth, pipeline, watch)
        if self._extra_tables is not None:
            self._extra_tables.put(key, {ITERATIONS: watch.errors, RELIABILITY: deviations})
        self._table.put({key: tuple(metrics[name] for name in METRICS)})

    def _reconstruct(
        self, file: Path, truth: Truth, pipeline: Pipeline, report: Reporter
    ) -> tuple[dict[str, float | None], list[Reliability]]:
        """All metrics of one reconstruction, and the rows of its standard deviations, if any."""
        peak_is_its_own = reset_peak_memory()  # not the peak of the previous case
        pipeline = with_true_b1(pipeline, file.parent)
        maps, host = reconstruct(file, pipeline, self._device, report)
        peak = max(timing.rss_peak for timing in host.timings) / 2**30
        exported = export_volumes(maps, mask_threshold=MASK_THRESHOLD).volumes
        volumes = {quantity: volume.values for quantity, volume in exported.items()}
        values = Maps(
            *(volumes[q] for q in (Quantity.T1, Quantity.T2, Quantity.PROTON_DENSITY)),
            receive_field=maps.receive_field,
        )
        found = evaluate(values, truth, truth_dictionary(truth))
        busy = {timing.name: timing.busy for timing in host.timings}
        metrics = {
            **{name: found[name] for name in (*ERRORS, "cosine_distance", *QUALITY)},
            **{
                name: found["texture"][name.removeprefix("texture_")]["deviation_ratio"]
                for name in TEXTURE
            },
            "seconds": host.total,
            "peak_gib": peak if peak_is_its_own else None,
            **{name: busy.get(gadget) for name, gadget in GADGET_TIMES.items()},
        }
        return metrics, reliability(volumes, truth)


def reconstruct(
    file: Path, pipeline: Pipeline, device: torch.device, report: Reporter
) -> tuple[ParameterMaps, InProcessHost]:
    """Run a pipeline that ends with the maps; return them, and the host with times and memory."""
    with MrdFile(file) as mrd:
        header, conversion = standard_scan(mrd.header, pipeline.scan_profile)
        scan = ScanInfo.from_header(header, device, report)
        host = InProcessHost(pipeline, scan)
        converted = conversion.items(mrd.items(), scan)
        items = host.run(checked_acquisitions(converted, scan, pipeline_policy(pipeline)))
        (maps,) = (item for item in items if isinstance(item, ParameterMaps))
    return maps, host


def result_key(
    scan: SimulationSettings,
    pipeline: Pipeline,
    subject: Subject,
    content: str,
    device: torch.device,
) -> Key:
    """Everything that determines the result of a reconstruction, as the columns `KEY`."""
    described = {**asdict(scan), "anatomy": subject.name}
    settings = json.dumps([[node.name, settings_as_dict(node.settings)] for node in pipeline.nodes])
    return (
        subject.name,
        content,
        json.dumps(described, default=str),
        pipeline.name,
        hashlib.sha256(settings.encode() + _weights(pipeline)).hexdigest()[:12],
        device_name(device),
    )


def without_export(pipeline: Pipeline) -> Pipeline:
    """Remove the gadget that writes files from a pipeline."""
    nodes = tuple(node for node in pipeline.nodes if node.name != "parametric_maps")
    return replace(pipeline, nodes=nodes)


def with_true_b1(pipeline: Pipeline, folder: Path) -> Pipeline:
    """Replace `TRUE_B1` in the settings of a pipeline by the B1 map in the folder of the scan."""
    nodes = (
        replace(node, settings=replace(node.settings, b1_map=str(folder / TRUE_B1)))
        if getattr(node.settings, "b1_map", "") == TRUE_B1
        else node
        for node in pipeline.nodes
    )
    return replace(pipeline, nodes=tuple(nodes))


def _weights(pipeline: Pipeline) -> bytes:
    """SHA-256 of each network that a pipeline uses, one after the other."""
    names = [getattr(node.settings, "denoiser", "none") for node in pipeline.nodes]
    digests = [file_digest(model_path(name)) for name in names if name != "none"]
    return "".join(digests).encode()


@contextmanager
def _simulated(settings: SimulationSettings, report: Reporter) -> Iterator[tuple[Path, Truth]]:
    """Simulate a scan into a temporary folder; yield its file and its truth."""
    report.log(f"simulating {settings.anatomy}, R = {settings.acceleration:g}")
    simulation = simulate(settings, default_sequence(), report)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_scan(folder / "scan.h5", simulation.scan, report)
        (folder / "truth").mkdir()
        write_truth(folder / "truth", simulation, settings)
        del simulation
        truth = read_truth(folder / "truth")
        if not (truth.white_matter | truth.grey_matter).any():
            raise Mri2QmapError(
                f"{settings.anatomy}: no voxel contains more than 90 % white or grey matter; use "
                "smaller voxels (more of them, or a smaller field of view)"
            )
        yield folder / "scan.h5", truth
