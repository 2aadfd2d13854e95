"""The hidden folder for what a run has not finished."""

import shutil
import subprocess
import sys

import pytest

from mri2qmap.errors import Mri2QmapError
from mri2qmap.storage.work_folder import WorkFolder

NAME = ".work"
HOLD = """
import sys
from pathlib import Path
from mri2qmap.storage.work_folder import WorkFolder
with WorkFolder(Path(sys.argv[1]), ".work") as work:
    (work.part("1") / "half").write_text("x")
    print("has it", flush=True)
    sys.stdin.readline()
"""


def test_it_is_gone_at_the_end_with_the_parents_it_made(tmp_path):
    with WorkFolder(tmp_path / "new" / "out", NAME) as work:
        (work.part("1") / "file").write_text("x")
    assert not list(tmp_path.iterdir())
    with WorkFolder(tmp_path / "new" / "out", NAME):
        (tmp_path / "new" / "out" / "result").touch()
    assert [path.name for path in (tmp_path / "new" / "out").iterdir()] == ["result"]


def test_what_a_killed_run_left_is_removed_and_a_living_one_is_not_disturbed(tmp_path):
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert holder.stdout.readline() == "has it\n"
        half = tmp_path / NAME / "1" / "half"
        with pytest.raises(Mri2QmapError, match="another run writes there"):
            WorkFolder(tmp_path, NAME).__enter__()
        assert half.exists()
    finally:
        holder.kill()
        holder.communicate()
    assert half.exists()
    with WorkFolder(tmp_path, NAME) as work:
        assert [path.name for path in work.path.iterdir()] == ["lock"]
    assert not list(tmp_path.iterdir())


def test_a_part_that_was_revoked_is_gone_for_those_who_write_to_it(tmp_path):
    with WorkFolder(tmp_path, NAME) as work:
        part = work.part("1")
        with (part / "open").open("w") as file:
            work.revoke(part)
            file.write("x" * 100_000)
        with pytest.raises(FileNotFoundError):
            (part / "next").write_text("x")
        work.revoke(part)  # once more
        assert [path.name for path in work.path.iterdir()] == ["lock"]


def test_it_may_be_gone_before_the_end(tmp_path):
    with WorkFolder(tmp_path, NAME) as work:
        shutil.rmtree(work.path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", ["a file in the way", "no right to write"])
def test_a_folder_that_cannot_be_made_is_refused(tmp_path, kind):
    parent = tmp_path / "file" if kind == "a file in the way" else "/proc"
    if kind == "a file in the way":
        parent.touch()
    with pytest.raises(Mri2QmapError, match="it cannot be written"):
        WorkFolder(type(tmp_path)(parent), NAME).__enter__()
