"""``mri2qmap simulate``: write an ISMRMRD file of a simulated scan, and the truth behind it."""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from mri2qmap.cli.console import say
from mri2qmap.errors import Mri2QmapError

if TYPE_CHECKING:
    from mri2qmap.mrsignal.sequence import Sequence

T = TypeVar("T")

_EXAMPLES = """\
The anatomy is the ICBM152 brain (icbm), the NIST/ISMRM system phantom (nist; 0.14 m across), a
label map with FreeSurfer's labels, a 4-D NIfTI of tissue fractions in BrainWeb's order, a folder of
T1map, T2map and PDmap (see mri2qmap anatomy), or a folder of one map per tissue: MINC (.mnc), raw
bytes (.rawb) or NIfTI. From a folder of several BrainWeb subjects, FOLDER/subject04 takes one. An
acceleration of R means 3.8 / R samples per voxel and coil.

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
        help="voxels, even, one number or x y z (default: 64)",
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
    add(
        "--groups",
        type=int,
        metavar="N",
        help="readout groups (default: chosen from frames and acceleration)",
    )
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
        help="text file of flip angles in degrees, one per frame, instead of the built-in train",
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
    from mri2qmap.api.simulation import simulate_to_files
    from mri2qmap.simulation.simulator import NoiseModel, Orientation, SimulationSettings

    settings = SimulationSettings(
        anatomy=args.anatomy,
        region=Region(args.region),
        matrix=_zyx(args.matrix, "--matrix"),
        field_of_view=_zyx(args.fov, "--fov"),
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
    simulated = simulate_to_files(
        settings,
        args.scan,
        args.truth,
        sequence=_sequence(args.frames, args.flip_angles),
        overwrite=args.overwrite,
        inputs={} if args.flip_angles is None else {"flip angles": args.flip_angles},
        progress=args.report,
    )
    say(
        f"{args.scan}: {simulated.size}, {simulated.samples_per_voxel:.3f} samples per voxel and "
        "coil"
    )
    return 0


def _triple(values: list[T]) -> tuple[T, T, T]:
    first, second, third = values
    return (first, second, third)


def _zyx(values: list[T], option: str) -> tuple[T, T, T]:
    """One number for all axes, or x y z, as (z, y, x)."""
    if len(values) not in (1, 3):
        raise Mri2QmapError(f"{option}: expected one number or three (x y z), got {len(values)}")
    return _triple(values * 3 if len(values) == 1 else values[::-1])


def _sequence(frames: int, flip_angles: Path | None) -> Sequence:
    """Return the default timing with the built-in flip angles, or those of a file."""
    import numpy as np

    from mri2qmap.api.simulation import MOST_FRAMES, flip_angle_train

    if not 2 <= frames <= MOST_FRAMES:
        raise Mri2QmapError(f"--frames {frames}: expected 2 to {MOST_FRAMES}")
    if flip_angles is None:
        return flip_angle_train(frames)
    try:
        angles = np.loadtxt(flip_angles, ndmin=1).ravel().tolist()
    except (OSError, ValueError) as error:
        raise Mri2QmapError(
            f"--flip-angles {flip_angles}: it cannot be read ({error}); a text file of numbers is "
            "expected"
        ) from error
    return flip_angle_train(frames, angles, f"--flip-angles {flip_angles}")
