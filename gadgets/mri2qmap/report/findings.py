"""What a run is judged by: the rules of the traffic light, their thresholds, and why these."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Literal

from mri2qmap.report.tissue_peaks import TissuePeak
from mri2qmap.report.tissue_ranges import (
    FIELDS,
    Time,
    nearest_field,
    published_range,
)


class Light(IntEnum):
    """How serious a finding is. A note does not count for the traffic light of the run."""

    NOTE = 0
    GREEN = 1
    AMBER = 2
    RED = 3


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at: how it is, and the rule in words."""

    light: Light
    text: str
    rule: str = ""


@dataclass(frozen=True)
class Facts:
    """What the rules look at; None: not recorded.

    Attributes
    ----------
    incomplete
        What of the scan is missing, in words; empty: nothing.
    voxels_not_finite
        Voxels that were set to 0 because a value was not finite.
    match_quality
        Median over the object of the inner product of signal and matched atom.
    at_table_limit
        Share of the voxels of the object that are at a limit of the table of relaxation times.
    coils, noise_samples
        Receive coils, and noise samples of each; 0: there was no noise scan.
    noise_correlation
        Largest correlation of the noise of two coils.
    noise_deviation_ratio
        Largest over smallest standard deviation of the noise of a coil.
    energy_kept
        Share of the signal energy after coil compression.
    subspace_energy
        Share of the energy of the fingerprints in the subspace.
    relative_noise
        Noise and aliasing of the least-squares images, relative to their intensity.
    cg_residual
        Final relative residual of the least-squares reconstruction.
    primal
        Primal residual of each ADMM iteration, relative to the images.
    peak_bytes, grown_bytes, planned_bytes
        Peak memory, by how much the run raised it, and the plan.
    attempts
        Why the scan was reconstructed once more, and how.
    incomplete_record
        Why the run could not be described in full; empty: it could.
    """

    incomplete: str | None = None
    voxels_not_finite: float | None = None
    match_quality: float | None = None
    at_table_limit: float | None = None
    coils: float | None = None
    noise_samples: float | None = None
    noise_correlation: float | None = None
    noise_deviation_ratio: float | None = None
    energy_kept: float | None = None
    subspace_energy: float | None = None
    relative_noise: float | None = None
    cg_residual: float | None = None
    primal: Sequence[float] = ()
    peak_bytes: float | None = None
    grown_bytes: float | None = None
    planned_bytes: float | None = None
    attempts: Sequence[str] = ()
    incomplete_record: str = ""


@dataclass(frozen=True)
class Rule:
    """Thresholds of one fact.

    Attributes
    ----------
    fact
        Name of the attribute of `Facts`.
    worse
        On which side of the thresholds it is worse.
    amber, red
        Thresholds; NaN: there is none.
    text
        Says the value; ``{:...}`` is replaced by it.
    advice
        What to do when it is amber or red.
    source
        Why these thresholds.
    """

    fact: str
    worse: Literal["above", "below"]
    amber: float
    red: float
    text: str
    advice: str
    source: str

    def light(self, value: float) -> Light:
        """Return how serious a value is; one that is not a number is red."""
        if math.isnan(value):
            return Light.RED
        for light, limit in ((Light.RED, self.red), (Light.AMBER, self.amber)):
            if value > limit if self.worse == "above" else value < limit:
                return light
        return Light.GREEN


NO_LIMIT = math.nan
"""Stands for a threshold that there is not."""
_SIMULATED = "from simulated scans of this project, no in-vivo data"
RULES = (
    Rule(
        "match_quality", "below", 0.95, 0.80,
        "Signal and dictionary agree to {:.4f} (median of the match quality in the object; 1 is "
        "perfect)",
        "Check the sequence in the header (flip angles, TR, TE, TI), motion and B1.",
        _SIMULATED,
    ),
    Rule(
        "at_table_limit", "above", 0.10, 0.30,
        "{:.1%} of the voxels with signal are at a limit of the table of T1 and T2",
        "Their relaxation times may be outside of the table: fluid is expected there, tissue not.",
        _SIMULATED,
    ),
    Rule(
        "voxels_not_finite", "above", 0, NO_LIMIT,
        "{:.0f} voxels had a value that is not finite and are written as 0",
        "Look for NaN in the data, and at the convergence below.",
        "none are expected",
    ),
    Rule(
        "relative_noise", "above", 0.5, 1.0,
        "Noise and aliasing before the prior are {:.1%} of the signal",
        "More readouts, larger voxels or a better coil help; the prior fills in where data fail.",
        _SIMULATED,
    ),
    Rule(
        "noise_correlation", "above", 0.6, 0.95,
        "The noise of two coils is correlated by up to {:.2f}",
        "Coupled or duplicated coils: have the array checked.",
        "neighbours share some noise (Roemer et al., Magn Reson Med 16:192, 1990); chosen above "
        "what the simulated arrays have",
    ),
    Rule(
        "noise_deviation_ratio", "above", 5, 20,
        "The noisiest coil has {:.1f} times the noise of the quietest one",
        "A preamplifier may be defective: have the array checked.",
        "a factor of a few may be the gain of a receiver",
    ),
    Rule(
        "energy_kept", "below", 0.90, 0.80,
        "Coil compression keeps {:.1%} of the signal energy",
        "Raise coil_sensitivity.virtual_coils or energy_kept.",
        "the default of coil_sensitivity.energy_kept is 0.95",
    ),
    Rule(
        "subspace_energy", "below", 0.995, 0.98,
        "The subspace holds {:.3%} of the energy of the fingerprints",
        "Raise subspace_compression.coefficients.",
        "what is left out is an error of the signal (McGivney et al., IEEE Trans Med Imaging "
        "33:2311, 2014); the default of five coefficients keeps more",
    ),
    Rule(
        "cg_residual", "above", 0.05, 0.3,
        "Conjugate gradients end at a relative residual of {:.1e}",
        "Raise toeplitz_cg.iterations, and check the trajectory.",
        _SIMULATED,
    ),
)  # fmt: skip
"""Thresholds of single facts, in the order in which they are reported."""

_STILL_LARGE = 0.3
"""Primal residual at the end of ADMM, relative to the images: prior and data do not agree."""
_GROWN = 2.0
"""Primal residual at the end relative to its smallest value: the iterations diverge."""
_MEMORY_RULE = "amber if the run needed more than was planned"
_FAR_OUTSIDE = 1.5
"""Factor by which a tissue is outside of the published range to be red."""


def findings(facts: Facts) -> list[Finding]:
    """Judge all facts that are known by `RULES` and the rules of several facts."""
    found = [*_completeness(facts), *_noise_scan(facts)]
    for rule in RULES:
        value = getattr(facts, rule.fact)
        if value is not None:
            light = rule.light(value)
            advice = f". {rule.advice}" if light > Light.GREEN else "."
            found.append(Finding(light, rule.text.format(value) + advice, _in_words(rule)))
    return [*found, *_convergence(facts.primal), *_memory(facts)]


def tissue_findings(peaks: Sequence[TissuePeak], field_strength: float | None) -> list[Finding]:
    """Compare white and grey matter with published ranges at the field strength.

    Parameters
    ----------
    peaks
        What `tissue_peaks` found; empty: nothing to compare.
    field_strength
        That of the scanner [T]; None: not in the header.
    """
    field = nearest_field(field_strength)
    if field is None:
        known = ", ".join(f"{value:g} T" for value in FIELDS)
        where = "is not in the header" if field_strength is None else f"is {field_strength:g} T"
        text = f"The field strength {where}, so T1 and T2 are compared with nothing"
        return [Finding(Light.NOTE, f"{text} (ranges are known at {known}).")]
    if not peaks:
        text = (
            "White and grey matter were not told apart in the histogram of T1 (it has no two "
            "peaks), so they are compared with nothing. This is expected of phantoms."
        )
        return [Finding(Light.NOTE, text)]
    found = []
    for peak in peaks:
        times: tuple[tuple[Time, float | None], ...] = (("T1", peak.t1), ("T2", peak.t2))
        for time, value in times:
            if value is None:
                text = f"{time} of {peak.tissue} has no peak, so it is compared with nothing."
                found.append(Finding(Light.NOTE, text))
                continue
            expected = published_range(field, time, peak.tissue)
            light, where = Light.GREEN, "within"
            if not expected.holds(value):
                far = max(value / expected.high, expected.low / value) > _FAR_OUTSIDE
                light, where = (Light.RED if far else Light.AMBER), "outside"
            text = (
                f"{time} of {peak.tissue} is {value:.0f} ms, {where} the published range of "
                f"{expected.low:.0f} to {expected.high:.0f} ms at {field:g} T."
            )
            if light > Light.GREEN:
                text += (
                    " The ranges are of healthy adult brains: if this is one, check the sequence "
                    "in the header, and B1."
                )
            found.append(Finding(light, text, "; ".join(expected.citations)))
    return found


def overall(found: Iterable[Finding]) -> Light:
    """Return the traffic light of a run: that of the most serious finding.

    It is amber where nothing could be judged.
    """
    worst = max((finding.light for finding in found), default=Light.NOTE)
    return Light.AMBER if worst is Light.NOTE else worst


def _completeness(facts: Facts) -> list[Finding]:
    found = []
    if facts.incomplete:
        text = f"The scan is incomplete: {facts.incomplete}."
        found.append(Finding(Light.AMBER, text, "a complete scan is expected"))
    elif facts.incomplete is not None:
        found.append(Finding(Light.GREEN, "The scan is complete.", "as the header announces it"))
    if facts.incomplete_record:
        found.append(Finding(Light.AMBER, f"{facts.incomplete_record}."))
    return found


def _noise_scan(facts: Facts) -> list[Finding]:
    if facts.coils is None or facts.coils < 2 or facts.noise_samples is None:
        return []
    if facts.noise_samples > 0:
        return [Finding(Light.GREEN, "The coils are prewhitened with a noise scan.")]
    text = "There is no noise scan: the noise of the coils is taken for white and equal."
    return [Finding(Light.AMBER, text, "Pruessmann et al., Magn Reson Med 46:638 (2001)")]


def _convergence(primal: Sequence[float]) -> list[Finding]:
    if not primal:
        return []
    last, smallest = primal[-1], min(primal)
    rule = (
        f"amber above {_STILL_LARGE:g} or {_GROWN:g} times its smallest value, red if not a "
        f"number; {_SIMULATED}"
    )
    if not all(math.isfinite(value) for value in primal):
        return [Finding(Light.RED, "ADMM diverged: a residual is not a number.", rule)]
    if last > _GROWN * smallest:
        text = f"The primal residual of ADMM grows to {last:.2g} from {smallest:.2g}: it diverges."
        return [Finding(Light.AMBER, text, rule)]
    light = Light.AMBER if last > _STILL_LARGE else Light.GREEN
    text = f"ADMM ends at a primal residual of {last:.2g} of the images"
    text += ": data and prior do not agree." if light is Light.AMBER else "."
    return [Finding(light, text, rule)]


def _memory(facts: Facts) -> list[Finding]:
    """Judge the memory; what the process had used before the run is not the run's."""
    if facts.attempts:  # the plan and the peak are of different attempts
        return [Finding(Light.AMBER, f"{line[0].upper()}{line[1:]}.") for line in facts.attempts]
    if not facts.peak_bytes or not facts.planned_bytes:
        return []
    share = facts.peak_bytes / facts.planned_bytes
    if share <= 1:
        return [Finding(Light.GREEN, f"Peak memory is {share:.0%} of the plan.", _MEMORY_RULE)]
    if (facts.grown_bytes or 0) <= facts.planned_bytes:
        text = "The process had used memory before the run, so its peak is not compared."
        return [Finding(Light.NOTE, text, _MEMORY_RULE)]
    text = f"Peak memory is {share:.0%} of the plan: a machine with just the plan would fail."
    return [Finding(Light.AMBER, text, _MEMORY_RULE)]


def _in_words(rule: Rule) -> str:
    limits = (("amber", rule.amber), ("red", rule.red))
    words = [f"{name} {rule.worse} {limit:g}" for name, limit in limits if not math.isnan(limit)]
    return f"{', '.join(words)}; {rule.source}"
