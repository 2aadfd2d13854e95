"""Run by each of several processes: TSMIs (NPY) and maps of a scan by some pipelines."""

import dataclasses
import sys
from pathlib import Path

import numpy as np
import torch

from mri2qmap.api.reconstruction import reconstruct_to_folder
from mri2qmap.files.scan_files import open_scan
from mri2qmap.hosts.in_process import InProcessHost
from mri2qmap.machine.process_group import ProcessGroup
from mri2qmap.pipeline.acquisition_checks import checked_acquisitions
from mri2qmap.pipeline.acquisition_policy import pipeline_policy
from mri2qmap.pipeline.items import Tsmi
from mri2qmap.pipeline.pipeline_file import Pipeline, read_pipeline
from mri2qmap.pipeline.scan_header import ScanInfo

FEW = {
    "svdmrf": {},
    "lrtv": {"toeplitz_cg": {"prior_iterations": "3"}},
    "mri2qmap": {"pnp_admm": {"iterations": "3", "atom_step": "0.2"}},
}
"""Settings of few iterations, by pipeline."""
COMMON = {"coil_sensitivity": {"energy_kept": "1"}, "combined_matching": {"atom_step": "0.2"}}
"""All coils, and few atoms."""


def tsmi_of(path, pipeline, settings, processes):
    """TSMI that `combined_matching` gets."""
    with open_scan(path) as source:
        scan = ScanInfo.from_header(source.header)
        scan = dataclasses.replace(scan, processes=processes)
        chosen = read_pipeline(pipeline, settings)
        items = checked_acquisitions(source.items(), scan, pipeline_policy(chosen))
        host = InProcessHost(Pipeline(chosen.name, chosen.nodes[:-2]), scan)
        *_, last = (item.tsmi for item in host.run(items) if isinstance(item, Tsmi))
    return last


def reconstruct(path, output, processes):
    """Write TSMI and maps of each pipeline."""
    for pipeline, few in FEW.items():
        settings = {**few, **COMMON}
        with processes.connected(torch.device("cpu")):
            tsmi = tsmi_of(path, pipeline, settings, processes)
            processes.refuse_unless_same({"TSMI": str(tsmi.numpy().tobytes())})
        folder = output / pipeline
        record = reconstruct_to_folder(
            path, folder, pipeline, "cpu", settings, progress=False, processes=processes
        )
        assert record["processes"] == processes.world_size
        if processes.is_main:
            np.save(output / f"{pipeline}.npy", tsmi.numpy())


if __name__ == "__main__":
    torch.set_num_threads(1)
    reconstruct(Path(sys.argv[1]), Path(sys.argv[2]), ProcessGroup.from_environment())
