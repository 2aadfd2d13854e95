"""``mri2qmap evaluate``: maps against the truth of a simulation, and the paper's experiments."""

from __future__ import annotations

import argparse
import csv
import io
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mri2qmap.cli.console import say
from mri2qmap.cli.metric_table import table
from mri2qmap.cli.thread_option import add_thread_option
from mri2qmap.errors import Mri2QmapError
from mri2qmap.storage.atomic import cannot_write, write_text
from mri2qmap.storage.result_files import ResultFiles

if TYPE_CHECKING:
    from mri2qmap.simulation.simulator import SimulationSettings
    from mri2qmap.studies.experiment_runner import Subject

_DESCRIPTION = """\
Compare the maps of a replay with the truth of the simulated scan; or, with --experiment, simulate
and reconstruct all scans of a table or figure of the paper. OUTDIR then receives results.csv,
iterations.csv (errors after each ADMM iteration) and reliability.csv (standard deviations), to
which each reconstruction is added immediately: an interrupted run is resumed, and experiments share
reconstructions. Rows of other code (column "code") are kept, but not used. OUTDIR also receives a
table (NAME.md, NAME.csv) and a figure (NAME.png). written.json lists these three: the next run
replaces them unless they were changed.
"""

_EXAMPLE = """\
Errors are means over voxels that white or grey matter fills to more than 90 %. The lower bounds
are the errors of matching the true images: as they are, and kept to the sphere of k-space that
spiral projections sample.

--labels DIR holds NIfTI label maps (subjects are named after their files), BrainWeb's fuzzy maps as
downloaded (of subject04: subject04_gm_v.mnc.gz and so on), or a folder for each subject, of tissue
maps or of T1map, T2map and PDmap (see mri2qmap anatomy).

examples:
  mri2qmap evaluate maps --truth truth --json metrics.json
  mri2qmap evaluate results --experiment table1 --labels LABELS --subjects sub_18 sub_19 \\
      --region ball --fov 0.11 --coils 1 --acceleration 2
  mri2qmap evaluate results --experiment table1 --labels BRAINWEB --subjects subject04 subject05 \\
      --region ball --fov 0.11 --coils 1 --acceleration 2
  mri2qmap evaluate results --experiment table2 --seeds 0 1 2
  mri2qmap evaluate results --experiment nist --fov 0.144 --coils 1 --acceleration 0.1 --noise 0
"""

_EXPERIMENT_OPTIONS: dict[str, Any] = {
    "labels": None,
    "subjects": [],
    "region": "brain",
    "matrix": 64,
    "fov": 0.192,
    "coils": 8,
    "acceleration": 4.0,
    "noise": 0.25,
    "seeds": [0],
    "device": "auto",
}
"""Options of experiments and their defaults."""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the command line."""
    parser = subparsers.add_parser(
        "evaluate",
        help="compare maps with the truth of a simulation, or run the paper's experiments",
        description=_DESCRIPTION,
        epilog=_EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "output", type=Path, metavar="OUTDIR", help="folder written by replay; or for the results"
    )
    parser.add_argument("--truth", type=Path, metavar="DIR", help="folder written by simulate")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers here too")
    _add_experiment(parser.add_argument_group("experiments"))
    parser.set_defaults(run=run)


def _add_experiment(group: argparse._ArgumentGroup) -> None:
    def add(option: str, **options: Any) -> None:
        group.add_argument(option, default=_EXPERIMENT_OPTIONS[option[2:]], **options)

    group.add_argument(
        "--experiment",
        metavar="NAME",
        help="table1 to table6, fig6, fig7, group_matching, b1, uncertainty, options, limits, "
        "conditions, ablation_tuning, ablation, sweep, nist",
    )
    add(
        "--labels",
        type=Path,
        metavar="DIR",
        help="label maps, fuzzy models of BrainWeb, or folders of quantitative maps (default: the "
        "ICBM brain)",
    )
    add("--subjects", nargs="+", metavar="NAME", help="which of them (default: all)")
    add("--region", choices=("head", "brain", "ball"), help="what is scanned")
    add("--matrix", type=int, metavar="N", help="voxels along each side (default: 64)")
    add("--fov", type=float, metavar="M", help="extent [m] (default: 0.192)")
    add("--coils", type=int, metavar="N", help="receive coils (default: 8)")
    add("--acceleration", type=float, metavar="R", help="(default: 4)")
    add("--noise", type=float, metavar="X", help="noise level (default: 0.25)")
    add("--seeds", type=int, nargs="+", metavar="N", help="of the noise (default: 0)")
    add("--device", help="auto, cpu, cuda or cuda:N (default: auto)")
    add_thread_option(group)


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    if args.experiment is not None:
        if args.truth is not None or args.json is not None:
            raise Mri2QmapError("--truth and --json are for maps, --experiment makes its own")
        return _run_experiment(args)
    if args.truth is None:
        raise Mri2QmapError("evaluate: --truth DIR is expected, or --experiment NAME")
    for name, default in _EXPERIMENT_OPTIONS.items():
        if getattr(args, name) != default:
            raise Mri2QmapError(f"--{name} is for --experiment NAME, not for maps")
    return _compare(args)


def _compare(args: argparse.Namespace) -> int:
    from mri2qmap.api.evaluation import evaluate

    earlier = {} if args.json is None else _earlier_numbers(args.json)
    result = evaluate(args.output, args.truth)
    if args.json is not None:
        if not set(earlier) <= set(result):
            raise _not_replaced(args.json)
        try:
            write_text(args.json, _json(result))
        except OSError as error:
            raise cannot_write(f"--json {args.json}", error) from error
    print(table(result))
    return 0


def _json(result: dict[str, Any]) -> str:
    return json.dumps(result, indent=2, allow_nan=False) + "\n"


def _earlier_numbers(path: Path) -> dict[str, Any]:
    """Read the numbers of an earlier comparison, the only thing that may be replaced; {} if none.

    Raises
    ------
    Mri2QmapError
        If there is something else.
    """
    if not os.path.lexists(path):
        return {}
    try:
        text = path.read_text(encoding="utf-8")
        earlier: dict[str, Any] = json.loads(text)
        as_written = isinstance(earlier, dict) and _json(earlier) == text
    except (OSError, ValueError, RecursionError):
        as_written = False
    if not as_written or "mape_t1_t2" not in earlier:
        raise _not_replaced(path)
    return earlier


def _not_replaced(path: Path) -> Mri2QmapError:
    return Mri2QmapError(
        f"--json {path}: it is not what this command writes, and is not overwritten; choose "
        "another name"
    )


def _run_experiment(args: argparse.Namespace) -> int:
    from dataclasses import replace

    from mri2qmap.anatomy.sources import NIST
    from mri2qmap.machine.devices import select_device
    from mri2qmap.pipeline.settings import unknown_name
    from mri2qmap.studies.catalogue import EXPERIMENTS
    from mri2qmap.studies.experiment_report import csv_rows, markdown_table, write_figure
    from mri2qmap.studies.experiment_runner import EXTRA_TABLES, KEY, METRICS, ExperimentRunner
    from mri2qmap.studies.extra_tables import ExtraTables
    from mri2qmap.studies.iteration_report import (
        iteration_rows,
        iteration_table,
        write_iteration_figure,
    )
    from mri2qmap.studies.iterations import ITERATIONS
    from mri2qmap.studies.reliability import RELIABILITY
    from mri2qmap.studies.reliability_report import (
        reliability_rows,
        reliability_table,
        write_reliability_figure,
    )
    from mri2qmap.studies.result_table import ResultTable

    if args.experiment == NIST:
        return _run_system_phantom(args)
    if args.experiment not in EXPERIMENTS:
        known = [*EXPERIMENTS, NIST]
        raise Mri2QmapError(f"--experiment: {unknown_name('experiment', args.experiment, known)}")
    experiment = EXPERIMENTS[args.experiment]
    subjects, scan = _subjects(args), _scan(args)
    select_device(args.device)
    for seed in args.seeds:
        replace(scan, seed=seed)  # refuses negative ones
    name = args.experiment
    files = ResultFiles(args.output, [f"{name}.md", f"{name}.csv", f"{name}.png"])
    results_table = ResultTable(args.output / "results.csv", KEY, METRICS)
    extra_tables = ExtraTables(args.output, KEY, EXTRA_TABLES)
    runner = ExperimentRunner(results_table, scan, args.device, args.report, extra_tables)
    results = runner.run(experiment, subjects, args.seeds)
    text = markdown_table(experiment, results)
    rows, draw = csv_rows(experiment, results), write_figure
    if experiment.extra_table is ITERATIONS:
        text += f"\n\n{iteration_table(results)}"
        rows, draw = iteration_rows(results), write_iteration_figure
    elif experiment.extra_table is RELIABILITY:
        text += f"\n\n{reliability_table(results)}"
        rows, draw = reliability_rows(results), write_reliability_figure
    heading = (
        f"# {experiment.title}\n\n{', '.join(s.name for s in subjects)}; {args.region}, "
        f"{_scan_in_words(args)} Code {results_table.code}. Means over scans"
        f"{' (standard deviation)' if len(subjects) * len(args.seeds) > 1 else ''}.\n\n"
    )
    files.write(f"{name}.md", heading + text + "\n")
    files.write(f"{name}.csv", _csv(rows))
    files.write(f"{name}.png", lambda path: draw(path, experiment, results))
    say(text)
    return 0


def _run_system_phantom(args: argparse.Namespace) -> int:
    from dataclasses import replace

    from mri2qmap.anatomy.sources import NIST
    from mri2qmap.machine.devices import select_device
    from mri2qmap.studies.result_table import ResultTable
    from mri2qmap.studies.sphere_report import sphere_rows, sphere_table, write_sphere_figure
    from mri2qmap.studies.system_phantom import (
        SPHERE_KEY,
        SPHERE_VALUES,
        run_system_phantom,
    )

    if args.labels is not None or args.subjects or args.region != "brain" or len(args.seeds) > 1:
        raise Mri2QmapError("--experiment nist: it has an anatomy of its own, and takes one seed")
    scan, device = (
        replace(_scan(args), anatomy=NIST, seed=args.seeds[0]),
        select_device(args.device),
    )
    files = ResultFiles(args.output, ["nist.md", "nist.csv", "nist.png"])
    table = ResultTable(args.output / "spheres.csv", SPHERE_KEY, SPHERE_VALUES)
    results = run_system_phantom(table, scan, device, args.report)
    text = sphere_table(results)
    heading = f"# NIST/ISMRM system phantom, 3 T\n\n{_scan_in_words(args)} Code {table.code}.\n\n"
    files.write("nist.md", heading + text + "\n")
    files.write("nist.csv", _csv(sphere_rows(results)))
    files.write("nist.png", lambda path: write_sphere_figure(path, results))
    say(text)
    return 0


def _scan_in_words(args: argparse.Namespace) -> str:
    coils = "one coil" if args.coils == 1 else f"{args.coils} coils"
    return (
        f"{args.matrix}^3, {1e3 * args.fov / args.matrix:.2f} mm voxels, {coils}, "
        f"R = {args.acceleration:g}, noise {args.noise:g}, seeds {' '.join(map(str, args.seeds))}."
    )


def _subjects(args: argparse.Namespace) -> list[Subject]:
    from mri2qmap.anatomy.sources import ICBM, find_anatomies
    from mri2qmap.studies.experiment_runner import Subject

    if args.labels is None:
        if args.subjects:
            raise Mri2QmapError("--subjects: they are in a folder, so --labels DIR is needed")
        return [Subject(ICBM, ICBM)]
    anatomies = find_anatomies(args.labels, args.subjects)
    return [Subject(name, str(source)) for name, source in anatomies.items()]


def _scan(args: argparse.Namespace) -> SimulationSettings:
    from mri2qmap.anatomy.voxel_model import Region
    from mri2qmap.simulation.simulator import SimulationSettings

    return SimulationSettings(
        region=Region(args.region),
        matrix=(args.matrix,) * 3,
        field_of_view=(args.fov,) * 3,
        coils=args.coils,
        acceleration=args.acceleration,
        noise=args.noise,
    )


def _csv(rows: list[list[str]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()
