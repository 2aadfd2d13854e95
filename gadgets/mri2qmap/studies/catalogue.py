"""The reconstructions of each experiment of the paper, and the errors that the paper reports."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mri2qmap.mrsignal.synthesis import DEFAULT_SYNTHESIS
from mri2qmap.studies.ablation import ablation_cases, tuning_cases
from mri2qmap.studies.cases import OURS, Case, CurvePoint, Experiment, Overrides, excluding
from mri2qmap.studies.iterations import ITERATIONS
from mri2qmap.studies.reliability import RELIABILITY

ERRORS = ("mape_t1_t2", "mape_t1", "mape_t2")
TEXTURE = ("texture_t1", "texture_t2")
QUALITY = tuple(
    f"{metric}_{contrast}" for metric in ("psnr", "ssim") for contrast in ("t1w", "t2w", "pdw")
)
WITHOUT_EDGES = "8"
"""Strength of a total variation that is the same everywhere, not weaker at edges."""
TRUE_B1 = "truth/B1map.nii.gz"
"""As `b1_map`: the true map of the scan, see `experiment_runner.with_true_b1`."""


def _methods(single_coil: bool) -> list[Case]:
    suffix = "_single_coil" if single_coil else ""
    rows = (
        ("SVDMRF", "svdmrf", 254.95, 44.40),
        ("MRF-ADMM", f"mrf_admm{suffix}", 36.08, 23.14),
        ("LLR", "llr", 22.57, 16.17),
        ("LRTV", "lrtv", 19.22, 14.18),
        *((("ARNet", "arnet", 9.92, 12.82),) if single_coil else ()),  # trained for one coil
        ("MRF-PnP", "mrf_pnp", 8.25, 12.81),
        ("MRI2Qmap", OURS, 8.97, 12.01),
    )
    return [
        Case(label, pipeline, paper=brainweb if single_coil else in_vivo)
        for label, pipeline, brainweb, in_vivo in rows
    ]


def _modalities(single_coil: bool) -> list[Case]:
    rows = (
        ("all", (), 12.01),
        ("T2w, PDw", ("t1w",), 14.59),
        ("T1w, PDw", ("t2w",), 16.51),
        ("T1w, T2w", ("pdw",), 19.19),
    )
    cases = [
        Case(
            label,
            OURS,
            {"pnp_admm": excluding(*excluded)},
            paper=None if single_coil else paper,
        )
        for label, excluded, paper in rows
    ]
    none = {**excluding("t1w", "t2w", "pdw"), "total_variation": WITHOUT_EDGES}
    return [*cases, Case("none", OURS, {"pnp_admm": none})]


_FIRST_NOISE_LEVELS = ("0.03", "0.05", "0.1", "0.2", "0.5")
"""First noise levels of the schedules. The smallest one is also the last level: no annealing."""


def _schedule(start: str, iterations: int) -> Case:
    return Case(
        f"sigma_1 {start}, T = {iterations}",
        OURS,
        {"pnp_admm": {"sigma_start": start, "iterations": str(iterations)}},
    )


def _annealing(single_coil: bool) -> list[Case]:
    return [
        _schedule(start, iterations)
        for start in _FIRST_NOISE_LEVELS
        for iterations in (4, 8, 16, 32)
    ]


def _annealing_curves(single_coil: bool) -> list[Case]:
    """Schedules of equal length, which is longer for one coil, as in the paper."""
    iterations = 32 if single_coil else 16
    return [_schedule(start, iterations) for start in _FIRST_NOISE_LEVELS]


def _synthesis_times(single_coil: bool) -> list[Case]:
    """TR of T1w and TE of T2w, one at a time (paper, Section IV-C2)."""
    t1w, t2w, _ = DEFAULT_SYNTHESIS
    rows = (  # the last column: clinical range in the paper [s]
        ("TR of T1w", "tr_t1w", t1w.repetition_time, (0.3, 0.8)),
        ("TE of T2w", "te_t2w", t2w.echo_time, (0.08, 0.12)),
    )
    cases = []
    for label, name, base, (low, high) in rows:
        for change in (-50, -40, -20, 0, 20, 40, 50):
            value = f"{base * (100 + change) / 100:g}"
            time = {name: value}
            cases.append(
                Case(
                    f"{label} {change:+d} %" if change else f"{label} unchanged",
                    OURS,
                    {"pnp_admm": time, "combined_matching": time},
                    point=CurvePoint(label, change, usual=low <= float(value) <= high),
                )
            )
    return cases


def _cg_iterations(single_coil: bool) -> list[Case]:
    """CG steps of a k-space update, with the preconditioner and, as in the paper, without."""
    return [
        Case(
            f"{steps} {kind} CG steps",
            OURS,
            {
                "pnp_admm": {
                    "cg_iterations": str(steps),
                    "cg_reduction": "0",
                    "preconditioned": preconditioned,
                }
            },
        )
        for kind, preconditioned in (("preconditioned", "true"), ("plain", "false"))
        for steps in (1, 2, 4, 8, 16)
    ]


def _accelerations(single_coil: bool) -> list[Case]:
    paper = {2.0: (7.94, 7.50), 4.0: (11.01, 9.88), 6.0: (13.05, 11.35), 8.0: (14.18, 12.01)}
    return [
        Case(
            f"R = {factor:g}, {label}",
            pipeline,
            acceleration=factor,
            paper=None if single_coil else reported,
        )
        for factor, values in paper.items()
        for label, pipeline, reported in zip(
            ("LRTV", "MRI2Qmap"), ("lrtv", OURS), values, strict=True
        )
    ]


def _group_matching(single_coil: bool) -> list[Case]:
    groups = {"search": "groups"}
    return [
        Case("exact search", OURS),
        Case(
            "group matching",
            OURS,
            {"pnp_admm": groups, "combined_matching": groups},
        ),
    ]


def _transmit_field(single_coil: bool) -> list[Case]:
    """A B1 of 0.7 to 1.3 without its map and with it, and a uniform B1 of 1."""
    true = {"b1_map": TRUE_B1}
    methods: tuple[tuple[str, str, Overrides], ...] = (
        ("LRTV", "lrtv", {"combined_matching": true}),
        ("MRI2Qmap", OURS, {"pnp_admm": true, "combined_matching": true}),
    )
    return [
        Case(f"{label}, {scan}", pipeline, overrides if known else {}, b1_spread=spread)
        for scan, spread, known in (
            ("B1 0.7 to 1.3, no map", 0.3, False),
            ("B1 0.7 to 1.3, map", 0.3, True),
            ("B1 of 1", 0.0, False),
        )
        for label, pipeline, overrides in methods
    ]


def _uncertainty(single_coil: bool) -> list[Case]:
    """Both methods with their standard deviations."""
    wanted = {"combined_matching": {"uncertainty": "true"}}
    return [Case("MRI2Qmap", OURS, wanted), Case("LRTV", "lrtv", wanted)]


def _options(single_coil: bool) -> list[Case]:
    """Options that the paper does not have."""
    short = {"pnp_admm": {"iterations": "10"}}
    lrtv = {"toeplitz_cg": {"prior": "total_variation", "prior_iterations": "10"}}
    arnet = {"toeplitz_cg": {"prior": "artefact_removal", "denoiser": "arnet"}}
    rows: list[tuple[str, Overrides]] = [
        ("as shipped", {}),
        ("without the non-local prior", {"pnp_admm": {"nonlocal_iterations": "0"}}),
        ("without total variation", {"pnp_admm": {"total_variation": "0"}}),
        (
            "total variation the same everywhere",
            {"pnp_admm": {"edge_contrast": "0", "total_variation": WITHOUT_EDGES}},
        ),
        ("final images weighted four times", {"pnp_admm": {"final_weight": "4"}}),
        ("10 iterations", short),
        ("from LRTV, 10 iterations", lrtv | short),
    ]
    if single_coil:  # ARNet is trained for one coil
        rows.append(("from ARNet, 10 iterations", arnet | short))
    return [Case(label, OURS, overrides) for label, overrides in rows]


def _both_methods(scans: Sequence[tuple[str, float | None, float | None]]) -> list[Case]:
    """LRTV and MRI2Qmap as shipped for scans, each a label, acceleration and noise."""
    return [
        Case(f"{label}, {scan}", pipeline, acceleration=acceleration, noise=noise)
        for scan, acceleration, noise in scans
        for label, pipeline in (("LRTV", "lrtv"), ("MRI2Qmap", OURS))
    ]


def _limits(single_coil: bool) -> list[Case]:
    """Separates the errors due to noise from those due to undersampling."""
    return _both_methods(
        [
            ("unchanged", None, None),
            ("R = 1", 1.0, None),
            ("no noise", None, 0.0),
            ("R = 1, no noise", 1.0, 0.0),
        ]
    )


def _conditions(single_coil: bool) -> list[Case]:
    """Other noise and other accelerations."""
    return _both_methods(
        [
            ("unchanged", None, None),
            ("noise 0.1", None, 0.1),
            ("noise 0.5", None, 0.5),
            ("R = 4", 4.0, None),
            ("R = 8", 8.0, None),
        ]
    )


def _sweep(single_coil: bool) -> list[Case]:
    """Five values of the most important parameter of each method."""
    suffix = "_single_coil" if single_coil else ""
    strengths = ("toeplitz_cg", "strength")
    rows = (
        ("MRF-ADMM", f"mrf_admm{suffix}", ("pnp_admm", "coupling"), (10, 30, 100, 300, 1000)),
        ("LLR", "llr", strengths, (3.5, 6, 10, 14, 20)),
        ("LRTV", "lrtv", strengths, (2.5, 3.5, 5, 7, 10)),
        ("MRF-PnP", "mrf_pnp", strengths, (0.5, 1, 2, 3, 5)),
        (
            "MRI2Qmap",
            OURS,
            ("pnp_admm", "total_variation"),
            (10, 14, 20, 28, 40),
        ),
    )
    return [
        Case(f"{label}, {name} {value:g}", pipeline, {gadget: {name: f"{value:g}"}})
        for label, pipeline, (gadget, name), values in rows
        for value in values
    ]


EXPERIMENTS: Mapping[str, Experiment] = {
    "table1": Experiment("Methods", _methods, (*ERRORS, "cosine_distance", *QUALITY)),
    "table2": Experiment("Contrasts excluded", _modalities, (*ERRORS, *QUALITY[:3])),
    "table3": Experiment(
        "Time and memory",
        _methods,
        ("seconds", "peak_gib", "seconds_cg", "seconds_admm", "seconds_matching"),
    ),
    "table4": Experiment("Annealed denoising", _annealing, (*ERRORS, "seconds")),
    "table5": Experiment("CG iterations", _cg_iterations, (*ERRORS, "seconds")),
    "table6": Experiment("Accelerations", _accelerations, (*ERRORS, *QUALITY[:3])),
    "fig6": Experiment(
        "Repetition time and echo time of the synthesised images",
        _synthesis_times,
        ERRORS,
        x_label="change of the time [%], hollow: outside of the clinical range",
    ),
    "fig7": Experiment(
        "Annealed denoising, by iteration", _annealing_curves, ERRORS, extra_table=ITERATIONS
    ),
    "group_matching": Experiment("Inexact matching", _group_matching, (*ERRORS, "seconds")),
    "b1": Experiment("Map of the transmit field", _transmit_field, (*ERRORS, "seconds")),
    "uncertainty": Experiment(
        "Standard deviations of T1 and T2", _uncertainty, ERRORS, extra_table=RELIABILITY
    ),
    "options": Experiment("Options that the paper does not have", _options, (*ERRORS, "seconds")),
    "limits": Experiment("What limits the methods", _limits, ERRORS),
    "ablation_tuning": Experiment(
        "Ablation: the parameter of each variant", tuning_cases, (*ERRORS, *TEXTURE)
    ),
    "ablation": Experiment("Ablation", ablation_cases, (*ERRORS, *TEXTURE, "seconds")),
    "conditions": Experiment("Other noise and accelerations", _conditions, (*ERRORS, *TEXTURE)),
    "sweep": Experiment("Settings of the methods", _sweep, ERRORS),
}
