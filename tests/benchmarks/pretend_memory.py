"""Memory of a reconstruction on a GPU, without one: python tests/benchmarks/pretend_memory.py.

Not a test: it runs a pipeline on the pretend GPU of the tests, on a simulated scan of the system
phantom, and prints the largest memory of each gadget and what was alive at the largest of all.
Tensors and cufinufft's fine grids are counted. Work arrays of cuFFT, cuDNN and cuBLAS, which are no
tensors, and what PyTorch keeps for later use are not.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from helpers.pretend_gpu import pretend_gpu

from mri2qmap.anatomy.sources import NIST
from mri2qmap.anatomy.voxel_model import Region
from mri2qmap.api.reconstruction import reconstruct_to_folder
from mri2qmap.api.simulation import simulate
from mri2qmap.cli.serving import memory_of

MIB = 2**20
SHOWN = 20


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--pipeline", default="mri2qmap")
    add("--matrix", type=int, default=32, help="voxels along each side (default: 32)")
    add("--coils", type=int, default=4, help="receive coils, all kept (default: 4)")
    add("--acceleration", type=float, default=4.0)
    add("--frames", type=int, default=500)
    add("--memory", metavar="SIZE", help="what it may take, such as 2GB")
    add("--set", nargs="*", default=[], metavar="GADGET.NAME=VALUE", help="settings")
    args = parser.parse_args()
    simulated = simulate(
        anatomy=NIST,
        region=Region.BALL,
        matrix=args.matrix,
        field_of_view=0.144,
        coils=args.coils,
        acceleration=args.acceleration,
        frames=args.frames,
        noise=0.1,
    )
    settings = {"coil_sensitivity.virtual_coils": args.coils}
    settings |= dict(text.split("=", 1) for text in args.set)
    with tempfile.TemporaryDirectory() as folder, pretend_gpu(bfloat16=True) as gpu:
        gpu.watch = True
        record = reconstruct_to_folder(
            simulated,
            Path(folder) / "maps",
            args.pipeline,
            "cuda:0",
            settings,
            memory=memory_of(args.memory),
        )
    voxels = args.matrix**3
    print(f"{args.pipeline}, {args.matrix}^3, {args.coils} coils: {gpu.highest / MIB:.1f} MiB,")
    print(f"{gpu.highest / voxels:.0f} bytes per voxel, in {gpu.place}\n")
    for gadget in record["gadgets"]:
        peak = gadget["gpu_peak_bytes"] or 0
        print(f"{gadget['name']:24} {peak / MIB:10.1f} MiB {peak / voxels:8.0f} bytes per voxel")
    print("\nalive then:")
    largest = sorted(gpu.alive.items(), key=lambda item: -item[0][2] * item[1])
    for (shape, dtype, size), count in largest[:SHOWN]:
        name = str(dtype).removeprefix("torch.")
        print(f"{count * size / MIB:10.1f} MiB  {count:3} x {list(shape)} {name}")


if __name__ == "__main__":
    main()
