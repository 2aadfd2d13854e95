"""The pretend GPU of the tests behaves like a GPU where that matters here."""

import gc

import numpy as np
import pytest
import torch
from helpers.pretend_gpu import TOTAL, pretend_gpu
from helpers.pretend_tensors import PretendTensor

from mri2qmap.machine.devices import free_gpu_memory, gpu_memory_limited, select_device

GPU = "cuda:0"
KB = 1024


@pytest.fixture(autouse=True)
def gpu():
    with pretend_gpu() as state:
        yield state


def on_gpu(*shape, dtype=torch.float32):
    return torch.rand(*shape, dtype=dtype).to(GPU)


def assert_close(found, expected):
    """`torch.testing` imports distributed tensors, which fails where a GPU appears meanwhile."""
    assert found.dtype == expected.dtype
    assert torch.allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_it_is_found_and_gone_afterwards():
    assert select_device("auto") == torch.device(GPU)
    assert on_gpu(2).device == torch.device(GPU)
    assert on_gpu(2).is_cuda
    inner = torch.cuda.is_available
    with pretend_gpu():
        assert torch.cuda.is_available is not inner
    assert torch.cuda.is_available is inner


MIXED = {
    "sum": lambda g, c: g + c,
    "sum in place": lambda g, c: g.add_(c),
    "sum of a CPU tensor in place": lambda g, c: c.add_(g),
    "product of matrices": lambda g, c: g @ c,
    "addcmul": lambda g, c: g.addcmul_(g, c),
    "out": lambda g, c: torch.sub(g, 1, out=c),
    "where": lambda g, c: torch.where(g > 0, c, g),
    "concatenation": lambda g, c: torch.cat([g, c]),
    "stack of numbers": lambda g, c: torch.stack([g[0, 0], c[0, 0]]),
    "GPU index into a CPU tensor": lambda g, c: c[g.argmax(1)],
    "GPU mask of a CPU tensor": lambda g, c: c[g > 0],
    "CPU values into a GPU mask": lambda g, c: g.__setitem__(g > 0, c.flatten()),
    "GPU number into a CPU tensor": lambda g, c: c.mul_(g[0, 0]),
    "product with a CPU number": lambda g, c: torch.matmul(g, c[0]),
    "convolution": lambda g, c: torch.nn.functional.conv1d(g[None], c[:, None, :1]),
    "random numbers": lambda g, c: torch.rand(3, generator=torch.Generator(), device=GPU),
    "norm into": lambda g, c: torch.linalg.vector_norm(g, dim=0, out=c[0]),
}


@pytest.mark.parametrize("name", MIXED)
def test_mixing_devices_raises(name):
    with pytest.raises(RuntimeError, match=r"same device|for generator"):
        MIXED[name](on_gpu(4, 4), torch.rand(4, 4))


ALLOWED = {
    "number of the CPU": lambda x: x * torch.tensor(2.0),
    "number of the CPU in place": lambda x: x.mul_(torch.tensor(2.0)),
    "where with a number": lambda x: torch.where(x > 0.5, x, torch.tensor(0.0)),
    "index of the CPU": lambda x: x[torch.tensor([2, 0])],
    "mask of the CPU": lambda x: x[torch.tensor([True, False, True, False])],
    "own mask": lambda x: x[x > 0.5],
    "set a number at a mask": lambda x: x.masked_fill(x > 0.5, torch.tensor(3.0)),
    "set an item": lambda x: x.clone().index_put_((torch.tensor([1]),), torch.tensor(7.0)),
    "copy into a slice": lambda x: x.clone().narrow(0, 1, 2).copy_(torch.ones(2, 4)),
}


@pytest.mark.parametrize("name", ALLOWED)
def test_what_a_gpu_allows(name):
    values = torch.rand(4, 4)
    result = ALLOWED[name](values.to(GPU))
    assert result.device == torch.device(GPU)
    assert torch.equal(result.cpu(), ALLOWED[name](values.clone()))


@pytest.mark.parametrize("read", [lambda x: x.numpy(), np.asarray, torch.Tensor.__array__])
def test_numpy_does_not_see_it(read):
    with pytest.raises(TypeError, match="convert cuda:0"):
        read(on_gpu(2))


def test_numpy_gives_tensors_of_the_cpu():
    assert torch.from_numpy(np.ones(2)).device.type == "cpu"


def write_to_a_row(x):
    x[0] += 1


def write_to_every_row(x):
    for row in x.unbind(0):
        row.mul_(3)


def write_through_stride(x):
    x.as_strided((2, 2), (1, 4), 1).fill_(5)


def write_permuted(x):
    x.permute(1, 0)[1].copy_(torch.arange(4.0))


def write_with_out(x):
    torch.sub(x[1], 2, out=x[3])


def write_flat(x):
    x.view(-1)[3:9].zero_()


def write_real_part(x):
    torch.view_as_complex(x.view(4, 2, 2)).real.add_(4)


@pytest.mark.parametrize(
    "write",
    [
        write_to_a_row,
        write_to_every_row,
        write_through_stride,
        write_permuted,
        write_with_out,
        write_flat,
        write_real_part,
    ],
)
def test_views_share_memory(write):
    values = torch.rand(4, 4)
    tensor = values.to(GPU)
    write(tensor)
    write(values)
    assert torch.equal(tensor.cpu(), values)


def test_copies_do_not_share_memory():
    values = torch.zeros(3)
    on_device = values.to(GPU)
    on_device += 1
    back = on_device.cpu()
    back += 1
    assert (float(values.sum()), float(on_device.sum()), float(back.sum())) == (0, 3, 6)


def test_lazily_conjugated_tensors():
    values = torch.randn(4, 4, dtype=torch.complex64)
    tensor = values.to(GPU)
    lazy = tensor.conj()
    assert lazy.is_conj()
    assert lazy.imag.is_neg()
    for found, expected in (
        (lazy, values.conj()),
        (lazy.resolve_conj(), values.conj()),
        (lazy @ tensor, values.conj() @ values),
        (lazy.imag * 2, -2 * values.imag),
        (tensor.mH @ tensor, values.mH @ values),
        (torch.view_as_real(lazy.resolve_conj()), torch.view_as_real(values.conj().resolve_conj())),
    ):
        assert_close(found.cpu(), expected.resolve_conj().resolve_neg())
    with pytest.raises(RuntimeError, match="conjugated"):
        torch.view_as_real(lazy)


LIBRARIES = {
    "fft": torch.fft.fftn,
    "eigh": lambda x: torch.linalg.eigh(x @ x.mH)[0],
    "inverse": lambda x: torch.linalg.inv_ex(x + 9 * torch.eye(4, device=x.device)).inverse,
    "singular values": torch.linalg.svdvals,
    "einsum": lambda x: torch.einsum("ij,kj->ik", x, x.conj()),
    "tensordot": lambda x: torch.tensordot(x, x, dims=([1], [0])),
}


@pytest.mark.parametrize("name", LIBRARIES)
def test_libraries(name):
    values = torch.randn(4, 4, dtype=torch.complex64)
    found = LIBRARIES[name](values.to(GPU))
    assert found.device == torch.device(GPU)
    assert_close(found.cpu(), LIBRARIES[name](values))


def test_networks_and_autocast():
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Conv3d(1, 2, 3), torch.nn.BatchNorm3d(2)).eval()
    images = torch.rand(1, 1, 5, 5, 5)
    with torch.no_grad():
        expected = network(images)
    network.to(GPU)
    devices = {x.device for x in (*network.parameters(), *network.buffers())}
    assert devices == {torch.device(GPU)}
    with torch.no_grad():
        assert_close(network(images.to(GPU)).cpu(), expected)
        with torch.autocast("cuda", torch.bfloat16):
            assert network[0](images.to(GPU)).dtype == torch.bfloat16
    with pytest.raises(RuntimeError, match="same device"):
        network(images)


def test_new_tensors():
    made = [
        torch.zeros(2, device="cuda"),
        torch.tensor([1.0, 2.0], device=GPU),
        torch.arange(3, device=GPU),
        on_gpu(2).new_zeros(4),
        torch.empty_like(on_gpu(2)),
        torch.triu_indices(3, 3, device=GPU),
        torch.as_tensor([1], device=GPU),
    ]
    assert all(isinstance(x, PretendTensor) and x.device == torch.device(GPU) for x in made)
    assert torch.zeros(2).device.type == "cpu"


def test_transfers_and_waits_are_counted(gpu):
    tensor = torch.rand(4).to(GPU)
    assert (gpu.uploads.total(), gpu.downloads.total(), gpu.waits.total()) == (1, 0, 0)
    tensor.to(torch.float64)
    tensor.to(GPU)
    float(tensor.sum())
    tensor.cpu()
    tensor[tensor > 2]
    tensor[torch.tensor([1])]
    tensor.copy_(torch.zeros(4))
    torch.zeros(4).copy_(tensor)
    torch.cuda.synchronize()
    assert (gpu.uploads.total(), gpu.downloads.total(), gpu.waits.total()) == (3, 3, 5)


def test_memory_is_that_of_living_tensors(gpu):
    first = torch.zeros(KB, device=GPU)
    view = first[3:]
    assert torch.cuda.memory_allocated() == 4 * KB
    assert free_gpu_memory(torch.device(GPU)) == TOTAL - 4 * KB
    second = first + 1
    del second
    assert torch.cuda.memory_allocated() == 4 * KB
    assert torch.cuda.max_memory_allocated() == 8 * KB
    torch.cuda.reset_peak_memory_stats()
    assert torch.cuda.max_memory_allocated() == 4 * KB
    del first
    gc.collect()
    assert torch.cuda.memory_allocated() == 4 * KB, "the view holds the memory"
    del view
    torch.zeros(1, device=GPU)
    assert torch.cuda.memory_allocated() == 0
    assert gpu.peak == 4 * KB


def test_what_is_alive_at_the_peak_is_listed(gpu):
    gpu.watch = True
    big = torch.zeros(2 * KB, device=GPU)
    small = torch.zeros(KB, dtype=torch.complex64, device=GPU)
    del big
    torch.zeros(3, device=GPU)
    torch.cuda.reset_peak_memory_stats()
    assert (gpu.highest, gpu.place) == (16 * KB, "elsewhere")
    assert dict(gpu.alive) == {
        ((2 * KB,), torch.float32, 8 * KB): 1,
        ((KB,), torch.complex64, 8 * KB): 1,
    }
    assert small.numel() == KB


def plan(kind=1, **options):
    import cufinufft

    made = cufinufft.Plan(kind, (4, 6, 8), 2, 1e-4, **options)
    made.setpts(*torch.rand(3, 10).to(GPU).unbind(0))
    return made


def test_cufinufft_equals_finufft():
    import finufft

    points = [axis.contiguous() for axis in 6 * torch.rand(3, 10) - 3]
    samples = torch.randn(2, 10, dtype=torch.complex64)
    expected = finufft.nufft3d1(
        *(p.numpy() for p in points), samples.numpy(), (4, 6, 8), eps=1e-4, isign=1
    )
    made = plan()
    made.setpts(*(p.to(GPU) for p in points))
    out = torch.zeros(2, 4, 6, 8, dtype=torch.complex64, device=GPU)
    assert made.execute(samples.to(GPU), out=out) is out
    for found in (out, made.execute(samples.to(GPU))):
        np.testing.assert_allclose(found.cpu().numpy(), expected, atol=1e-3)


SAMPLES = torch.randn(2, 10, dtype=torch.complex64)
REFUSED = {
    "tensor of the CPU": (SAMPLES, TypeError),
    "double precision": (SAMPLES.to(torch.complex128), TypeError),
    "other size": (SAMPLES[:, 1:].clone(), TypeError),
    "lazily conjugated": (SAMPLES.conj(), ValueError),
    "not contiguous": (SAMPLES.T.contiguous().T, UserWarning),
}


@pytest.mark.parametrize("name", REFUSED)
def test_cufinufft_refuses(name):
    samples, error = REFUSED[name]
    moved = samples
    if name != "tensor of the CPU":  # copying undoes what is lazy, or not contiguous
        moved = SAMPLES.to(GPU).conj() if samples.is_conj() else samples.to(GPU)
    with pytest.raises(error):
        plan().execute(moved)


@pytest.mark.parametrize(
    ("options", "error"), [({"nthreads": 2}, TypeError), ({"gpu_device_id": 3}, RuntimeError)]
)
def test_cufinufft_refuses_options(options, error):
    with pytest.raises(error):
        plan(**options)


def test_memory_of_cufinufft_counts_while_the_plan_lives(gpu):
    made = plan()
    assert gpu.memory >= made.fine_grids.size == 2 * 8 * 8 * 12 * 16
    del made
    gc.collect()
    assert gpu.memory == 0


def test_errors_pass_through():
    with pytest.raises(RuntimeError, match=r"shapes|size"):
        on_gpu(2, 3) @ on_gpu(2, 3)
    with pytest.raises(NotImplementedError, match="sizes"):
        on_gpu(3).resize_(5)


def test_memory_can_be_limited():
    with pretend_gpu() as gpu:
        with gpu_memory_limited(torch.device(GPU), 8 * KB):
            there = torch.zeros(KB, device=GPU)
            assert free_gpu_memory(torch.device(GPU)) == 4 * KB
            with pytest.raises(torch.OutOfMemoryError):
                torch.zeros(2 * KB, device=GPU)
            assert gpu.memory == there.nbytes
        assert len(torch.zeros(2 * KB, device=GPU)) == 2 * KB
        with (
            gpu_memory_limited(torch.device("cpu"), 1),
            gpu_memory_limited(torch.device(GPU), None),
        ):
            assert gpu.fraction == 1
