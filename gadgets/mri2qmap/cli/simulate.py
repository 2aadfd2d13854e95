"""``mri2qmap simulate``: write an ISMRMRD file of a simulated scan, and the truth behind it."""

from __future__ import annotations

import argparse
import contextlib
import math
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from mri2qmap.cli.console import say
from mri2qmap.errors import Mri2QmapError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from mri2qmap.mrsignal.sequence import Sequence
    from mri2qmap.pipeline.progress import Reporter
    from mri2qmap.simulation.simulator import Simulation, SimulationSettings
    from mri2qmap.storage.file_place import FilePlace
    from mri2qmap.storage.folder_place import FolderPlace

T = TypeVar("T")

_EXAMPLES = """\
The anatomy is the ICBM152 brain (icbm), the NIST/ISMRM system phantom (nist; 0.14 m across), a
label map with FreeSurfer's labels, a 4-D NIfTI of tissue fractions in BrainWeb's order, or a folder
of one map a tissue: MINC (.mnc), raw bytes (.rawb) or NIfTI. From a folder of several BrainWeb
subjects, FOLDER/subject04 takes one. An acceleration of R means 3.8 / R samples per voxel and coil.

Noise: with one coil, white noise is laid on every subspace image before sampling, with a standard
deviation of NOISE times the mean signal amplitude. With more coils it is white noise of correlated
receivers on every sample, at the level that leaves the same in each subspace image of a fully
sampled scan; noise scans are then written too.

With --b1-spread the truth has B1map.nii.gz, the relative transmit field; mri2qmap replay takes it
as --set pnp_admm.b1_map=FILE --set combined_matching.b1_map=FILE. Simulating takes longer then.

examples:
  mri2qmap simulate scan.h5 --truth truth
  mri2qmap simulate scan.h5 --truth truth --anatomy labels.nii.gz --region ball --matrix 64 \\
      --fov 0.11 --coils 1 --acceleration 2 --noise 0.25
  mri2qmap simulate scan.h5 --truth truth --b1-spread 0.2
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the command line."""
    parser = subparsers.add_parser(
        "simulate",
        help="write a simulated scan and the truth behind it",
        description="Simulate a 3D MR-fingerprinting scan and write it as an ISMRMRD file.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("scan", type=Path, metavar="OUT.h5", help="ISMRMRD file to write")
    add("--truth", type=Path, metavar="DIR", help="folder to write the truth to")
    add(
        "--overwrite",
        action="store_true",
        help="replace the file and the folder if they are as this command wrote them",
    )
    add("--anatomy", default="icbm", metavar="A", help="icbm (default), nist, or a file or folder")
    add("--region", choices=("head", "brain", "ball"), default="brain", help="(default: brain)")
    add(
        "--matrix",
        type=int,
        nargs="+",
        default=[64],
        metavar="N",
        help="voxels, one number or x y z (default: 64)",
    )
    add(
        "--fov",
        type=float,
        nargs="+",
        default=[0.192],
        metavar="M",
        help="field of view in metres, one number or x y z (default: 0.192)",
    )
    add("--coils", type=int, default=8, metavar="N", help="receive coils (default: 8)")
    add("--frames", type=int, default=500, metavar="L", help="time frames (default: 500)")
    add("--acceleration", type=float, default=4.0, metavar="R", help="(default: 4)")
    add("--groups", type=int, metavar="N", help="readout groups (default: as fits)")
    add("--noise", type=float, default=0.25, metavar="X", help="noise level (default: 0.25)")
    add("--noise-model", choices=("auto", "tsmi", "receiver"), default="auto", help="(see below)")
    add("--phase", type=float, default=1.0, metavar="RAD", help="object phase (default: 1)")
    add(
        "--b1-spread",
        type=float,
        default=0.0,
        metavar="S",
        help="transmit field from 1 - S to 1 + S over the object (default: 0, no variation)",
    )
    add(
        "--density-exponent",
        type=float,
        default=2 / 3,
        metavar="P",
        help="spiral radius grows as time^P: 1/2 constant speed, 2/3 constant acceleration "
        "(default), 1 constant angular speed; the larger, the denser the centre",
    )
    add(
        "--flip-angles",
        type=Path,
        metavar="FILE",
        help="text file of flip angles in degrees, one a frame, instead of the built-in train",
    )
    add(
        "--orientation",
        choices=("axial", "coronal", "sagittal"),
        default="axial",
        help="plane of the image axes (default: axial)",
    )
    add(
        "--oblique",
        type=float,
        nargs=3,
        default=[0.0, 0.0, 0.0],
        metavar="DEG",
        help="turn them about the patient's left, posterior and head axes",
    )
    add("--seed", type=int, default=0, metavar="N", help="of the noise (default: 0)")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    from mri2qmap.anatomy.voxel_model import Region
    from mri2qmap.simulation.mrd_writer import scan_bytes
    from mri2qmap.simulation.simulator import (
        NoiseModel,
        Orientation,
        SimulationSettings,
        simulate,
    )
    from mri2qmap.simulation.trajectory import plan_sampling
    from mri2qmap.simulation.truth import truth_bytes

    matrix = _zyx(args.matrix, "--matrix")
    fov = _zyx(args.fov, "--fov")
    settings = SimulationSettings(
        anatomy=args.anatomy,
        region=Region(args.region),
        matrix=matrix,
        field_of_view=fov,
        coils=args.coils,
        acceleration=args.acceleration,
        groups=args.groups,
        noise=args.noise,
        noise_model=NoiseModel(args.noise_model),
        phase=args.phase,
        b1_spread=args.b1_spread,
        density_exponent=args.density_exponent,
        orientation=Orientation(args.orientation),
        oblique=_triple([math.radians(angle) for angle in args.oblique]),
        seed=args.seed,
    )
    sequence = _sequence(args.frames, args.flip_angles)
    plan = plan_sampling(matrix, sequence.n_frames, settings.acceleration, settings.groups)
    room = (
        scan_bytes(plan.groups, plan.frames, settings.coils, plan.samples),
        truth_bytes(math.prod(matrix)),
    )
    inputs = {"anatomy": Path(args.anatomy)}
    if args.flip_angles is not None:
        inputs["flip angles"] = args.flip_angles
    with _places(args.scan, args.truth, args.overwrite, inputs, room) as (scan, truth):
        simulation = simulate(settings, sequence, args.report)
        _write(scan, truth, simulation, settings, args.report)
    groups, frames, coils, samples = simulation.scan.kspace.shape
    say(
        f"{args.scan}: {groups} groups x {frames} frames x {samples} samples, {coils} coils, "
        f"{groups * frames * samples / math.prod(matrix):.3f} samples per voxel and coil"
    )
    return 0


@contextlib.contextmanager
def _places(
    scan: Path,
    truth: Path | None,
    overwrite: bool,
    inputs: Mapping[str, Path],
    room: tuple[int, int],
) -> Iterator[tuple[FilePlace, FolderPlace | None]]:
    """Try what could fail in writing the scan and its truth; remove what is not finished."""
    from mri2qmap.simulation.truth import RECORD
    from mri2qmap.storage.file_place import FilePlace
    from mri2qmap.storage.folder_place import FolderPlace
    from mri2qmap.storage.inputs import lies_in

    if truth is not None and (lies_in(scan, truth) or lies_in(truth, scan)):
        raise Mri2QmapError(
            f"--truth {truth}: the scan {scan} and the folder of its truth cannot be in one "
            "another; choose another name"
        )
    with contextlib.ExitStack() as scratch:
        scan_place = FilePlace(scan, overwrite=overwrite, inputs=inputs, room=room[0])
        scratch.callback(scan_place.remove)
        truth_place = None
        if truth is not None:
            truth_place = FolderPlace(
                truth, RECORD, overwrite=overwrite, what="--truth", inputs=inputs, room=room[1]
            )
            scratch.callback(truth_place.remove)
        yield scan_place, truth_place


def _write(
    scan: FilePlace,
    truth: FolderPlace | None,
    simulation: Simulation,
    settings: SimulationSettings,
    report: Reporter,
) -> None:
    """Write everything aside, then give it its names: a failure leaves nothing behind."""
    from mri2qmap.simulation.mrd_writer import write_scan
    from mri2qmap.simulation.truth import write_truth
    from mri2qmap.storage.atomic import why

    try:
        write_scan(scan.partial, simulation.scan, report)
        if truth is not None:
            write_truth(truth.partial, simulation, settings)
    except OSError as error:
        raise Mri2QmapError(
            f"simulate: writing {scan.path} and its truth failed ({why(error)})"
        ) from error
    scan.check()  # both or none
    if truth is not None:
        truth.put_in_place()
    scan.put_in_place()


def _triple(values: list[T]) -> tuple[T, T, T]:
    first, second, third = values
    return (first, second, third)


def _zyx(values: list[T], option: str) -> tuple[T, T, T]:
    """One number for all axes, or x y z, as (z, y, x)."""
    if len(values) not in (1, 3):
        raise Mri2QmapError(f"{option}: expected one number or three (x y z), got {len(values)}")
    return _triple(values * 3 if len(values) == 1 else values[::-1])


def _sequence(frames: int, flip_angles: Path | None) -> Sequence:
    """The default timing with the built-in or the given flip angles."""
    from dataclasses import replace

    import numpy as np

    from mri2qmap.mrsignal.sequence import default_sequence
    from mri2qmap.pipeline.header_units import check_flip_angles

    if not 2 <= frames <= 65536:
        raise Mri2QmapError(f"--frames {frames}: expected 2 to 65536")
    sequence = default_sequence(frames)
    if flip_angles is None:
        return sequence
    try:
        angles = np.loadtxt(flip_angles, ndmin=1).ravel()
    except (OSError, ValueError) as error:
        raise Mri2QmapError(
            f"--flip-angles {flip_angles}: it cannot be read ({error}); a text file of numbers is "
            "expected"
        ) from error
    if len(angles) != frames or not np.all(np.isfinite(angles)):
        raise Mri2QmapError(
            f"--flip-angles {flip_angles}: it holds {len(angles)} values for {frames} frames; one "
            "finite angle in degrees a frame is expected (--frames)"
        )
    check_flip_angles([float(angle) for angle in angles], f"--flip-angles {flip_angles}")
    return replace(sequence, flip_angles=tuple(float(a) for a in np.deg2rad(angles)))
