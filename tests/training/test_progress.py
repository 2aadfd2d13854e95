from __future__ import annotations

import csv

import matplotlib.image
import numpy as np
import pytest

pytest.importorskip("monai", reason="training needs the [train] extra")

from mri2qmap.errors import Mri2QmapError
from mri2qmap.training.progress import Progress

SIGMAS = (0.02, 0.05, 0.1, 0.2)


def scores(step: int, contrasts=("T1w", "T2w", "PDw")) -> dict[tuple[str, float], float]:
    return {
        (contrast, sigma): -20 * np.log10(sigma) + 6 * (1 - np.exp(-step / 300)) - index
        for sigma in SIGMAS
        for index, contrast in enumerate(contrasts)
    }


def rows(folder) -> list[dict[str, str]]:
    with (folder / "progress.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
def test_table_and_figure(tmp_path):
    progress = Progress(tmp_path, 0)
    sizes = []
    for step in (100, 200, 300):
        progress.add(step, 2.4 * step, np.exp(-step / 100), scores(step))
        sizes.append((tmp_path / "progress.png").read_bytes())
    found = rows(tmp_path)
    assert [row["step"] for row in found] == ["100", "200", "300"]
    assert found[1]["seconds"] == "480"
    assert found[1]["loss"] == "0.13534"
    assert float(found[2]["psnr_T2w_0.1"]) == pytest.approx(scores(300)["T2w", 0.1], abs=1e-3)
    assert len(found[0]) == 3 + 12
    assert len(set(sizes)) == 3
    picture = matplotlib.image.imread(tmp_path / "progress.png")
    assert picture.shape[0] > 500
    assert picture.shape[1] > 1000
    colours = {tuple(c) for c in (255 * picture[..., :3]).astype(int).reshape(-1, 3)}
    assert {(31, 119, 180), (255, 127, 14), (44, 160, 44)} <= colours
    assert {path.name for path in tmp_path.iterdir()} == {"progress.csv", "progress.png"}


@pytest.mark.slow
def test_rows_after_the_last_checkpoint_are_dropped(tmp_path):
    progress = Progress(tmp_path, 0)
    for step in (100, 200, 300):
        progress.add(step, step, 1.0, scores(step))
    resumed = Progress(tmp_path, 230)
    resumed.add(300, 333, 0.5, scores(300))
    assert [(row["step"], row["seconds"]) for row in rows(tmp_path)] == [
        ("100", "100"),
        ("200", "200"),
        ("300", "333"),
    ]


def test_missing_contrasts_have_no_column(tmp_path):
    Progress(tmp_path, 0).add(1, 1, 1.0, scores(1, ("T2w",)))
    assert [name for name in rows(tmp_path)[0] if "T1w" in name or "PDw" in name] == []


@pytest.mark.parametrize("content", ["a,b\n1,2\n", "step,loss\nx,1\n"])
def test_an_unreadable_table_is_refused(tmp_path, content):
    (tmp_path / "progress.csv").write_text(content)
    with pytest.raises(Mri2QmapError, match=r"progress\.csv: cannot be read .*move it"):
        Progress(tmp_path, 0)
