"""`reconstruct_to_folder(..., resume=True)`: stopped runs go on, with the same maps."""

import re
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import mri2qmap
from mri2qmap.api.progress import QuietReporter
from mri2qmap.api.reconstruction import reconstruct_to_folder
from mri2qmap.cli.main import main
from mri2qmap.errors import Mri2QmapError
from mri2qmap.files import state_files
from mri2qmap.files.state_files import StateFiles
from mri2qmap.storage.atomic import scratch_name

FEW = {
    "mri2qmap": {"pnp_admm.iterations": 3, "pnp_admm.consistency": "true"},
    "mrf_admm": {"pnp_admm.iterations": 3},
    "lrtv": {"toeplitz_cg.prior_iterations": 3},
    "llr": {"toeplitz_cg.prior_iterations": 3},
}


class StoppedError(Exception):
    pass


def run(files, output, pipeline="lrtv", **options):
    settings = FEW[pipeline] | {"parametric_maps.dicom": "none", "parametric_maps.mrd": "none"}
    options = {"resume": True, "settings": settings, "progress": False} | options
    return reconstruct_to_folder(files / "scan.h5", output, pipeline, **options)


@pytest.fixture
def stop(monkeypatch):
    """Stop a run after some states."""
    save = state_files._StateFile.save

    def after(count):
        def counted(self, state):
            nonlocal count
            save(self, state)
            count -= 1
            if not count:
                raise StoppedError

        monkeypatch.setattr(state_files._StateFile, "save", counted)

    yield after
    monkeypatch.undo()


@pytest.fixture
def stopped(files, tmp_path, stop):
    """Folder of the states of an LRTV run that was stopped."""
    stop(3)
    with pytest.raises(mri2qmap.GadgetError, match="StoppedError"):
        run(files, tmp_path / "maps")
    stop(-1)
    return tmp_path / "maps.resume"


def volumes(folder):
    import nibabel

    return {
        path.name: nibabel.load(path).get_fdata()
        for path in sorted((folder / "nifti").glob("*.nii.gz"))
    }


@pytest.mark.parametrize("pipeline", FEW)
@pytest.mark.parametrize("states", [1, 2, 3])
def test_a_stopped_run_goes_on(files, tmp_path, stop, pipeline, states):
    run(files, tmp_path / "expected", pipeline, resume=False)
    stop(states)
    with pytest.raises(mri2qmap.GadgetError, match="StoppedError"):
        run(files, tmp_path / "maps", pipeline)
    assert [path.name for path in tmp_path.iterdir() if "maps" in path.name] == ["maps.resume"]
    stop(-1)
    record = run(files, tmp_path / "maps", pipeline)
    (solver,) = [g for g in record["gadgets"] if g["iterations"]]
    assert [i["number"] for i in solver["iterations"]] == list(range(states, 4))
    assert any("is taken from" in line for line in record["log"])
    assert not (tmp_path / "maps.resume").exists()
    found, expected = volumes(tmp_path / "maps"), volumes(tmp_path / "expected")
    assert found.keys() == expected.keys()
    for name, volume in found.items():
        np.testing.assert_array_equal(volume, expected[name])


@pytest.mark.parametrize("states", [4, 5])
def test_a_run_that_stopped_after_the_admm_goes_on(files, tmp_path, stop, states):
    """After its last iteration, and after the first one with the non-local prior."""
    run(files, tmp_path / "expected", "mri2qmap", resume=False)
    stop(states)
    with pytest.raises(mri2qmap.GadgetError, match="StoppedError"):
        run(files, tmp_path / "maps", "mri2qmap")
    stop(-1)
    record = run(files, tmp_path / "maps", "mri2qmap")
    assert any(f"iteration {states - 1} is taken from" in line for line in record["log"])
    found, expected = volumes(tmp_path / "maps"), volumes(tmp_path / "expected")
    assert found.keys() == expected.keys()
    for name, volume in found.items():
        np.testing.assert_array_equal(volume, expected[name])


def test_states_of_another_run_are_refused(files, tmp_path, stopped):
    others = {
        "pipeline or setting": {"settings": {"toeplitz_cg.prior_iterations": 4}},
        "scan": {"scan": tmp_path / "other.h5"},
    }
    shutil.copy(files / "scan.h5", tmp_path / "other.h5")
    with (tmp_path / "other.h5").open("ab") as file:
        file.write(b"\0")
    for what, options in others.items():
        scan = options.pop("scan", files / "scan.h5")
        settings = FEW["lrtv"] | options.get("settings", {})
        with pytest.raises(Mri2QmapError, match=f"of a run with another {what}; delete"):
            reconstruct_to_folder(
                scan, tmp_path / "maps", "lrtv", settings=settings, resume=True, progress=False
            )
    assert len(list(stopped.iterdir())) == 2


def test_what_is_no_state_is_refused_and_stays(files, tmp_path):
    folder = tmp_path / "maps.resume"
    folder.mkdir()
    (folder / "thesis.txt").write_text("years of work")
    with pytest.raises(Mri2QmapError, match=r"thesis\.txt is not a state of a run; move it"):
        run(files, tmp_path / "maps")
    (folder / "thesis.txt").rename(folder / "thesis.safetensors")
    with pytest.raises(Mri2QmapError, match=r"thesis\.safetensors: it cannot be read"):
        run(files, tmp_path / "maps")
    save_file({"a": torch.zeros(1)}, folder / "thesis.safetensors")
    with pytest.raises(Mri2QmapError, match="of a run with another scan"):
        run(files, tmp_path / "maps")
    assert (folder / "thesis.safetensors").exists()


def test_what_a_kill_left_half_written_is_removed(files, tmp_path, stopped):
    half = stopped / f"{scratch_name()}.part"
    half.write_bytes(b"half")
    record = run(files, tmp_path / "maps")
    assert any("iteration 2 is taken from" in line for line in record["log"])
    assert not stopped.exists()


def test_damaged_states_are_named(files, tmp_path, stopped):
    path = stopped / "toeplitz_cg_prior.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(Mri2QmapError, match=rf"state {re.escape(str(path))}: it cannot be read"):
        run(files, tmp_path / "maps")


def test_a_full_disk_does_not_end_the_run(files, tmp_path, monkeypatch):
    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(state_files, "save_tensors", full)
    record = run(files, tmp_path / "maps")
    lines = [line for line in record["log"] if "the state cannot be kept (No space" in line]
    assert lines
    assert not (tmp_path / "maps.resume").exists()


def test_a_scan_in_memory_cannot_be_resumed(simulated, tmp_path):
    with pytest.raises(Mri2QmapError, match="the scan is not a file"):
        reconstruct_to_folder(simulated, tmp_path / "maps", "svdmrf", resume=True, progress=False)


def test_only_its_own_files_are_removed(tmp_path):
    states = StateFiles(tmp_path / "s", {"scan": "a"}, torch.device("cpu"), QuietReporter())
    states["one"].save(lambda: {"x": torch.ones(2, dtype=torch.complex64)})
    (tmp_path / "s" / "note.txt").write_text("mine")
    assert states["one"].load()["x"].dtype == torch.complex64
    assert states["two"].load() is None
    states.remove()
    assert [path.name for path in (tmp_path / "s").iterdir()] == ["note.txt"]


def test_on_the_command_line(files, tmp_path, capsys, stopped):
    arguments = ["--set", "toeplitz_cg.prior_iterations=3", "--set", "parametric_maps.dicom=none"]
    arguments += ["--set", "parametric_maps.mrd=none", "--resume", "-v"]
    scan, output = str(files / "scan.h5"), str(tmp_path / "maps")
    assert main(["replay", scan, "-p", "lrtv", "-o", output, *arguments]) == 0
    assert "toeplitz_cg_prior: iteration 2 is taken from" in capsys.readouterr().err
    assert main(["replay", scan, "-o", output, "--server", "localhost:1", "--resume"]) != 0
    assert "--resume is for a reconstruction in this process" in capsys.readouterr().err
