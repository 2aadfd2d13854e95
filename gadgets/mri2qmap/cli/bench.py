"""``mri2qmap bench``: compare parts of the program with their alternatives."""

from __future__ import annotations

import argparse
import math
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mri2qmap.cli import bench_speed, bench_steps
from mri2qmap.cli.console import say
from mri2qmap.cli.thread_option import add_thread_option
from mri2qmap.cli.weighted_options import add_weighted_folders, weighted_folders
from mri2qmap.errors import Mri2QmapError
from mri2qmap.storage.result_files import ResultFiles

if TYPE_CHECKING:
    import torch

    from mri2qmap.studies.bench_volumes import BenchVolume
    from mri2qmap.studies.candidates import Candidate
    from mri2qmap.studies.denoiser_bench import Score
    from mri2qmap.studies.prior_bench import MapErrors, PriorBenchSettings

REPORT = "tables.md"
PICTURED_SIGMA = 0.1
"""Of the noise levels, the one next to it is shown in slices."""

_EXAMPLE = """\
example:
  mri2qmap bench denoiser --help
  mri2qmap bench denoiser --labels training_label_maps -o out/bench
  mri2qmap bench speed -o out/speed
  mri2qmap bench steps -o out/steps
"""

_DENOISER = """\
Measures PSNR for a peak of 1 over the object (T1w, T2w, PDw; mean over volumes) of the noisy image,
of classical denoisers and of networks; their times; and, with --reconstruct, the T1 and T2 errors
of the whole reconstruction with each of them as the prior. The free parameter of Gaussian smoothing
and of non-local means is chosen with the reference in hand, for each contrast and noise level; as
priors they take the parameter found for the noise level of the iteration.

With --t1w, --t2w and --pdw, acquired images of each subject are denoised too. They are read as by
mri2qmap train: resampled to 1 mm and aligned by their affines; a subject may lack contrasts. A cube
of --size voxels at the centre of the head is used; the images must be at least that large.
The reference of the PSNR is the acquired image, which has noise of its own: even a perfect denoiser
would have a finite PSNR.

The folder gets psnr.csv, times.csv and reconstruction.csv, to which each result is added at once;
tables.md, slices.png and psnr.png; and written.json, which lists the latter. Results are not
computed again while data, settings, weights, versions of packages and the code of this program (the
column "code") are the same. Rows of other code stay in the files and are not used.

BM4D (Maggioni et al., IEEE Trans Image Process 22:119, 2013; Makinen et al., ibid. 29:8339, 2020)
comes with the extra "bm4d"; its licence allows non-commercial use only.

examples:
  mri2qmap bench denoiser --labels training_label_maps -o out/bench -v
  mri2qmap bench denoiser --anatomy icbm --classical gaussian nlm -o out/icbm
  mri2qmap bench denoiser --t1w IXI-T1 --t2w IXI-T2 --pdw IXI-PD --denoisers small -o out/ixi
  mri2qmap bench denoiser --labels training_label_maps --classical gaussian nlm \\
      --denoisers small out/new/weights.safetensors --reconstruct -o out/bench
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the command line."""
    parser = subparsers.add_parser(
        "bench",
        help="compare denoisers, and the speed with that of other libraries and of the machine",
        description="Compare parts of the program with their alternatives.",
        epilog=_EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parts = parser.add_subparsers(dest="part", metavar="PART", required=True)
    denoiser = parts.add_parser(
        "denoiser",
        help="networks against classical denoisers",
        description="Compare denoisers of weighted images.",
        epilog=_DENOISER,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    denoiser.add_argument(
        "-v", "--verbose", action="count", default=argparse.SUPPRESS, help="say what is done"
    )
    bench_speed.add_parser(parts)
    bench_steps.add_parser(parts)
    _add_denoising(denoiser)
    _add_reconstruction(denoiser.add_argument_group("whole reconstructions"))


def _add_denoising(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("-o", "--out", type=Path, required=True, metavar="OUT", help="folder of the results")
    add("--labels", type=Path, metavar="DIR", help="folder of whole-head label maps (NIfTI)")
    add(
        "--subjects",
        nargs="+",
        default=["training_seg_18", "training_seg_19"],
        metavar="NAME",
        help="label maps that no network was trained on (default: training_seg_18 training_seg_19)",
    )
    add(
        "--anatomy",
        nargs="+",
        default=[],
        metavar="A",
        help="brains synthesised at 2 mm with fixed tissue values: icbm, or a file or folder as "
        "simulate takes it",
    )
    add_weighted_folders(parser)
    add(
        "--denoisers",
        nargs="*",
        metavar="NAME",
        help="networks, by name or path (default: all in the models folder)",
    )
    add(
        "--classical",
        nargs="*",
        metavar="NAME",
        help="of gaussian, nlm, bm4d (slow) and prefilter, those to compare with (default: all)",
    )
    add("--sigmas", type=float, nargs="+", default=[0.02, 0.05, 0.1, 0.2], metavar="S",
        help="noise levels (default: 0.02 0.05 0.1 0.2)")  # fmt: skip
    add("--volumes", type=int, default=4, metavar="N", help="synthetic heads (default: 4)")
    add("--size", type=int, default=64, metavar="N", help="voxels along each side (default: 64)")
    add(
        "--voxel",
        type=float,
        nargs="+",
        default=[1.0, 2.5],
        metavar="MM",
        help="voxel size of the heads, one or a range (default: 1 2.5)",
    )
    add("--patch", type=int, default=64, metavar="N", help="side of what is timed (default: 64)")
    add("--seed", type=int, default=0, metavar="N", help="of all that is random (default: 0)")
    add_thread_option(parser)
    add("--device", default="cpu", help="of networks and reconstructions (default: %(default)s)")


def _add_reconstruction(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--reconstruct", action="store_true", help="reconstruct the subjects with each denoiser")
    add("--matrix", type=int, default=64, metavar="N", help="voxels along each side (default: 64)")
    add("--fov", type=float, default=0.11, metavar="M", help="field of view (default: 0.11 m)")
    add("--region", choices=("head", "brain", "ball"), default="ball", help="(default: ball)")
    add("--acceleration", type=float, default=2.0, metavar="R", help="(default: 2)")
    add("--noise", type=float, default=0.25, metavar="X", help="noise level (default: 0.25)")
    add("--frames", type=int, default=500, metavar="L", help="time frames (default: 500)")
    add("--iterations", type=int, metavar="T", help="of the ADMM (default: the algorithm's)")
    add(
        "--cg-iterations",
        type=int,
        metavar="N",
        help="at most, per update (default: the algorithm's)",
    )
    add("--coupling", type=float, metavar="X", help="lambda (default: that of the algorithm)")
    add("--weight", type=float, metavar="W", help="of each contrast (default: the algorithm's)")
    add(
        "--sigma",
        type=float,
        nargs=2,
        metavar=("FIRST", "LAST"),
        help="noise levels of the annealing (default: the algorithm's)",
    )
    add(
        "--total-variation",
        type=float,
        metavar="X",
        help="of the TSMI, beside each prior (default: the algorithm's)",
    )
    add("--lrtv-strength", type=float, metavar="X", help="lambda of LRTV (default: its own)")


def run(args: argparse.Namespace) -> int:
    """Compare denoisers; other parts set a function of their own."""
    _check(args)

    from mri2qmap.machine.devices import select_device
    from mri2qmap.studies import denoiser_bench as bench
    from mri2qmap.studies.bench_figures import psnr_figure, slices_figure
    from mri2qmap.studies.bench_report import (
        ACQUIRED_NOTE,
        denoising_report,
        reconstruction_report,
    )
    from mri2qmap.studies.bench_volumes import acquired_heads
    from mri2qmap.studies.result_table import ResultTable

    device = select_device(args.device)
    settings = _reconstruction_settings(args) if args.reconstruct else None
    label_maps = _label_maps(args)
    candidates, left_out = _candidates(args, device)
    folder = args.out
    files = ResultFiles(folder, [REPORT, "slices.png", "psnr.png"], "--out ")
    psnr_table = ResultTable(folder / "psnr.csv", bench.PSNR_KEY, bench.PSNR_VALUES)
    time_table = ResultTable(folder / "times.csv", bench.TIME_KEY, bench.TIME_VALUES)
    acquired = acquired_heads(weighted_folders(args), args.size)
    volumes = _distinct(_synthesised(args, label_maps) + acquired)

    shown = [bench.noisy_images(), *candidates]
    scores = bench.measure_psnr(volumes, shown, args.sigmas, args.seed, psnr_table, args.report)
    middle = min(args.sigmas, key=lambda sigma: abs(math.log(sigma / PICTURED_SIGMA)))
    files.write(
        "slices.png",
        lambda path: slices_figure(path, volumes[0], shown, scores, middle, args.seed),
    )
    files.write("psnr.png", lambda path: psnr_figure(path, scores))
    times = bench.measure_times(candidates, args.patch, time_table, args.report)
    n, plural = args.size, "s" * (len(volumes) > 1)
    wide = f", those of label maps {_range(args.voxel)} mm wide" if label_maps else ""
    notes = [
        *left_out,
        f"{len(volumes)} volume{plural} of {n} x {n} x {n} voxels{wide}; seed {args.seed}",
    ]
    if acquired:
        notes.append(f"{', '.join(volume.group for volume in acquired)}: {ACQUIRED_NOTE}")
    text = denoising_report(scores, candidates, times, args.patch, notes)
    files.write(REPORT, text)
    if settings is not None:
        errors = _reconstruct(args, settings, label_maps, candidates, scores)
        text += "\n" + reconstruction_report(errors, settings)
        files.write(REPORT, text)
    say(text.rstrip("\n"))
    return 0


def _check(args: argparse.Namespace) -> None:
    """Refuse at once what cannot be."""
    low, high = args.voxel[0], args.voxel[-1]
    checks = [
        ("sigmas", args.sigmas, all(0 < s <= 1 for s in args.sigmas), "levels above 0, up to 1"),
        ("volumes", args.volumes, args.volumes >= 1, "1 or more"),
        ("size", args.size, 16 <= args.size <= 512, "16 to 512"),
        ("patch", args.patch, 8 <= args.patch <= 512, "8 to 512"),
        (
            "voxel",
            args.voxel,
            len(args.voxel) <= 2 and 0.5 <= low <= high <= 8,
            "one size or an ascending pair, 0.5 to 8 mm",
        ),
        ("seed", args.seed, args.seed >= 0, "0 or more"),
        ("frames", args.frames, 2 <= args.frames <= 65536, "2 to 65536"),
        (
            "iterations",
            args.iterations,
            args.iterations is None or args.iterations >= 1,
            "1 or more",
        ),
        (
            "cg-iterations",
            args.cg_iterations,
            args.cg_iterations is None or args.cg_iterations >= 1,
            "1 or more",
        ),
        ("coupling", args.coupling, args.coupling is None or args.coupling > 0, "above 0"),
        (
            "sigma",
            args.sigma,
            args.sigma is None or 1 >= args.sigma[0] >= args.sigma[1] > 0,
            "two levels above 0, up to 1, the first not below the last",
        ),
        ("total-variation", args.total_variation, (args.total_variation or 0) >= 0, "0 or more"),
        ("lrtv-strength", args.lrtv_strength, (args.lrtv_strength or 0) >= 0, "0 or more"),
        ("weight", args.weight, args.weight is None or args.weight >= 0, "0 or more"),
    ]
    for name, value, valid, expected in checks:
        if not valid:
            given = " ".join(map(str, value)) if isinstance(value, list) else value
            raise Mri2QmapError(f"--{name} {given}: expected {expected}")
    if args.labels is None and not args.anatomy and not weighted_folders(args):
        raise Mri2QmapError(
            "bench denoiser: there is nothing to denoise; give --labels, --anatomy, or acquired "
            "images (--t1w, --t2w, --pdw)"
        )
    if args.labels is None and args.reconstruct:
        raise Mri2QmapError("--reconstruct: it needs the subjects' label maps, --labels")


def _reconstruction_settings(args: argparse.Namespace) -> PriorBenchSettings:
    from mri2qmap.anatomy.voxel_model import Region
    from mri2qmap.recon.plug_and_play_parameters import PlugAndPlayParameters
    from mri2qmap.recon.regulariser import SplitParameters
    from mri2qmap.studies.prior_bench import PriorBenchSettings

    names = ("iterations", "cg_iterations", "coupling", "total_variation")
    given = {name: getattr(args, name) for name in names}
    chosen: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    chosen["nonlocal_iterations"] = 0  # it reduces the differences of the denoisers
    if args.weight is not None:
        chosen |= dict.fromkeys(("weight_t1w", "weight_t2w", "weight_pdw"), args.weight)
    if args.sigma is not None:
        chosen["sigma_start"], chosen["sigma_end"] = args.sigma
    lrtv = {} if args.lrtv_strength is None else {"strength": args.lrtv_strength}
    return PriorBenchSettings(
        matrix=args.matrix,
        field_of_view=args.fov,
        region=Region(args.region),
        acceleration=args.acceleration,
        noise=args.noise,
        seed=args.seed,
        parameters=PlugAndPlayParameters(**chosen),
        lrtv=SplitParameters(**lrtv),
    )


def _label_maps(args: argparse.Namespace) -> list[Path]:
    from mri2qmap.anatomy.label_maps import label_maps_of

    return [] if args.labels is None else list(label_maps_of(args.labels, args.subjects).values())


def _candidates(
    args: argparse.Namespace, device: torch.device
) -> tuple[list[Candidate], list[str]]:
    """Classical denoisers and networks, and a line for each that was left out."""
    from mri2qmap.studies.candidates import available_networks, load_networks
    from mri2qmap.studies.classical_denoisers import UNTRAINED, load_classical

    classical, left_out = load_classical(UNTRAINED if args.classical is None else args.classical)
    names = available_networks() if args.denoisers is None else args.denoisers
    networks = load_networks(names, device, args.seed, UNTRAINED)
    for network in networks:
        low, high = network.sigmas
        if outside := [sigma for sigma in args.sigmas if not low <= sigma <= high]:
            raise Mri2QmapError(
                f"--sigmas {' '.join(map(str, outside))}: {network.name} is made for {low:g} to "
                f"{high:g}"
            )
    if not classical and not networks:
        raise Mri2QmapError("bench denoiser: there is no denoiser to measure")
    return [*classical, *networks], left_out


def _synthesised(args: argparse.Namespace, label_maps: list[Path]) -> list[BenchVolume]:
    from mri2qmap.studies.bench_volumes import synthetic_heads, whole_anatomy

    voxels = (args.voxel[0], args.voxel[-1])
    heads = []
    if label_maps:
        heads = synthetic_heads(label_maps, args.volumes, args.size, voxels, args.seed)
    return heads + [whole_anatomy(source, args.size) for source in args.anatomy]


def _distinct(volumes: list[BenchVolume]) -> list[BenchVolume]:
    """Refuse different objects of one name, over which results would be averaged."""
    counts = Counter((volume.group, volume.index) for volume in volumes)
    (name, _), count = counts.most_common(1)[0]
    if count > 1:
        raise Mri2QmapError(
            f"bench denoiser: {count} sources of images are named {name}; measure them in separate "
            "runs, or rename the files of all but one"
        )
    return volumes


def _reconstruct(
    args: argparse.Namespace,
    settings: PriorBenchSettings,
    label_maps: list[Path],
    candidates: list[Candidate],
    scores: list[Score],
) -> list[MapErrors]:
    from mri2qmap.machine.devices import select_device
    from mri2qmap.mrsignal.dictionary import load_dictionary
    from mri2qmap.mrsignal.sequence import default_sequence
    from mri2qmap.studies import prior_bench
    from mri2qmap.studies.denoiser_bench import setting_curve
    from mri2qmap.studies.result_table import ResultTable

    sequence = default_sequence(args.frames)
    bench = prior_bench.PriorBench(
        settings,
        sequence,
        load_dictionary(sequence, device=select_device(args.device), progress=args.report.progress),
        ResultTable(
            args.out / "reconstruction.csv",
            prior_bench.RECONSTRUCTION_KEY,
            prior_bench.RECONSTRUCTION_VALUES,
        ),
        args.report,
    )
    heads = scores[0].group  # label maps come before everything else
    return bench.run(label_maps, [(c, setting_curve(scores, heads, c.name)) for c in candidates])


def _range(values: list[float]) -> str:
    return " to ".join(f"{value:g}" for value in dict.fromkeys(values))
