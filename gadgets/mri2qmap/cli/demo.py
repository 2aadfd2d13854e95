"""``mri2qmap demo``: simulate a scan, reconstruct it with and without the prior, picture both."""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import shutil
import tempfile
from pathlib import Path

from mri2qmap.errors import Mri2QmapError

RESULT = "demo.json"
METHODS = {"MRF-ADMM": "mrf_admm", "MRI2Qmap": "mri2qmap"}
SCAN = ("--region", "brain", "--matrix", "64", "--fov", "0.192", "--coils", "8")
SAMPLING = ("--acceleration", "4", "--noise", "0.2")

_EXAMPLES = """\
OUTDIR then holds the scan (scan.h5), the truth (truth/), the maps of both methods (mrf_admm/,
mri2qmap/: DICOM, NIfTI, MRD), their errors (demo.json) and a picture (comparison.png).

example:
  mri2qmap demo -o demo/
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the command line."""
    parser = subparsers.add_parser(
        "demo",
        help="simulate a brain, reconstruct it and picture the maps",
        description="Simulate a multi-coil scan of the ICBM brain, reconstruct it with MRI2Qmap "
        "and with MRF-ADMM, which is the same without the prior, and compare both with the truth.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="OUTDIR")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--seed", type=int, default=0, help="of the noise (default: 0)")
    parser.add_argument(
        "--overwrite", action="store_true", help="replace OUTDIR if this command wrote it"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    output: Path = args.output.resolve()
    _check_output(output, args.overwrite)
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=f".{output.name}.partial-", dir=output.parent))
    except OSError as error:
        raise Mri2QmapError(f"output {output}: it cannot be written ({error.strerror})") from error
    try:
        _work(scratch, args)
        if output.exists():
            shutil.rmtree(output)
        scratch.rename(output)
        output.chmod(0o755)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    print(f"picture: {args.output / 'comparison.png'}")
    return 0


def _check_output(output: Path, overwrite: bool) -> None:
    if not output.exists():
        return
    if not overwrite:
        raise Mri2QmapError(f"output {output}: it exists already; add --overwrite to replace it")
    if not output.is_dir() or (any(output.iterdir()) and not (output / RESULT).is_file()):
        raise Mri2QmapError(
            f"output {output}: it was not written by this command and is not overwritten; choose "
            "another name"
        )


def _work(folder: Path, args: argparse.Namespace) -> None:
    from mri2qmap.cli import simulate
    from mri2qmap.cli.evaluate import table
    from mri2qmap.cli.main import build_parser
    from mri2qmap.cli.replay import replay_file
    from mri2qmap.evaluation.evaluate import evaluate_folders, read_maps
    from mri2qmap.evaluation.figures import comparison_figure
    from mri2qmap.simulation.truth import read_truth

    scan, truth = folder / "scan.h5", folder / "truth"
    command = ["simulate", str(scan), "--truth", str(truth), "--seed", str(args.seed)]
    simulation = build_parser(["simulate"]).parse_args([*command, *SCAN, *SAMPLING])
    simulation.report = args.report
    print("1/3 simulating the ICBM brain,", " ".join((*SCAN, *SAMPLING)), flush=True)
    with contextlib.redirect_stdout(io.StringIO()):  # it names the folder that is renamed later
        simulate.run(simulation)

    results = {}
    for name, pipeline in METHODS.items():
        print(f"2/3 reconstructing with {name}", flush=True)
        replay_file(
            scan,
            pipeline,
            folder / pipeline,
            device=args.device,
            report=args.report,
            command=args.command,
        )
        results[name] = evaluate_folders(folder / pipeline, truth)

    print("3/3 comparing with the truth")
    for name, result in results.items():
        print(f"\n{name}\n{table(result)}")
    (folder / RESULT).write_text(json.dumps(results, indent=2) + "\n")
    known = read_truth(truth)
    maps = {name: read_maps(folder / pipeline, known) for name, pipeline in METHODS.items()}
    comparison_figure(folder / "comparison.png", known, maps)
