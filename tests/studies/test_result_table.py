import pytest

from mri2qmap.errors import Mri2QmapError
from mri2qmap.studies.result_table import ResultTable

KEY, VALUES = ("name", "sigma", "setting"), ("psnr",)


def test_rows_are_found_again_by_another_run(tmp_path):
    path = tmp_path / "t.csv"
    table = ResultTable(path, KEY, VALUES)
    assert table.get(("a, b", 0.1, None)) is None
    table.put({("a, b", 0.1, None): (20.5,), ("a, b", 0.2, 3): (float("nan"),)})
    again = ResultTable(path, KEY, VALUES)
    assert again.get(("a, b", 0.1, None)) == ("20.5",)
    assert again.get(("a, b", 0.2, 3)) == ("nan",)
    assert again.get(("a, b", 0.1, 3)) is None
    again.put({("a, b", 0.1, None): (21,)})
    assert path.read_text().splitlines()[:2] == ["name,sigma,setting,psnr", '"a, b",0.1,,21']
    assert [p.name for p in tmp_path.iterdir()] == ["t.csv"]


@pytest.mark.parametrize(
    "content", [b"", b"name,psnr\na,1\n", b"name,sigma,setting,psnr\na,1\n", b"\xff\xfe\x00"]
)
def test_another_table_is_refused(tmp_path, content):
    path = tmp_path / "t.csv"
    path.write_bytes(content)
    with pytest.raises(Mri2QmapError, match=r"t\.csv"):
        ResultTable(path, KEY, VALUES)
    assert path.read_bytes() == content


def test_a_table_that_cannot_be_written(tmp_path):
    table = ResultTable(tmp_path / "missing" / "t.csv", KEY, VALUES)
    with pytest.raises(Mri2QmapError, match="cannot be written"):
        table.put({("a", 0.1, None): (1.0,)})


def test_wrong_number_of_cells(tmp_path):
    table = ResultTable(tmp_path / "t.csv", KEY, VALUES)
    with pytest.raises(ValueError, match="2 cells for 3 columns"):
        table.get(("a", 0.1))
