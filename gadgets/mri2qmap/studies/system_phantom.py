"""Accuracy and linearity of T1 and T2 in the spheres of the NIST/ISMRM system phantom."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

from mri2qmap.anatomy.sources import NIST
from mri2qmap.anatomy.system_phantom import SPHERES
from mri2qmap.anatomy.tissues import Tissue
from mri2qmap.anatomy.voxel_model import TissueFractions
from mri2qmap.errors import Mri2QmapError
from mri2qmap.mrsignal.dictionary import DictionarySettings, lookup_table
from mri2qmap.mrsignal.matching import at_table_end
from mri2qmap.mrsignal.sequence import default_sequence
from mri2qmap.pipeline.pipeline_file import Pipeline, read_pipeline
from mri2qmap.pipeline.progress import Reporter
from mri2qmap.simulation.mrd_writer import write_scan
from mri2qmap.simulation.simulator import Simulation, SimulationSettings, simulate
from mri2qmap.studies.cases import Case
from mri2qmap.studies.experiment_runner import (
    KEY,
    Subject,
    reconstruct,
    result_key,
    without_export,
)
from mri2qmap.studies.result_table import ResultTable

SPHERE_KEY = (*KEY, "sphere")
SPHERE_VALUES = ("t1", "t1_sd", "t2", "t2_sd", "at_end", "voxels")

_INSIDE = 0.999
"""Fraction of a voxel that a sphere must fill for the voxel to count."""

CASES = (
    Case(
        "least squares",
        "lrtv",
        {
            # 5 coefficients truncate the signals of the spheres: errors of a few per cent.
            "subspace_compression": {"coefficients": "8"},
            "toeplitz_cg": {"prior": "none", "iterations": "80", "tolerance": "3e-5"},
        },
    ),
    Case("LRTV", "lrtv"),
    Case("MRI2Qmap", "mri2qmap"),
)


@dataclass(frozen=True)
class SphereResult:
    """Measured T1 and T2 of one sphere by one method.

    Attributes
    ----------
    method, sphere
        The method and the sphere.
    t1, t1_sd, t2, t2_sd
        Means and standard deviations over the voxels of the sphere [s].
    at_end
        Fraction of these voxels whose match is at an end of the table (`at_table_end`).
    voxels
        Number of these voxels.
    """

    method: str
    sphere: Tissue
    t1: float
    t1_sd: float
    t2: float
    t2_sd: float
    at_end: float
    voxels: int

    @property
    def in_range(self) -> bool:
        """Whether the true T1 and T2 are within the table."""
        table = DictionarySettings()
        return all(
            low <= value <= high
            for value, (low, high) in (
                (self.sphere.t1, table.t1_range),
                (self.sphere.t2, table.t2_range),
            )
        )

    @property
    def errors(self) -> tuple[float, float]:
        """Errors of the means of T1 and T2 [%]."""
        return (
            100 * (self.t1 / self.sphere.t1 - 1),
            100 * (self.t2 / self.sphere.t2 - 1),
        )


def run_system_phantom(
    table: ResultTable, scan: SimulationSettings, device: torch.device, report: Reporter
) -> list[SphereResult]:
    """Reconstruct the phantom with each of `CASES`.

    Parameters
    ----------
    table
        Table with the columns `SPHERE_KEY` and `SPHERE_VALUES`. Results that it contains are not
        computed again.
    scan
        The scan; its anatomy must be "nist".
    device
        Device of the reconstructions.
    report
        Receives progress and log lines.

    Returns
    -------
        Results of all methods, each in all spheres.

    Raises
    ------
    Mri2QmapError
        If a sphere has no voxel that it fills.
    """
    subject = Subject(NIST, NIST)
    pipelines = [without_export(read_pipeline(case.pipeline, case.overrides)) for case in CASES]
    keys = [result_key(scan, pipeline, subject, "", device) for pipeline in pipelines]
    missing = [n for n, key in enumerate(keys) if table.get((*key, SPHERES[0].name)) is None]
    if missing:
        report.log("simulating the system phantom")
        simulation = simulate(scan, default_sequence(), report)
        regions = sphere_regions(simulation)
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "scan.h5"
            write_scan(file, simulation.scan, report)
            for number in missing:
                why = table.outdated((*keys[number], SPHERES[0].name))
                report.log(f"{CASES[number].label}{why}")
                rows = _measure(file, pipelines[number], regions, device, report)
                table.put({(*keys[number], name): values for name, values in rows})
    results = []
    for case, key in zip(CASES, keys, strict=True):
        for sphere in SPHERES:
            *times, at_end, n = (float(v) for v in table.get((*key, sphere.name)) or ())
            t1, t1_sd, t2, t2_sd = times
            results.append(SphereResult(case.label, sphere, t1, t1_sd, t2, t2_sd, at_end, int(n)))
    return results


def sphere_regions(simulation: Simulation) -> dict[str, NDArray[np.bool_]]:
    """Masks (z, y, x) of the voxels of each sphere, by its name: filled by it, without its surface.

    Raises
    ------
    Mri2QmapError
        If a sphere has no such voxel.
    """
    truth = simulation.truth
    assert isinstance(truth, TissueFractions)  # the spheres are tissues
    regions = {}
    for sphere in SPHERES:
        filled = truth.filled(sphere, _INSIDE)
        regions[sphere.name] = ndimage.binary_erosion(filled)
        if not regions[sphere.name].any():
            raise Mri2QmapError(
                f"sphere {sphere.name}: no voxel is completely inside it; use voxels of 2.5 mm or "
                "less and a field of view of 0.14 m or more"
            )
    return regions


def _measure(
    file: Path,
    pipeline: Pipeline,
    regions: dict[str, NDArray[np.bool_]],
    device: torch.device,
    report: Reporter,
) -> Iterator[tuple[str, tuple[float, ...]]]:
    maps, _ = reconstruct(file, pipeline, device, report)
    t1, t2 = maps.t1.cpu().numpy(), maps.t2.cpu().numpy()
    settings = pipeline.nodes[-1].settings.dictionary(1)
    ends = at_table_end(maps.t1, maps.t2, lookup_table(settings)).cpu().numpy()
    for name, region in regions.items():
        moments = [float(f(v[region])) for v in (t1, t2) for f in (np.mean, np.std)]
        yield name, (*moments, float(ends[region].mean()), int(region.sum()))
