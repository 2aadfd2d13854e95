"""What a report says, however it is drawn."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mri2qmap.export.anatomical_planes import middle, planes
from mri2qmap.recon.object_mask import SIGNAL, object_mask
from mri2qmap.report.findings import Finding, Light, findings, overall, tissue_findings
from mri2qmap.report.run_facts import RunFacts
from mri2qmap.report.tissue_peaks import (
    T1_BIN,
    T1_LIMIT,
    T2_BIN,
    T2_LIMIT,
    Histogram,
    TissuePeak,
    histogram,
    tissue_peaks,
)
from mri2qmap.report.tissue_ranges import nearest_field
from mri2qmap.report.volumes import ReportVolume

PLANE_NAMES = ("axial", "coronal", "sagittal")
TITLES = {
    Light.GREEN: "Nothing unusual was found",
    Light.AMBER: "Look at these before you use the maps",
    Light.RED: "Do not use these maps before this is explained",
}


@dataclass(frozen=True)
class Plane:
    """A slice: values (rows, columns), height over width of a pixel, and four letters.

    The letters are the directions at its left, right, top and bottom edges.
    """

    values: NDArray[np.float64]
    aspect: float
    letters: str


@dataclass(frozen=True)
class ReportContent:
    """Everything that is shown.

    Attributes
    ----------
    identity
        Name of the scan without patient data.
    made
        When the report was made; None: not told.
    run
        The record of the run.
    scan
        The scan, as ``scan`` in run.json.
    volumes
        Maps and images; empty where the maps are not known here.
    centre
        Voxel (right, anterior, superior) in the middle of the object.
    histograms
        Of T1 and T2, by name; empty without maps.
    peaks
        White and grey matter.
    field
        Field strength of the published ranges [T]; None: none fits.
    findings
        All that was looked at, the most serious first.
    light
        The traffic light.
    """

    identity: str
    made: datetime.datetime | None
    run: RunFacts
    scan: Mapping[str, Any]
    volumes: Sequence[ReportVolume]
    centre: tuple[int, int, int]
    histograms: Mapping[str, Histogram]
    peaks: Sequence[TissuePeak]
    field: float | None
    findings: Sequence[Finding]
    light: Light

    @property
    def of_run(self) -> bool:
        """Whether the run is described, and not only its maps."""
        return self.made is not None

    def planes(self, volume: ReportVolume) -> list[Plane]:
        """Return an axial, a coronal and a sagittal slice through the middle of the object."""
        cut = planes(volume.values().T, volume.affine, self.centre[::-1])
        return [Plane(*plane) for plane in cut]


def report_content(
    record: Mapping[str, Any],
    scan: Mapping[str, Any],
    identity: str,
    volumes: Sequence[ReportVolume],
    made: datetime.datetime | None = None,
) -> ReportContent:
    """Collect and judge what a report says.

    Parameters
    ----------
    record
        Record of the run, as in run.json.
    scan, identity, volumes
        See `ReportContent`.
    made
        When the report is made; None: not told.
    """
    run = RunFacts(record)
    by_name = {volume.name: volume for volume in volumes}
    t1, t2 = by_name.get("T1map"), by_name.get("T2map")
    peaks: list[TissuePeak] = []
    histograms: dict[str, Histogram] = {}
    centre, quality = (0, 0, 0), None
    strength = scan.get("field_strength_t")
    if t1 is not None and t2 is not None:
        inside = _object(by_name)
        times = t1.values() * inside, t2.values() * inside
        peaks = tissue_peaks(*times)
        histograms = {
            "T1": histogram(times[0], T1_LIMIT, T1_BIN),
            "T2": histogram(times[1], T2_LIMIT, T2_BIN),
        }
        z, y, x = middle(times[0].T)
        centre = (x, y, z)
        if "matchquality" in by_name and inside.any():
            quality = float(np.median(by_name["matchquality"].values()[inside]))
    found = findings(run.facts(quality))
    if histograms:
        found += tissue_findings(peaks, strength)
    order = {Light.RED: 0, Light.AMBER: 1, Light.NOTE: 2, Light.GREEN: 3}
    return ReportContent(
        identity=identity,
        made=made,
        run=run,
        scan=scan,
        volumes=volumes,
        centre=centre,
        histograms=histograms,
        peaks=peaks,
        field=nearest_field(strength),
        findings=sorted(found, key=lambda finding: order[finding.light]),
        light=overall(found),
    )


def _object(volumes: Mapping[str, ReportVolume]) -> NDArray[np.bool_]:
    """Return where there is signal and T1 (right, anterior, superior); maps need not be masked."""
    inside = volumes["T1map"].values() > 0
    if "PDmap" in volumes:
        inside &= object_mask(volumes["PDmap"].values(), SIGNAL)
    return inside


def scan_rows(content: ReportContent) -> list[tuple[str, str]]:
    """Return what was scanned and how well, as pairs of a name and a value in words."""
    scan, run = content.scan, content.run
    matrix, voxel = scan["matrix_zyx"][::-1], scan["voxel_size_zyx_m"][::-1]
    rows = [
        ("Matrix (x, y, z)", " x ".join(str(n) for n in matrix)),
        ("Voxel size (x, y, z)", " x ".join(f"{1e3 * edge:.3g}" for edge in voxel) + " mm"),
        ("Field strength", _quantity(scan.get("field_strength_t"), "{:.3g} T")),
        ("Time frames", str(scan["frames"])),
        ("Flip angles", "{:.3g} to {:.3g} degrees".format(*scan["flip_angle_min_max_deg"])),
        ("TR", _span(scan["tr_min_max_s"])),
        ("TE", _span(scan["te_min_max_s"])),
        ("TI", f"{1e3 * scan['ti_s']:.3g} ms"),
    ]
    numbers = (
        ("Receive coils", "coils", "{:.0f}"),
        ("Virtual coils", "virtual_coils", "{:.0f}"),
        ("Energy kept by coil compression", "energy_kept", "{:.2%}"),
        ("Noise samples of each coil", "noise_samples", "{:.0f}"),
        ("Correlation of the noise of two coils, largest", "noise_correlation_largest", "{:.2f}"),
        ("Correlation of the noise of two coils, mean", "noise_correlation_mean", "{:.2f}"),
        ("Noise of the noisiest over the quietest coil", "noise_deviation_ratio", "{:.2f}"),
        ("Subspace coefficients", "coefficients", "{:.0f}"),
        ("Energy of the fingerprints in the subspace", "subspace_energy", "{:.3%}"),
        ("Noise and aliasing before the prior, of the signal", "relative_noise", "{:.1%}"),
        ("Conjugate gradients: steps", "cg_steps", "{:.0f}"),
        ("Conjugate gradients: relative residual", "cg_residual", "{:.1e}"),
        ("Voxels at a limit of the table", "at_table_limit", "{:.1%}"),
    )
    measured = [(label, run.measured(key), form) for label, key, form in numbers]
    if content.of_run:
        return rows + [(label, _quantity(value, form)) for label, value, form in measured]
    return rows + [(label, form.format(v)) for label, v, form in measured if v is not None]


def _quantity(value: float | None, form: str) -> str:
    return "not recorded" if value is None else form.format(value)


def _span(seconds: Sequence[float]) -> str:
    low, high = (f"{1e3 * value:.3g}" for value in seconds)
    return f"{low} ms" if low == high else f"{low} to {high} ms"
