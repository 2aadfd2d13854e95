"""Ablation: what each part of MRI2Qmap contributes, every variant tuned with the same effort."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from mri2qmap.studies.cases import OURS, Case, excluding

_WITHOUT_NONLOCAL = {"nonlocal_iterations": "0"}
_PAPER = {
    **_WITHOUT_NONLOCAL,
    "total_variation": "0",
    "preconditioned": "false",
    "cg_reduction": "0",
    "sigma_start": "0.2",
    "sigma_end": "0.02",
}


@dataclass(frozen=True)
class Variant:
    """A variant of the algorithm, with one parameter that is tuned.

    Attributes
    ----------
    label
        Name of its row.
    parameter
        Gadget and name of the parameter.
    values
        Values that are tried.
    chosen
        The best of them on the anatomies of the tuning.
    pipeline
        Name of its pipeline.
    fixed
        Other settings of the same gadget that differ from those of the pipeline.
    """

    label: str
    parameter: tuple[str, str]
    values: tuple[str, ...]
    chosen: str
    pipeline: str = OURS
    fixed: Mapping[str, str] = field(default_factory=dict)

    def case(self, value: str, label: str) -> Case:
        """Return the reconstruction with a value of the parameter."""
        gadget, name = self.parameter
        return Case(label, self.pipeline, {gadget: {**self.fixed, name: value}})


def _variants(single_coil: bool) -> list[Variant]:
    strength = ("pnp_admm", "total_variation")
    coupling = ("pnp_admm", "coupling")
    steps = ("60", "20") if single_coil else ("10", "10")
    paper = _PAPER | dict(zip(("iterations", "cg_iterations"), steps, strict=True))
    return [
        Variant("algorithm of the paper", coupling, ("4", "16", "64", "256"), "16", fixed=paper),
        Variant(
            "denoiser alone",
            coupling,
            ("256", "1024", "4096", "16384"),
            "4096",
            fixed={**_WITHOUT_NONLOCAL, "total_variation": "0"},
        ),
        Variant(
            "total variation alone",
            strength,
            ("5", "7", "10", "14"),
            "10",
            fixed={**_WITHOUT_NONLOCAL, **excluding("t1w", "t2w", "pdw"), "edge_contrast": "0"},
        ),
        Variant(
            "both, the same everywhere",
            strength,
            ("7", "10", "14", "20"),
            "14",
            fixed={**_WITHOUT_NONLOCAL, "edge_contrast": "0"},
        ),
        Variant(
            "both, weaker at edges",
            strength,
            ("14", "20", "28", "40"),
            "20",
            fixed=_WITHOUT_NONLOCAL,
        ),
        Variant("and the non-local prior (as shipped)", strength, ("14", "20", "28", "40"), "20"),
        Variant(
            "denoiser of TSMIs (MRF-PnP)",
            ("toeplitz_cg", "strength"),
            ("2", "4", "8", "16"),
            "8",
            pipeline="mrf_pnp",
        ),
    ]


def tuning_cases(single_coil: bool) -> list[Case]:
    """Every variant with every value of its parameter."""
    return [
        variant.case(value, f"{variant.label}, {variant.parameter[1]} {value}")
        for variant in _variants(single_coil)
        for value in variant.values
    ]


def ablation_cases(single_coil: bool) -> list[Case]:
    """Every variant with the best value of its parameter."""
    return [variant.case(variant.chosen, variant.label) for variant in _variants(single_coil)]
