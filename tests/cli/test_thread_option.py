"""The number of threads of commands that compute."""

import pytest
import torch

from mri2qmap.cli.main import main

COMMANDS = {
    "replay": ["replay", "missing.h5", "-o", "maps"],
    "demo": ["demo", "-o", "demo"],
    "serve": ["serve"],
    "worker": ["worker"],
    "evaluate": ["evaluate", "results", "--experiment", "sweep", "--labels", "missing"],
    "bench denoiser": ["bench", "denoiser", "-o", "bench"],
    "bench speed": ["bench", "speed", "-o", "bench"],
    "bench steps": ["bench", "steps", "-o", "bench"],
    "train": ["train", "missing.yaml", "--labels", "missing", "-o", "run"],
    "record-loop": ["record-loop", "--labels", "missing", "--subjects", "a", "-o", "loops"],
    "record-tsmi": ["record-tsmi", "--labels", "missing", "--subjects", "a", "-o", "tsmis"],
}


@pytest.fixture(autouse=True)
def restored(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("words", COMMANDS.values(), ids=COMMANDS)
def test_no_threads(words, capsys, tmp_path):
    assert main([*words, "--threads", "0"]) == 2
    assert "--threads 0: expected 1 to 1024" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["replay", "evaluate", "record-loop"])
def test_threads_are_set_before_anything_else(name, capsys):
    torch.set_num_threads(2)
    assert main([*COMMANDS[name], "--threads", "3"]) == 2
    assert torch.get_num_threads() == 3
    assert "missing" in capsys.readouterr().err
