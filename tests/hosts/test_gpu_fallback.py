"""A scan for which the memory of the GPU does not suffice, on a pretend GPU."""

import gc
import logging
from dataclasses import dataclass, replace

import ismrmrd
import numpy as np
import pytest
import torch
from helpers.phantoms import write_ball
from helpers.pretend_gpu import pretend_gpu
from helpers.scans import acquisitions, scan_info

import mri2qmap
from mri2qmap.api.progress import QuietReporter
from mri2qmap.errors import GadgetError, Mri2QmapError
from mri2qmap.hosts import gpu_fallback, item_spool
from mri2qmap.hosts.gpu_fallback import fitted_or_on_cpu, is_gpu_memory_error
from mri2qmap.hosts.in_process import InProcessHost
from mri2qmap.hosts.item_spool import ItemSpool
from mri2qmap.pipeline.geometry import Geometry
from mri2qmap.pipeline.items import Provenance, Tsmi
from mri2qmap.pipeline.pipeline_file import GadgetNode, Pipeline

GPU = "cuda:0"
GEOMETRY = Geometry((2, 2, 2), (1e-3, 1e-3, 1e-3))


@dataclass(frozen=True)
class Needs:
    """Memory of the GPU that is needed, and how much if memory is spared [bytes]."""

    whole: int = 0
    spared: int = 0
    after_result: int = 0


@pytest.fixture
def gpu(monkeypatch):
    monkeypatch.setattr(gpu_fallback, "fitted_to_memory", lambda scan, nodes, available: scan)
    with pretend_gpu() as state:
        state.limit = 2**20
        yield state


def sums(items, scan, settings):
    """Passes waveforms on, adds all samples, and makes two images."""
    total = torch.zeros((), dtype=torch.complex64, device=scan.device)
    for item in items:
        if isinstance(item, ismrmrd.Waveform):
            yield item
        else:
            total = total + torch.tensor(item.data).to(scan.device).sum()
    size = settings.spared if scan.spare_memory else settings.whole
    needed = torch.zeros(size, dtype=torch.uint8, device=scan.device)
    yield Tsmi(total.reshape(1, 1, 1, 1) + needed.sum(), GEOMETRY)
    yield ismrmrd.Image.from_array(total.reshape(1, 1, 1).cpu().numpy())
    more = torch.zeros(settings.after_result, dtype=torch.uint8, device=scan.device)
    yield ismrmrd.Image.from_array((total.reshape(1, 1, 1) + more.sum()).cpu().numpy())


def items_with_a_waveform():
    waveform = ismrmrd.Waveform.from_array(np.zeros((1, 1), np.uint32))
    return [*acquisitions()[:3], waveform, *acquisitions()[3:]]


def host(settings, cpu_allowed=True, **changes):
    report = QuietReporter()
    scan = replace(scan_info(device=GPU), report=report, **changes)
    pipeline = Pipeline("toy", (GadgetNode("sums", sums, settings),))
    return InProcessHost(pipeline, scan, recover=True, cpu_allowed=cpu_allowed), report


def expected():
    return sum(complex(item.data.sum()) for item in acquisitions())


@pytest.mark.parametrize(
    ("settings", "how", "device"),
    [
        (Needs(), [], "cuda"),
        (Needs(whole=2**21), ["with less of its memory, at the cost of time"], "cuda"),
        (
            Needs(whole=2**21, spared=2**21),
            ["with less of its memory, at the cost of time", "on the CPU"],
            "cpu",
        ),
    ],
)
def test_a_scan_is_reconstructed_once_more(gpu, settings, how, device, caplog):
    """From its first item, with less memory and then on the CPU; the stream is read once."""
    chain, report = host(settings)
    read = iter(items_with_a_waveform())
    waveform, tsmi, *images = chain.run(read)
    assert isinstance(waveform, ismrmrd.Waveform)
    assert tsmi.tsmi.device.type == device
    assert [complex(i.data.sum()) for i in images] == pytest.approx([expected()] * 2, rel=1e-5)
    assert [line.rpartition(" once more ")[2] for line in chain.attempts] == how
    assert all("exhausted in gadget sums" in line for line in chain.attempts)
    assert [f"memory: {line}" for line in chain.attempts] == [
        line for line in report.lines if line.startswith("memory: ")
    ]
    assert len([r for r in caplog.records if r.levelno == logging.WARNING]) == len(how)
    assert chain.scan.device.type == device
    assert chain.timings[0].items_out == len(items_with_a_waveform())
    assert chain.timings[1].items_in == len(items_with_a_waveform())


def test_what_a_failed_attempt_held_is_free_before_the_next_one(gpu):
    """Two attempts together would not fit."""
    held = []

    def hungry(items, scan, settings):
        mine = torch.zeros(600_000, dtype=torch.uint8, device=scan.device)
        held.append(gpu.memory)
        yield from sums(items, scan, settings)
        del mine

    settings = Needs(whole=2**21)
    chain, _ = host(settings)
    chain.pipeline = Pipeline("toy", (GadgetNode("hungry", hungry, settings),))
    *_, image = chain.run(acquisitions())
    assert complex(image.data.sum()) == pytest.approx(expected(), rel=1e-5)
    assert len(held) == 2
    assert held[0] == held[1]


def refused(chain, items=None):
    with pytest.raises(Mri2QmapError, match="memory of the GPU was exhausted in gadget sums: end"):
        list(chain.run(acquisitions() if items is None else items))


def test_the_cpu_takes_over_only_if_it_may(gpu):
    chain, _ = host(Needs(whole=2**21, spared=2**21), cpu_allowed=False)
    refused(chain)
    assert len(chain.attempts) == 1
    chain, _ = host(Needs(spared=2**21), cpu_allowed=False, spare_memory=True)
    refused(chain)
    assert not chain.attempts


def test_the_cpu_takes_over_only_if_its_memory_suffices(gpu, monkeypatch):
    def too_much(scan, nodes, available):
        raise Mri2QmapError("a scan needs more")

    monkeypatch.setattr(gpu_fallback, "fitted_to_memory", too_much)
    chain, report = host(Needs(whole=2**21, spared=2**21))
    refused(chain)
    assert "the CPU cannot take over: a scan needs more" in report.lines


def test_maps_that_have_left_are_not_made_again(gpu):
    chain, _ = host(Needs(after_result=2**21))
    results = chain.run(acquisitions())
    assert [type(next(results)).__name__ for _ in range(2)] == ["Tsmi", "Image"]
    with pytest.raises(Mri2QmapError, match="memory of the GPU was exhausted in gadget sums"):
        next(results)


def test_without_a_file_there_is_no_second_attempt(gpu, monkeypatch, caplog):
    def full(**options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(item_spool.tempfile, "TemporaryFile", full)
    chain, _ = host(Needs(whole=2**21))
    refused(chain)
    assert "not kept for a second attempt: No space left on device" in caplog.text


def test_other_errors_are_as_before(gpu):
    def broken():
        yield acquisitions()[0]
        raise Mri2QmapError("the scan is bad")

    chain, _ = host(Needs())
    with pytest.raises(Mri2QmapError, match=r"^the scan is bad$"):
        list(chain.run(broken()))

    def faulty(items, scan, settings):
        yield from items
        raise ValueError("a bug")

    chain, _ = host(Needs())
    chain.pipeline = Pipeline("toy", (GadgetNode("faulty", faulty, Needs()),))
    with pytest.raises(GadgetError, match="gadget faulty failed: ValueError: a bug"):
        list(chain.run(acquisitions()))


@pytest.mark.parametrize(
    ("error", "says_so"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), True),
        (RuntimeError("CUDA error: out of memory"), True),
        (RuntimeError("cuFFT error: CUFFT_ALLOC_FAILED"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"), True),
        (type("OutOfMemoryError", (MemoryError,), {})("of CuPy"), True),
        (MemoryError(), False),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_errors_of_the_libraries_are_recognised(error, says_so):
    outer = GadgetError("gadget a failed")
    outer.__cause__ = error
    assert is_gpu_memory_error(outer) is says_so
    assert is_gpu_memory_error(error) is says_so


def test_a_scan_that_does_not_fit_is_planned_for_the_cpu():
    report = QuietReporter()
    with pretend_gpu():
        scan = replace(scan_info(device=GPU), report=report)

        def available(scan):
            return 2**20 if scan.device.type == "cuda" else 2**40

        assert fitted_or_on_cpu(scan, [], available, cpu_allowed=True).device.type == "cpu"
        assert "memory: the CPU takes over from cuda:0: a scan of 8 x 8 x 8 voxels" in " ".join(
            report.lines
        )
        with pytest.raises(Mri2QmapError, match="of memory with this pipeline"):
            fitted_or_on_cpu(scan, [], available, cpu_allowed=False)
        with pytest.raises(Mri2QmapError, match="of memory with this pipeline"):
            fitted_or_on_cpu(scan, [], lambda scan: 2**20, cpu_allowed=True)


class TestSpool:
    def test_items_come_again_from_the_first_one(self):
        sent = [*items_with_a_waveform(), Provenance("digest", "{}")]
        spool = ItemSpool(iter(sent))
        first = iter(spool)
        taken = [next(first) for _ in range(5)]
        first.close()
        again = list(spool)
        assert len(again) == len(sent)
        assert again.pop() is sent[-1]
        for one, other in zip(again, sent[:-1], strict=True):
            assert bytes(one.getHead()) == bytes(other.getHead())
            np.testing.assert_array_equal(one.data, other.data)
        for one, other in zip(taken, sent[:5], strict=True):
            assert one is other
        assert len(list(spool)) == len(sent)
        spool.close()
        assert not spool.whole

    def test_other_items_are_not_kept(self):
        sent = [*acquisitions()[:2], Tsmi(torch.zeros(1, 1, 1, 1), GEOMETRY)]
        spool = ItemSpool(sent)
        assert list(spool) == sent
        assert not spool.whole

    def test_the_file_has_no_name(self, tmp_path, monkeypatch):
        monkeypatch.setattr(item_spool, "cache_folder", lambda: tmp_path)
        spool = ItemSpool(acquisitions())
        list(spool)
        assert not list(tmp_path.iterdir())
        spool.close()


@pytest.fixture(scope="module")
def small_scan(tmp_path_factory):
    labels = write_ball(tmp_path_factory.mktemp("anatomy") / "ball.nii.gz")
    options = {
        "anatomy": labels,
        "region": "brain",
        "matrix": 16,
        "field_of_view": 0.128,
        "coils": 4,
    }
    return mri2qmap.simulate(**options, acceleration=0.1, frames=120, noise=0.05)


SETTINGS = {
    "pnp_admm.iterations": 2,
    "pnp_admm.atom_step": 0.2,
    "combined_matching.atom_step": 0.2,
}


@pytest.mark.parametrize("share", [0.9, 0.2])
def test_maps_come_although_the_memory_does_not_suffice(small_scan, share):
    options = {"settings": SETTINGS, "progress": False}
    expected = mri2qmap.reconstruct(small_scan, device="cpu", **options)
    with pretend_gpu() as gpu:
        whole = mri2qmap.reconstruct(small_scan, **options)
        gc.collect()
        gpu.limit = share * max(gadget["gpu_peak_bytes"] for gadget in whole.record["gadgets"])
        found = mri2qmap.reconstruct(small_scan, **options)
        assert found.record["memory"]["attempts"]
        if share < 0.5:
            assert found.record["device"] == "cpu"
            np.testing.assert_array_equal(found.t1, expected.t1)
            with pytest.raises(Mri2QmapError, match="memory of the GPU was exhausted"):
                mri2qmap.reconstruct(small_scan, device="cuda", **options)
    brain = expected.t1 > 0
    assert np.median(np.abs(found.t1 - expected.t1)[brain] / expected.t1[brain]) < 0.01
