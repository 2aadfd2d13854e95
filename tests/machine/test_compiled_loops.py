"""Selection of the right function from the cache of compiled loops."""

import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from mri2qmap.machine import compiled_loops
from mri2qmap.machine.cancellation import Cancellation

SEARCHES = """
import sys
import torch
from mri2qmap.mrsignal.group_matching import GroupSearch
from mri2qmap.mrsignal.matching import exact_search, scores_of

for word in sys.argv[1:]:
    name, coefficients = word.split(":")
    n = int(coefficients)
    generator = torch.Generator().manual_seed(n)
    atoms = torch.nn.functional.normalize(torch.rand(60, n + 3, generator=generator), dim=1)
    signals = torch.rand(2 * n + 3, 200, generator=generator)
    search = exact_search if name == "exact" else GroupSearch(5, 0.0)
    expected = scores_of(atoms, signals, n).max(0)
    index, score = search(atoms, signals, n)
    torch.testing.assert_close(score, expected.values)
    assert (index == expected.indices).all(), word
"""


@pytest.mark.slow
def test_cached_searches_are_not_confused(tmp_path):
    """Functions for different numbers of coefficients, loaded from the cache in one process."""
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}

    def search(*words):
        command = [sys.executable, "-c", SEARCHES, *words]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr

    for words in (["exact:4"], ["exact:5"], ["groups:4"]):
        search(*words)
    search("exact:5", "groups:4", "exact:4")


def test_a_cancelled_caller_does_not_wait_for_a_compilation(monkeypatch):
    """It ends in the background, and the next caller has its result."""
    monkeypatch.setattr(compiled_loops, "_cache_directory", lambda chosen: None)
    begun, may_end = threading.Event(), threading.Event()

    def slow(*signature):
        begun.set()
        assert may_end.wait(60)
        return compile_it(*signature)

    @compiled_loops.compiled()
    def double(x):
        return 2 * x

    compile_it, double._compiler.compile = double._compiler.compile, slow
    cancellation = Cancellation()
    with cancellation.active():
        threading.Thread(
            target=lambda: begun.wait(60) and cancellation.cancel(ValueError("nobody waits"))
        ).start()
        with pytest.raises(ValueError, match="nobody waits"):
            double(1.5)
    may_end.set()
    assert double(1.5) == 3.0
    with Cancellation().active():
        assert double(2) == 4  # for integers
    assert len(double.signatures) == 2


CALLER = """
from mri2qmap.machine.compiled_loops import compiled
from other import callee

@compiled()
def caller(x):
    return callee(x)

print(caller(2))
"""
CALLEE = """
from mri2qmap.machine.compiled_loops import compiled

@compiled()
def callee(x):
    return {} * x
"""


@pytest.mark.slow
def test_a_change_of_another_file_is_compiled(tmp_path):
    """Machine code of a loop contains that of the loops it calls."""
    package = Path(compiled_loops.__file__).parents[1]
    copy = tmp_path / "mri2qmap"
    shutil.copytree(package / "machine", copy / "machine")
    for name in ("__init__.py", "errors.py"):
        shutil.copy(package / name, copy / name)
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path / "cache")}
    results = []
    for factor in (3, 5):
        (copy / "other.py").write_text(CALLEE.format(factor))
        (copy / "caller.py").write_text(CALLER.replace("from other", "from mri2qmap.other"))
        done = subprocess.run(
            [sys.executable, "-m", "mri2qmap.caller"],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        results.append(int(done.stdout))
    assert results == [6, 10]


ADDITION = """
import numba.core.event as event
from mri2qmap.machine.compiled_loops import compiled, loops_at_hand

class Listener(event.Listener):
    def on_start(self, event):
        print("compiled")
    def on_end(self, event):
        pass

event.register("numba:compile", Listener())
print(loops_at_hand())

@compiled()
def more(x):
    return x + 1

print(more(1))
"""


def lines_of(script, **environment):
    """Lines that a script prints in an environment with these folders only."""
    ours = ("NUMBA_CACHE_DIR", "MRI2QMAP_CACHE", "MRI2QMAP_SHIPPED_CACHE")
    others = {name: value for name, value in os.environ.items() if name not in ours}
    done = subprocess.run(
        [sys.executable, script],
        env={**others, **{name: str(path) for name, path in environment.items()}},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_loops_that_came_with_the_installation_are_not_compiled(tmp_path):
    """They are copied, as the folder of the installation may be read-only; not for another CPU."""
    shipped, own = tmp_path / "shipped", tmp_path / "own"
    script = tmp_path / "script.py"
    script.write_text(ADDITION)
    nothing, *rest = lines_of(script, MRI2QMAP_CACHE=shipped)
    assert nothing == "None"
    assert rest == ["compiled", "2"]
    (loops,) = (shipped / "numba").iterdir()
    before = sorted(shipped.rglob("*"))

    folders = {"MRI2QMAP_SHIPPED_CACHE": shipped, "MRI2QMAP_CACHE": own}
    other = lines_of(script, **folders, NUMBA_CPU_NAME="nocona", NUMBA_CPU_FEATURES="+sse2")
    assert other == ["None", "compiled", "2"]
    assert lines_of(script, **folders) == [str(loops), "2"]
    assert lines_of(script, **folders) == [str(own / "numba" / loops.name), "2"]
    assert sorted(shipped.rglob("*")) == before
    assert len(list((own / "numba").iterdir())) == 2  # nothing is left of the copying
    chosen = tmp_path / "chosen"
    assert lines_of(script, **folders, NUMBA_CACHE_DIR=chosen) == [str(loops), "2"]
    assert (chosen / loops.name).is_dir()
