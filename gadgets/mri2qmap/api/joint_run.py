"""What several processes that reconstruct one scan must have in common, and what they share."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator

from mri2qmap.machine.process_group import ProcessGroup
from mri2qmap.pipeline.items import Item, Provenance
from mri2qmap.pipeline.memory_plan import available_bytes
from mri2qmap.pipeline.pipeline_file import Pipeline
from mri2qmap.pipeline.provenance import file_digest, input_files, machine, software
from mri2qmap.pipeline.scan_header import ScanInfo
from mri2qmap.pipeline.settings import settings_as_dict


def common_facts(header: bytes, scan: ScanInfo, pipeline: Pipeline) -> dict[str, str]:
    """Return what must be the same in all processes, see `ProcessGroup.refuse_unless_same`.

    Parameters
    ----------
    header
        XML header of the scan.
    scan
        The same, parsed, with the device and the processes.
    pipeline
        Gadgets and their settings. The contents of the files that they name count.

    Raises
    ------
    Mri2QmapError
        If such a file cannot be read.
    """
    settings = {node.name: settings_as_dict(node.settings) for node in pipeline.nodes}
    files = {
        f"{node.name}.{name}": file_digest(path)
        for node in pipeline.nodes
        for name, path in input_files(node.settings).items()
    }
    hardware, *others = machine(scan.device, scan.processes.world_size)
    kind = hardware.replace(str(scan.device), scan.device.type)  # each has a GPU of its own
    return {
        "header of the scan": hashlib.sha256(header).hexdigest(),
        "pipeline": json.dumps([settings, files, pipeline.scan_profile.record()], sort_keys=True),
        "set of package versions": json.dumps(software()),
        "device or number of threads": ", ".join([kind, *others]),
    }


def data_checked_by_all(items: Iterable[Item], processes: ProcessGroup) -> Iterator[Item]:
    """Pass on what is read of a scan, and compare its digest in all processes at the end.

    Raises
    ------
    Mri2QmapError
        If another process fails meanwhile or has read other data.
    """
    for item in items:
        processes.refuse_if_failed()
        if isinstance(item, Provenance):  # after the last acquisition
            processes.refuse_unless_same({"content of the scan": item.digest})
        yield item


def memory_of_process(scan: ScanInfo) -> int:
    """Return the memory that this process may use [bytes]: all of a GPU, its share on a CPU."""
    free = available_bytes(scan.device)
    return free if scan.device.type == "cuda" else free // scan.processes.local_size
