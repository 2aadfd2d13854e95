"""Starting CUDA kernels, with a CuPy that only records; and compiling each source as on a GPU."""

import ctypes
import fnmatch
import logging
import re
import shutil
import subprocess
import sys
import tomllib
import types
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
import torch

import mri2qmap
from mri2qmap.errors import Mri2QmapError
from mri2qmap.machine import cuda_kernels
from mri2qmap.machine.cuda_kernels import CudaKernels, compiled_by_cupy, cuda_kernels_run, packed

PACKAGE = Path(mri2qmap.__file__).parent
SOURCES = {path.name: path for path in PACKAGE.rglob("*.cu")}
ARCHITECTURES = ("sm_80", "sm_90")
VARIANTS = {
    "convolution.cu": [
        (f"-DN_COEFFICIENTS={s}", f"-DCOMPLEX_KERNELS={is_complex}", f"-DHALF_KERNELS={half}")
        for s in (1, 5, 10)
        for is_complex in (0, 1)
        for half in (0, 1)
    ],
    "spreading.cu": [(f"-DWIDTH={width}",) for width in range(2, 10)],
    "nothing.cu": [()],
}
NVCC = shutil.which("nvcc")
CPU = torch.device("cpu")


def test_every_source_is_tested_and_part_of_the_wheel():
    assert SOURCES.keys() == VARIANTS.keys()
    project = Path(__file__).parents[2] / "pyproject.toml"
    data = tomllib.loads(project.read_text())["tool"]["setuptools"]["package-data"]
    for path in SOURCES.values():
        package = "mri2qmap." + ".".join(path.parent.relative_to(PACKAGE).parts)
        assert any(fnmatch.fnmatch(path.name, pattern) for pattern in data[package])


def nvrtc():
    """The compiler that CuPy uses, which needs no GPU; None where it is not installed."""
    for distribution in ("nvidia-cuda-nvrtc", "nvidia-cuda-nvrtc-cu12"):
        try:
            files = metadata.files(distribution) or []
        except metadata.PackageNotFoundError:
            continue
        for file in files:
            if re.fullmatch(r"libnvrtc\.so\.\d+", file.name):
                return ctypes.CDLL(str(file.locate()))
    return None


def compiled_by_nvrtc(library, path, options):
    """Size of the machine code and log."""
    program, size = ctypes.c_void_p(), ctypes.c_size_t()
    source = path.read_text().encode()
    assert not library.nvrtcCreateProgram(
        ctypes.byref(program), source, path.name.encode(), 0, None, None
    )
    words = (ctypes.c_char_p * len(options))(*(option.encode() for option in options))
    failed = library.nvrtcCompileProgram(program, len(options), words)
    library.nvrtcGetProgramLogSize(program, ctypes.byref(size))
    log = ctypes.create_string_buffer(size.value)
    library.nvrtcGetProgramLog(program, log)
    assert not failed, log.value.decode()
    assert not library.nvrtcGetCUBINSize(program, ctypes.byref(size))
    library.nvrtcDestroyProgram(ctypes.byref(program))
    return size.value, log.value.decode()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("name", VARIANTS)
def test_nvrtc_compiles_it_without_warnings(name, architecture):
    library = nvrtc()
    if library is None:
        pytest.skip("nvidia-cuda-nvrtc is not installed")
    for options in VARIANTS[name]:
        size, log = compiled_by_nvrtc(library, SOURCES[name], (f"-arch={architecture}", *options))
        assert size > 0
        assert log == "", options


@pytest.mark.skipif(NVCC is None, reason="there is no nvcc")
@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("convolution.cu", VARIANTS["convolution.cu"][4]),
        ("convolution.cu", VARIANTS["convolution.cu"][-1]),
        ("spreading.cu", ("-DWIDTH=6",)),
        ("spreading.cu", ("-DWIDTH=9",)),
    ],
)
def test_what_a_thread_works_on_stays_in_registers(name, options, architecture, tmp_path):
    command = [NVCC, "-cubin", f"-arch={architecture}", "--resource-usage", *options]
    command += [str(SOURCES[name]), "-o", str(tmp_path / "kernels.cubin")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    found = re.findall(r"(\d+) bytes (stack frame|spill stores|spill loads)", done.stderr)
    assert len(found) == 3 * len(re.findall("__global__", SOURCES[name].read_text()))
    assert {size for size, _ in found} == {"0"}, done.stderr


def test_arguments_have_the_types_of_parameters():
    tensor = torch.zeros(3)
    values = packed((tensor, None, 2**40, 0.5, True, np.int32(7), np.float64(0.25)))
    assert [type(value) for value in values] == [
        *(np.uint64, np.uint64, np.int64, np.float32, np.int64, np.int64, np.float32),
    ]
    assert values == (tensor.data_ptr(), 0, 2**40, 0.5, 1, 7, 0.25)


class Recorder:
    """A compiler that records what is compiled and started."""

    def __init__(self):
        self.compiled, self.started = [], []

    def build(self, path, options, device):
        self.compiled.append((path, options, device))
        return lambda *call: self.started.append(call)


def test_there_is_a_thread_for_everything():
    recorder = Recorder()
    path = Path("source.cu")
    kernels = CudaKernels(path, {"A": 3, "B": 0}, CPU, recorder.build)
    assert recorder.compiled == [(path, ("-DA=3", "-DB=0"), CPU)]
    for n_threads in (0, 1, 128, 129, 2**33):
        kernels("work", n_threads, n_threads)
    assert recorder.started == [
        *(("work", 1, 128, (1,)), ("work", 1, 128, (128,)), ("work", 2, 128, (129,))),
        ("work", 2**26, 128, (2**33,)),
    ]


@pytest.mark.parametrize(
    ("n_threads", "argument", "words"),
    [
        (1, torch.zeros(2, device="meta"), "a tensor is on meta"),
        (1, torch.zeros(2, 3).T, "not contiguous"),
        (1, torch.zeros(4)[::2], "not contiguous"),
        (1, torch.zeros(2, dtype=torch.complex64).conj(), "not contiguous"),
        (1, torch.zeros(2, dtype=torch.complex64).conj().imag, "not contiguous"),
        (2**39, 0, "more than a GPU starts"),
    ],
)
def test_what_a_kernel_would_read_wrongly_is_refused(n_threads, argument, words):
    recorder = Recorder()
    with pytest.raises(ValueError, match=words):
        CudaKernels(Path("source.cu"), {}, CPU, recorder.build)("work", n_threads, argument)
    assert not recorder.started


@pytest.fixture
def cupy(monkeypatch):
    """A CuPy that records the calls of kernels, with the device and the stream."""
    fake = types.ModuleType("cupy")
    fake.calls, context = [], []

    class Entered:
        def __init__(self, value):
            self.value = value

        def __enter__(self):
            context.append(self.value)

        def __exit__(self, *error):
            context.pop()

    class RawModule:
        def __init__(self, code, options):
            self.code, self.options = code, options

        def get_function(self, name):
            def start(grid, block, arguments):
                fake.calls.append(
                    (self.code, self.options, name, tuple(context), grid, block, arguments)
                )

            return start

    fake.RawModule = RawModule
    fake.cuda = types.SimpleNamespace(Device=Entered, ExternalStream=Entered)
    monkeypatch.setitem(sys.modules, "cupy", fake)
    stream = types.SimpleNamespace(cuda_stream=1234)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda index: stream)
    yield fake
    compiled_by_cupy.cache_clear()
    cuda_kernels_run.cache_clear()


def test_cupy_is_called_on_the_device_and_stream_of_torch(cupy, tmp_path):
    path = tmp_path / "source.cu"
    path.write_text("the code")
    launch = compiled_by_cupy(path, ("-DA=1",), torch.device("cuda:2"))
    assert compiled_by_cupy(path, ("-DA=1",), torch.device("cuda:2")) is launch
    launch("work", 7, 128, (5, None))
    assert cupy.calls == [("the code", ("-DA=1",), "work", (2, 1234), (7,), (128,), (5, 0))]
    assert cuda_kernels_run(torch.device("cuda:2"))


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        (None, r"needs cupy-cuda1\dx, which is not installed; .* pip install 'mri2qmap\[gpu"),
        (RuntimeError("no nvrtc"), r"CuPy fails: RuntimeError\('no nvrtc'\)"),
    ],
)
def test_without_cupy_the_log_says_once_what_is_missing(cupy, monkeypatch, caplog, broken, words):
    def fail(**options):
        raise broken

    if broken is None:
        monkeypatch.setitem(sys.modules, "cupy", None)
    else:
        monkeypatch.setattr(cupy, "RawModule", fail)
    with caplog.at_level(logging.WARNING, cuda_kernels.logger.name):
        assert not any(cuda_kernels_run(torch.device("cuda:1")) for _ in range(3))
    (record,) = caplog.records
    assert re.search(words, record.getMessage())
    assert "cuda:1: PyTorch's own operations" in record.getMessage()


def test_a_missing_cupy_is_an_error_where_it_is_needed(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)
    with pytest.raises(Mri2QmapError, match="running CUDA kernels needs cupy"):
        compiled_by_cupy(Path("source.cu"), (), torch.device("cuda:0"))
