"""``mri2qmap demo``: simulate a scan, reconstruct it with and without the prior, picture both."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mri2qmap import __version__
from mri2qmap.cli.console import say
from mri2qmap.cli.thread_option import add_thread_option
from mri2qmap.report.file_names import PAGE
from mri2qmap.storage.atomic import cannot_write
from mri2qmap.storage.folder_place import FolderPlace
from mri2qmap.storage.written import FILES, listed, record_bytes

if TYPE_CHECKING:
    from mri2qmap.simulation.simulator import SimulationSettings

RESULT = "demo.json"
RECORD = "written.json"
"""Lists all files that the demo wrote."""
ROOM = 80_000_000
"""Bytes that the demo writes, about."""
METHODS = {"MRF-ADMM": "mrf_admm", "MRI2Qmap": "mri2qmap"}
SCAN: dict[str, Any] = {
    "matrix": 64,
    "field_of_view": 0.192,
    "coils": 8,
    "acceleration": 4.0,
    "noise": 0.2,
}
"""Settings of the simulation that matter here; the others have their defaults."""
FRAMES = 500

_DESCRIPTION = """\
Simulate a multi-coil scan of the ICBM brain, reconstruct it with MRI2Qmap and with MRF-ADMM, which
is the same without the prior, and compare both with the truth.
"""

_EXAMPLES = """\
OUTDIR then holds the scan (scan.h5), the truth (truth/), the maps of both methods (mrf_admm/,
mri2qmap/: DICOM, NIfTI, MRD), their errors (demo.json), a picture (comparison.png) and a list of
all that was written (written.json).

example:
  mri2qmap demo -o demo/
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the command line."""
    parser = subparsers.add_parser(
        "demo",
        help="simulate a brain, reconstruct it and picture the maps",
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "-o", "--output", type=Path, required=True, metavar="OUTDIR", help="folder to make"
    )
    parser.add_argument(
        "--device", default="auto", help="auto, cpu, cuda or cuda:N (default: %(default)s)"
    )
    add_thread_option(parser)
    parser.add_argument("--seed", type=int, default=0, help="of the noise (default: 0)")
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="replace OUTDIR if it holds what this command wrote and nothing else",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    from mri2qmap.api.simulation import changed_settings
    from mri2qmap.machine.devices import select_device
    from mri2qmap.simulation.simulator import SimulationSettings

    settings = changed_settings(SimulationSettings(), {**SCAN, "seed": args.seed})
    select_device(args.device)
    place = FolderPlace(args.output, RECORD, overwrite=args.overwrite, room=ROOM)
    try:
        _work(place.partial, settings, args)
        record = {"mri2qmap": __version__, "command": args.command, FILES: listed(place.partial)}
        (place.partial / RECORD).write_bytes(record_bytes(record))
        place.put_in_place()
    except OSError as error:
        raise cannot_write(f"output {args.output}", error) from error
    finally:
        place.remove()
    say(f"picture: {args.output / 'comparison.png'}")
    page = args.output / list(METHODS.values())[-1] / PAGE
    if page.is_file():
        say(f"report: {page}")
    return 0


def _name_final_place(folder: Path, output: Path) -> None:
    """Put the final path of the scan into the records of the reconstructions."""
    from mri2qmap.files.output_folder import RUN_RECORD

    for pipeline in METHODS.values():
        path = folder / pipeline / RUN_RECORD
        text = path.read_text(encoding="utf-8").replace(str(folder), str(output.absolute()))
        path.write_bytes(record_bytes(json.loads(text)))


def _work(folder: Path, settings: SimulationSettings, args: argparse.Namespace) -> None:
    from mri2qmap.api.evaluation import evaluate
    from mri2qmap.api.reconstruction import reconstruct_to_folder
    from mri2qmap.api.simulation import flip_angle_train, simulate_to_files
    from mri2qmap.cli.metric_table import table
    from mri2qmap.evaluation.evaluate import read_maps
    from mri2qmap.evaluation.figures import comparison_figure
    from mri2qmap.simulation.truth import read_truth

    scan, truth = folder / "scan.h5", folder / "truth"
    say(f"1/3 simulating the ICBM brain: {', '.join(f'{k} {v}' for k, v in SCAN.items())}")
    simulate_to_files(
        settings,
        scan,
        truth,
        sequence=flip_angle_train(FRAMES),
        progress=args.report,
    )
    results = {}
    for name, pipeline in METHODS.items():
        say(f"2/3 reconstructing with {name}")
        maps = folder / pipeline
        reconstruct_to_folder(
            scan, maps, pipeline, args.device, progress=args.report, command=args.command
        )
        results[name] = evaluate(maps, truth)

    say("3/3 comparing with the truth")
    for name, result in results.items():
        say(f"\n{name}\n{table(result)}")
    (folder / RESULT).write_text(json.dumps(results, indent=2) + "\n")
    known = read_truth(truth)
    found = {name: read_maps(folder / pipeline, known) for name, pipeline in METHODS.items()}
    comparison_figure(folder / "comparison.png", known, found)
    _name_final_place(folder, args.output)
