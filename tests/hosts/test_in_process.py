import mmap
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import ismrmrd
import numpy as np
import pytest
import torch
from helpers.scans import (
    GainSettings,
    SumSettings,
    acquisitions,
    expected_sum,
    gain,
    scan_info,
    sum_up,
)
from helpers.waiting import Clock

from mri2qmap.errors import Mri2QmapError
from mri2qmap.hosts import in_process
from mri2qmap.hosts.in_process import GadgetError, InProcessHost
from mri2qmap.hosts.run_record import run_record
from mri2qmap.machine.cancellation import Cancellation, raise_if_cancelled
from mri2qmap.pipeline.geometry import Geometry
from mri2qmap.pipeline.items import Item, Tsmi
from mri2qmap.pipeline.pipeline_file import GadgetNode, Pipeline
from mri2qmap.pipeline.progress import TerminalReporter
from mri2qmap.pipeline.scan_header import ScanInfo
from mri2qmap.pipeline.scan_record import scan_record
from mri2qmap.recon.admm import AdmmIteration
from mri2qmap.recon.iteration_statistics import IterationStatistics

GEOMETRY = Geometry((2, 2, 2), (1e-3, 1e-3, 1e-3))


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(in_process, "time", clock)
    return clock


@dataclass(frozen=True)
class SlowSettings:
    clock: Clock = field(default_factory=Clock)
    per_item: float = 0.0
    at_the_end: float = 0.0
    megabytes: int = 0


def slow(items: Iterator[Item], scan: ScanInfo, settings: SlowSettings) -> Iterator[Item]:
    for item in items:
        settings.clock.sleep(settings.per_item)
        yield item
    settings.clock.sleep(settings.at_the_end)
    ballast = torch.ones(settings.megabytes * 2**18)
    yield Tsmi(torch.zeros(1, 2, 2, 2) + ballast.sum(), GEOMETRY)


def host(*nodes) -> InProcessHost:
    return InProcessHost(Pipeline("toy", tuple(GadgetNode(*n) for n in nodes)), scan_info())


def test_items_pass_through_all_gadgets():
    chain = host(
        ("a", gain, GainSettings(factor=2)),
        ("b", gain, GainSettings(factor=3)),
        ("c", sum_up, SumSettings(dicom=False)),
    )
    image, volume = chain.run(acquisitions())
    assert image.data[0, 0, 0, 0] == pytest.approx(expected_sum(6), rel=1e-5)
    assert volume.name == "summap.nii.gz"
    assert [a.name for a in chain.timings] == ["source", "a", "b", "c", "output"]
    assert [(a.items_in, a.items_out) for a in chain.timings] == [
        (0, 10),
        (10, 10),
        (10, 10),
        (10, 2),
        (2, 0),
    ]


def test_item_reaches_the_output_before_the_next_is_read():
    taken = []

    def source():
        for item in acquisitions():
            taken.append(item)
            yield item

    stream = host(("a", gain, GainSettings()), ("b", gain, GainSettings())).run(source())
    for number, _ in enumerate(stream, start=1):
        assert len(taken) == number


def test_time_is_attributed_to_the_active_stage(clock):
    def source():
        for item in acquisitions()[:5]:
            clock.sleep(2)
            yield item

    chain = host(
        ("first", slow, SlowSettings(clock, per_item=4)),
        ("second", slow, SlowSettings(clock, at_the_end=30)),
    )
    for _ in chain.run(source()):
        clock.sleep(1)
    source_timing, first, second, output = chain.timings
    assert source_timing.busy == 5 * 2
    assert first.busy == 5 * 4
    assert second.busy == 30
    assert output.busy == 7  # five acquisitions and one Tsmi from each gadget
    assert chain.total == 10 + 20 + 30 + 7
    assert (source_timing.first_item, source_timing.last_item) == (2, 4 * 7 + 2)
    assert chain.last_acquisition == 30
    assert (first.first_item, first.last_item) == (6, 35)
    assert (second.first_item, second.last_item) == (6, 35 + 1 + 30)


def test_ready_is_the_request_of_the_first_item(clock):
    def prepares(items: Iterator[Item], scan: ScanInfo, settings: SlowSettings) -> Iterator[Item]:
        clock.sleep(settings.at_the_end)
        yield from items

    first, second = (
        GadgetNode(name, prepares, SlowSettings(clock, at_the_end=seconds))
        for name, seconds in (("first", 3), ("second", 4))
    )
    chain = InProcessHost(Pipeline("p", (first, second)), scan_info(), start=clock.now - 2)
    list(chain.run(acquisitions()))
    assert chain.ready == chain.total == 2 + 3 + 4


@pytest.mark.skipif(
    not in_process.reset_peak_memory(), reason="the system cannot reset the peak memory"
)
def test_peak_memory_can_be_reset():
    with mmap.mmap(-1, 2**29) as ballast:  # returned to the system, unlike memory from malloc
        ballast.write(bytes(2**29))
        before = in_process._peak_rss()
    assert in_process.reset_peak_memory()
    assert in_process._peak_rss() < before - 2**28


def test_memory_is_attributed_to_the_active_stage():
    chain = host(
        ("modest", slow, SlowSettings()),
        ("greedy", slow, SlowSettings(megabytes=400)),
        ("after", slow, SlowSettings()),
    )
    list(chain.run(acquisitions()))
    growth = {timing.name: timing.rss_growth / 2**20 for timing in chain.timings}
    if growth["greedy"] == 0:
        pytest.skip("this process has used more memory before, so the peak cannot rise")
    assert growth["greedy"] > max(growth["modest"], growth["after"])
    assert growth["greedy"] < 500
    assert chain.timings[1].gpu_peak is None


def test_timing_as_json_has_units():
    chain = host(("a", gain, GainSettings()))
    list(chain.run(acquisitions()))
    values = chain.timings[1].as_dict()
    assert values["items_in"] == 10
    assert values["first_item_s"] <= values["last_item_s"]
    assert set(values) == {
        "items_in",
        "items_out",
        "first_item_s",
        "last_item_s",
        "busy_s",
        "busy_during_scan_s",
        "rss_growth_bytes",
        "rss_peak_bytes",
        "gpu_peak_bytes",
    }


def test_user_error_is_prefixed_with_its_gadget():
    chain = host(
        ("a", gain, GainSettings()),
        ("b", gain, GainSettings(fail_with="user")),
        ("c", gain, GainSettings()),
    )
    with pytest.raises(Mri2QmapError) as caught:
        list(chain.run(acquisitions()))
    assert str(caught.value) == "gadget b: this scan cannot be amplified"
    assert chain.total > 0


def test_gadget_name_is_not_repeated():
    def impatient(items, scan, settings):
        raise Mri2QmapError("impatient: no")
        yield

    with pytest.raises(Mri2QmapError, match=r"^gadget impatient: no$"):
        list(host(("impatient", impatient, None)).run(acquisitions()))


def test_bug_in_a_gadget_names_gadget_and_cause():
    chain = host(("a", gain, GainSettings()), ("b", gain, GainSettings(fail_with="bug")))
    with pytest.raises(GadgetError) as caught:
        list(chain.run(acquisitions()))
    assert str(caught.value) == "gadget b failed: ZeroDivisionError: division by zero"
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


@pytest.mark.parametrize("kind", [Mri2QmapError, OSError])
def test_error_of_the_source_names_no_gadget(kind):
    def source():
        yield acquisitions()[0]
        raise kind("the cable was unplugged")

    chain = host(("a", gain, GainSettings()), ("b", gain, GainSettings()))
    with pytest.raises(kind) as caught:
        list(chain.run(source()))
    assert str(caught.value) == "the cable was unplugged"


def test_statistics_of_iterations_are_recorded_and_the_last_is_logged():
    states = [
        AdmmIteration(
            IterationStatistics(number, 2.0, 2, 1e-3, 0.5 / number, 0.1, -7.0), torch.zeros(1)
        )
        for number in (1, 2)
    ]

    def iterative(items, scan, settings):
        yield from items
        step = scan.report.steps(3, "conjugate gradients")
        step()  # without statistics
        step = scan.report.steps(2, "ADMM")
        for state in states:
            step(state)

    report = TerminalReporter()
    chain = host(("a", gain, GainSettings()), ("iterative", iterative, GainSettings()))
    chain.scan = replace(chain.scan, report=report)
    list(chain.run(acquisitions()))
    assert chain.iterations == {"iterative": [state.statistics for state in states]}
    assert [line for line in report.lines if "residual" in line] == [
        f"iterative: {states[-1].statistics}"
    ]
    first, second = run_record(chain, [])["gadgets"]
    assert first["iterations"] == []
    assert [values["primal"] for values in second["iterations"]] == [0.5, 0.25]


def test_what_gadgets_measure_is_in_the_record():
    def measuring(items, scan, settings):
        scan.report.measure(noise=0.5, coils=None)
        scan.report.steps(1, "steps")
        scan.report.measure(coils=3)
        yield from items

    chain = host(("a", gain, GainSettings()), ("measuring", measuring, GainSettings()))
    list(chain.run(acquisitions()))
    first, second = run_record(chain, [])["gadgets"]
    assert first["measured"] == {}
    assert second["measured"] == {"noise": 0.5, "coils": 3}


def test_time_during_the_scan_ends_with_the_last_acquisition(clock):
    settings = SlowSettings(clock, per_item=0.25, at_the_end=3.0)
    chain = host(("slow", slow, settings))
    list(chain.run(acquisitions()))
    timing = chain.timings[1]
    # The work on the last acquisition begins when it has left the source.
    assert timing.busy_during_scan == pytest.approx(9 * 0.25)
    assert timing.busy == pytest.approx(10 * 0.25 + 3.0)


@pytest.mark.parametrize(
    ("element", "expected"),
    [
        ({"systemFieldStrength_T": 2.89}, 2.89),
        ({"systemFieldStrength_T": None}, None),
        ({"systemFieldStrength_T": 0.0}, None),
        ({"systemFieldStrength_T": float("nan")}, None),
        (None, None),
    ],
)
def test_the_field_strength_is_recorded_if_it_is_one(element, expected):
    scan = scan_info()
    system = ismrmrd.xsd.acquisitionSystemInformationType
    scan.header.acquisitionSystemInformation = None if element is None else system(**element)
    assert scan_record(scan)["field_strength_t"] == expected


@dataclass(frozen=True)
class Endless:
    within: bool


def endless(items: Iterator[Item], scan: ScanInfo, settings: Endless) -> Iterator[Item]:
    """Compute or yield for ever."""
    item = next(items)
    while settings.within:
        raise_if_cancelled()
    while True:
        yield item


@pytest.mark.parametrize("within", [True, False], ids=["within a gadget", "between gadgets"])
@pytest.mark.parametrize("error", [ConnectionError("gone"), Mri2QmapError("stopped")], ids=repr)
def test_a_cancelled_run_ends_with_the_reason_unchanged(error, within):
    cancellation = Cancellation()
    chain = host(("a", gain, GainSettings()), ("b", endless, Endless(within)))
    threading.Timer(0.05, cancellation.cancel, (error,)).start()
    with cancellation.active(), pytest.raises(type(error)) as raised:
        for _ in chain.run(acquisitions()):
            pass
    assert raised.value is error


def test_the_peak_memory_is_not_that_of_the_process_before():
    code = "from mri2qmap.hosts.in_process import _peak_rss; print(_peak_rss())"

    def peak() -> int:
        command = [sys.executable, "-c", code]
        return int(subprocess.run(command, capture_output=True, check=True).stdout)

    alone = peak()
    ballast = np.ones(2**30, np.uint8)
    assert peak() < alone + 2**28
    del ballast
