"""Reconstruct a scan in all hosts: python tests/benchmarks/compare_hosts.py SCAN.h5.

Not a test: it prints, for each host, seconds, when the gadgets were ready, and the share of voxels
whose T1 and T2 are within 1 % of those made in process. Every server
reconstructs twice; the second time it is warm. Gadgetron's hosts run where `gadgetron` is on the
PATH.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import h5py
import ismrmrd
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from helpers.live import gadgetron_server, own_server

from mri2qmap.api.reconstruction import reconstruct_to_folder
from mri2qmap.cli.remote_replay import replay_remotely
from mri2qmap.cli.replay import DEFAULT_TICK
from mri2qmap.pipeline.pipeline_file import pipeline_document
from mri2qmap.pipeline.progress import Reporter

MAPS = ("T1 map", "T2 map", "PD map")
OBJECT = 0.1
"""Voxels with more than this part of the brightest proton density are compared."""


def read_maps(folder: Path) -> dict[str, np.ndarray]:
    """T1, T2 [ms] and PD from the images that a host gave."""
    found = {}
    with h5py.File(folder / "mrd.h5") as file:
        group = next(iter(file))
    with ismrmrd.Dataset(str(folder / "mrd.h5"), group, create_if_needed=False) as file:
        for name in file.list():
            if name.startswith("image"):
                for number in range(file.number_of_images(name)):
                    image = file.read_image(name, number)
                    label = next(
                        (x for x in MAPS if image.meta["SeriesDescription"].startswith(x)), ""
                    )
                    found[label] = image.data.squeeze()
    return found


def within_one_per_cent(found: np.ndarray, expected: np.ndarray, inside: np.ndarray) -> float:
    """Share of the voxels [%] within 1 %."""
    step = 1.01
    ratio = found[inside] / expected[inside]
    return 100 * float(np.mean((ratio < step) & (ratio > 1 / step)))


def ready(record: dict[str, Any]) -> str:
    """When the gadgets were ready, as the host tells it [s]."""
    if (at_server := record.get("at_server")) is not None:
        return f"{at_server['ready_s']:.3f}"
    if "ready_s" in record:
        return f"{record['ready_s']:.3f}"
    return " ".join(f"{node['ready_s']:.3f}" for node in record["nodes"])


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("scan", type=Path)
    parser.add_argument("--realtime", action="store_true", help="at the pace of the scan")
    args = parser.parse_args()
    tick = DEFAULT_TICK * 1e-3 if args.realtime else None
    with ExitStack() as running, tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        record = reconstruct_to_folder(args.scan, folder / "reference", progress=Reporter())
        expected = read_maps(folder / "reference")
        density = np.abs(expected["PD map"])
        inside = (density > OBJECT * np.percentile(density, 99)) & (expected["T1 map"] > 0)
        print(f"{'host':28}{'s':>7}{'T1 %':>8}{'T2 %':>8}{'latency s':>11}  ready s")
        print_row("in process", record, [100.0, 100.0])
        for host, server, pipeline in hosts(running, folder):
            for run in ("first scan", "second scan"):
                output = folder / f"{host} {run}"
                address = f"127.0.0.1:{server}"
                record = replay_remotely(
                    args.scan, address, output, pipeline=pipeline, tick=tick, report=Reporter()
                )
                found = read_maps(output)
                shares = [within_one_per_cent(found[m], expected[m], inside) for m in MAPS[:2]]
                print_row(f"{host}, {run}", record, shares)


def hosts(running: ExitStack, folder: Path) -> Iterator[tuple[str, int, Path | str]]:
    """Name, port and pipeline of each server, which runs until the end."""
    yield "serve", running.enter_context(own_server("serve")).port, "mri2qmap"
    if shutil.which("gadgetron") is None:
        print("no gadgetron on the PATH")
        return
    gadgetron = running.enter_context(gadgetron_server(folder)).port
    yield "execute", gadgetron, "mri2qmap_execute"
    worker = running.enter_context(own_server("worker")).port
    connect = folder / "connect.xml"
    connect.write_bytes(pipeline_document("mri2qmap_connect").replace(b"18000", b"%d" % worker))
    yield "connect", gadgetron, connect


def print_row(name: str, record: dict[str, Any], shares: list[float]) -> None:
    """One line of the table."""
    print(
        f"{name:28}{record['total_s']:7.1f}{shares[0]:8.2f}{shares[1]:8.2f}"
        f"{record['last_acquisition_to_first_map_s']:11.1f}  {ready(record)}",
        flush=True,
    )


if __name__ == "__main__":
    main()
