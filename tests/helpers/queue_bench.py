"""A queue whose scans are reconstructed by small programs in place of `mri2qmap replay`."""

import sys
import textwrap
from datetime import timedelta

import pytest
from helpers.scans import acquisitions, header
from helpers.waiting import eventually

from mri2qmap.hosts.service_record import ServiceRecord
from mri2qmap.pipeline.memory_budget import MemoryBudget
from mri2qmap.scan_queue import runner as module
from mri2qmap.scan_queue.queue_folder import QueueFolder
from mri2qmap.scan_queue.runner import QueueRunner
from mri2qmap.storage.written import record_bytes

TOTAL = 5000
SIZE = 1000
RECORD = record_bytes({"written": {"mrd": 3, "dicom": 4}})
SUCCESS = """
    folder = pathlib.Path(sys.argv[1])
    (folder / "maps").mkdir()
    (folder / "maps" / "run.json").write_bytes(RECORD)
"""
ONE_STEP = """
    content = {"stage": "ADMM", "done": 5, "total": 16}
    pathlib.Path(sys.argv[1], "progress.json").write_text(json.dumps(content))
"""
WAIT = "\n    time.sleep(60)\n"


def python(program, folder):
    lines = f"import json, os, pathlib, signal, sys, time\nRECORD = {RECORD!r}\n"
    return [sys.executable, "-c", lines + textwrap.dedent(program), str(folder)]


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(module, "LOOK", 0.02)
    monkeypatch.setattr(module, "_PAUSE", 0.01)
    monkeypatch.setattr(module, "_PAUSE_OF_DISK", 0.01)


class Bench:
    def __init__(self, path):
        self.path = path
        self.budget = MemoryBudget(TOTAL)
        self.record = ServiceRecord("scan")
        self.queue = QueueFolder(path, 10, timedelta(days=7))
        self.programs = [SUCCESS]
        self.started = []
        self.runner = QueueRunner(self.queue, self.budget, self.record)
        self.runner._command = self._command

    def _command(self, folder, size):
        self.started.append((folder.name, size))
        program = self.programs.pop(0) if len(self.programs) > 1 else self.programs[0]
        return python(program, folder)

    def receive(self, count=4, peer="10.0.0.1"):
        reception = self.queue.receive(
            header().encode(),
            ("lrtv", b"<configuration/>"),
            scan="scan 1",
            matrix=(8, 9, 10),
            frames=4,
            memory=SIZE,
            peer=peer,
        )
        with reception as received:
            for item in acquisitions()[:count]:
                received.add(item)
            return received.finish()

    def number(self, outcome):
        return self.record.registry.get_sample_value("mri2qmap_scans_total", {"outcome": outcome})


@pytest.fixture
def bench(tmp_path):
    found = Bench(tmp_path / "queue")
    yield found
    found.queue.close()


def wait_for(scan, state):
    eventually(lambda: scan.record.state is state, f"the scan is not {state}")
