"""Selection of the right function from the cache of compiled loops."""

import os
import subprocess
import sys

import pytest

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
