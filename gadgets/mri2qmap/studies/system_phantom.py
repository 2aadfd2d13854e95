"""Accuracy and linearity of T1 and T2 in the spheres of the NIST/ISMRM system phantom."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy import ndimage

from mri2qmap.anatomy.sources import NIST
from mri2qmap.anatomy.system_phantom import SPHERES
from mri2qmap.anatomy.tissues import Tissue
from mri2qmap.errors import Mri2QmapError
from mri2qmap.mrsignal.dictionary import DictionarySettings, lookup_table
from mri2qmap.mrsignal.matching import at_table_end
from mri2qmap.mrsignal.sequence import default_sequence
from mri2qmap.pipeline.pipeline_file import Pipeline, read_pipeline
from mri2qmap.pipeline.progress import Reporter
from mri2qmap.simulation.mrd_writer import write_scan
from mri2qmap.simulation.simulator import Simulation, SimulationSettings, simulate
from mri2qmap.studies.catalogue import Case
from mri2qmap.studies.experiment_report import markdown
from mri2qmap.studies.experiment_runner import (
    KEY,
    Subject,
    reconstruct,
    result_key,
    until_maps,
)
from mri2qmap.studies.result_table import ResultTable

SPHERE_KEY = (*KEY, "sphere")
SPHERE_VALUES = ("t1", "t1_sd", "t2", "t2_sd", "at_end", "voxels")

_FINE = {"atom_step": "0.02"}
_TABLE = {"combined_matching": _FINE}
_FLAGGED = 0.5
"""Share of voxels at an end of the table from which on a sphere has no value."""
_INSIDE = 0.999
"""Share of a voxel that a sphere must fill to count as filled."""

CASES = (
    Case(
        "least squares",
        "lrtv",
        {
            # What 5 coefficients cannot hold of the spheres' signals is an error of a few per cent.
            "subspace_compression": {"coefficients": "8"},
            "toeplitz_cg": {"prior": "none", "iterations": "80", "tolerance": "3e-5"},
            **_TABLE,
        },
    ),
    Case("LRTV", "lrtv", _TABLE),
    Case("MRI2Qmap", "mri2qmap_single_coil", {"pnp_admm": _FINE, **_TABLE}),
)


@dataclass(frozen=True)
class SphereResult:
    """What a method found in a sphere.

    Attributes
    ----------
    method, sphere
        Which.
    t1, t1_sd, t2, t2_sd
        Means and standard deviations over its voxels [s].
    at_end
        Share of these that lie at an end of the table (`at_table_end`).
    voxels
        How many there are.
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
        """Whether the true T1 and T2 lie within the table."""
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
        With the columns `SPHERE_KEY` and `SPHERE_VALUES`: what it holds is not computed again.
    scan
        The scan; its anatomy must be "nist".
    device, report
        Where to work, and who takes progress.

    Raises
    ------
    Mri2QmapError
        If a sphere has no voxel of its own.
    """
    subject = Subject(NIST, NIST)
    pipelines = [until_maps(read_pipeline(case.pipeline, case.overrides)) for case in CASES]
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
                report.log(CASES[number].label)
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
    """Voxels (z, y, x) of each sphere that are read: filled by it, and not at its surface.

    Raises
    ------
    Mri2QmapError
        If a sphere has none.
    """
    truth = simulation.truth
    regions = {}
    for sphere in SPHERES:
        filled = (
            truth.fractions[truth.tissues.index(sphere)] > _INSIDE
            if sphere in truth.tissues
            else np.zeros(truth.brain.shape, dtype=bool)
        )
        regions[sphere.name] = ndimage.binary_erosion(filled)
        if not regions[sphere.name].any():
            raise Mri2QmapError(
                f"sphere {sphere.name}: no voxel lies well inside it; use voxels of 2.5 mm or less "
                "and a field of view of 0.14 m or more"
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


def sphere_table(results: Sequence[SphereResult]) -> str:
    """Markdown: errors of each sphere by each method, then how linear each method is."""
    methods = list(dict.fromkeys(result.method for result in results))
    heads = ["sphere", "T1 [ms]", "T2 [ms]", *(f"{m}: T1, T2 [%]" for m in methods)]
    rows = []
    for sphere in SPHERES:
        of_sphere = [r for r in results if r.sphere == sphere]
        cells = [f"{1e3 * time:.3g}" for time in (sphere.t1, sphere.t2)]
        mark = "" if of_sphere[0].in_range else " (outside the table)"
        rows.append([sphere.name + mark, *cells, *map(_errors_cell, of_sphere)])
    summary = []
    for method in methods:
        inside = [r for r in results if r.method == method and r.in_range]
        largest = np.abs([r.errors for r in inside]).max(0)
        fits = [linear_fit(inside, name) for name in ("t1", "t2")]
        summary.append(
            [
                method,
                ", ".join(f"{value:.1f}" for value in largest),
                ", ".join(f"{slope:.3f}" for slope, _ in fits),
                ", ".join(f"{square:.5f}" for _, square in fits),
            ]
        )
    below = markdown(["method", "largest error T1, T2 [%]", "slope T1, T2", "R^2 T1, T2"], summary)
    return f"{markdown(heads, rows)}\n\nWithin the table:\n\n{below}"


def _errors_cell(result: SphereResult) -> str:
    """Errors, or that the maps tell by themselves that there is no value."""
    if result.at_end > _FLAGGED:
        return "at the table's end"
    return "{:+.1f}, {:+.1f}".format(*result.errors)


def linear_fit(results: Sequence[SphereResult], name: str) -> tuple[float, float]:
    """Slope and R^2 of the found times over the true ones, over spheres."""
    true = np.array([getattr(result.sphere, name) for result in results])
    found = np.array([getattr(result, name) for result in results])
    slope = np.polyfit(true, found, 1)[0]
    return float(slope), float(np.corrcoef(true, found)[0, 1] ** 2)


def sphere_rows(results: Sequence[SphereResult]) -> list[list[str]]:
    """A heading, and a row for each sphere and method; times in seconds."""
    rows = [["method", "sphere", "t1_true", "t2_true", *SPHERE_VALUES, "in_range"]]
    for r in results:
        numbers = (r.sphere.t1, r.sphere.t2, r.t1, r.t1_sd, r.t2, r.t2_sd)
        cells = [f"{number:.6g}" for number in (*numbers, r.at_end)]
        rows.append([r.method, r.sphere.name, *cells, str(r.voxels), str(r.in_range).lower()])
    return rows


def write_sphere_figure(path: Path, results: Sequence[SphereResult]) -> None:
    """Bland-Altman plots: differences over means, with bias and limits of agreement."""
    methods = list(dict.fromkeys(result.method for result in results))
    with matplotlib.rc_context({"font.size": 9}):
        figure = Figure(figsize=(8, 2.4 * len(methods)), layout="constrained")
        axes = figure.subplots(len(methods), 2, squeeze=False)
        for row, method in zip(axes, methods, strict=True):
            for plot, name in zip(row, ("t1", "t2"), strict=True):
                for inside, marker in ((True, "o"), (False, "x")):
                    chosen = [r for r in results if r.method == method and r.in_range == inside]
                    means, differences = _bland_altman(chosen, name)
                    label = "within the table" if inside else "outside"
                    plot.plot(1e3 * means, differences, marker, label=label, markersize=4)
                    if inside:
                        bias, spread = differences.mean(), 1.96 * differences.std(ddof=1)
                        for level, style in (
                            (bias, "-"),
                            (bias - spread, ":"),
                            (bias + spread, ":"),
                        ):
                            plot.axhline(level, color="grey", linestyle=style, linewidth=0.8)
                        room = max(3.0, 3 * (abs(bias) + spread))
                        plot.set_ylim(-room, room)
                plot.set_xscale("log")
                plot.set_xlabel(f"mean of true and found {name.upper()} [ms]")
                plot.set_ylabel("difference [%]")
                plot.set_title(f"{method}, {name.upper()}")
        axes[0, 0].legend(frameon=False)
        figure.savefig(path, format="png", dpi=150)


def _bland_altman(
    results: Sequence[SphereResult], name: str
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Means [s] and differences [% of the mean] of found and true times."""
    true = np.array([getattr(result.sphere, name) for result in results])
    found = np.array([getattr(result, name) for result in results])
    means = (true + found) / 2
    return means, 100 * (found - true) / np.where(means > 0, means, math.nan)
