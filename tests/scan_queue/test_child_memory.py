"""The memory of a scan of the queue is the same number for the server and for its child."""

from datetime import timedelta

import pytest
import torch
from helpers.scans import header

from mri2qmap.cli.main import build_parser
from mri2qmap.cli.serving import memory_of
from mri2qmap.hosts.service_record import ServiceRecord
from mri2qmap.pipeline.memory_budget import MemoryBudget
from mri2qmap.pipeline.memory_plan import fitted_to_memory, planned_bytes, with_channels
from mri2qmap.pipeline.pipeline_file import read_pipeline
from mri2qmap.pipeline.scan_header import parse_scan_header
from mri2qmap.scan_queue.queue_folder import QueueFolder
from mri2qmap.scan_queue.runner import QueueRunner

SIZES = (1, 1023, 2**30 - 1, 2**30, 760365177, 10**12 + 1, 2**53 - 1)


@pytest.fixture
def as_child(tmp_path):
    queue = QueueFolder(tmp_path / "queue", 10, timedelta(days=7))
    runner = QueueRunner(queue, MemoryBudget(2**40), ServiceRecord())

    def read(size):
        words = runner._command(tmp_path / "scan", size)
        return memory_of(build_parser().parse_args(words[words.index("replay") :]).memory)

    yield read
    queue.close()


@pytest.mark.parametrize("size", SIZES)
def test_a_size_arrives_as_it_was_sent(as_child, size):
    assert as_child(size) == size


@pytest.mark.parametrize("name", ["svdmrf", "lrtv", "llr", "mrf_admm", "mri2qmap"])
def test_the_child_may_take_what_was_planned(as_child, name):
    nodes = read_pipeline(name).nodes
    for edge in (16, 20, 24, 32, 40, 48, 64):
        xml = header(matrix=f"{edge} {edge} {edge}", fov="200 200 200")
        scan = parse_scan_header(xml.encode(), torch.device("cpu"))
        for channels in (1, 2, 4, 8):
            of_the_child = with_channels(scan, channels)
            size = planned_bytes(of_the_child, nodes)
            fitted = fitted_to_memory(of_the_child, nodes, as_child(size))
            assert not fitted.spare_memory
