import pytest

from mri2qmap.errors import Mri2QmapError
from mri2qmap.studies.code_version import code_version
from mri2qmap.studies.result_table import ResultTable

KEY, VALUES = ("name", "sigma", "setting"), ("psnr",)


def table_of(path, code="1"):
    return ResultTable(path, KEY, VALUES, code)


def test_rows_are_found_again_by_another_run(tmp_path):
    path = tmp_path / "t.csv"
    table = table_of(path)
    assert table.get(("a, b", 0.1, None)) is None
    table.put({("a, b", 0.1, None): (20.5,), ("a, b", 0.2, 3): (float("nan"),)})
    again = table_of(path)
    assert again.get(("a, b", 0.1, None)) == ("20.5",)
    assert again.get(("a, b", 0.2, 3)) == ("nan",)
    assert again.get(("a, b", 0.1, 3)) is None
    again.put({("a, b", 0.1, None): (21,)})
    assert path.read_text().splitlines()[:2] == ["name,sigma,setting,code,psnr", '"a, b",0.1,,1,21']
    assert [p.name for p in tmp_path.iterdir()] == ["t.csv"]


def test_rows_of_other_code_are_kept_and_not_used(tmp_path):
    path, key, other = tmp_path / "t.csv", ("a", 0.1, None), ("b", 0.1, None)
    table_of(path).put({key: (1.0,), other: (2.0,)})
    new = table_of(path, "2")
    assert new.get(key) is None
    assert "t.csv has it of other code, 1" in new.outdated(key)
    new.put({key: (3.0,)})
    assert (new.get(key), new.outdated(key)) == (("3",), "")
    assert new.outdated(("c", 0.1, None)) == ""
    assert table_of(path).get(key) == ("1",)
    assert table_of(path, "3").outdated(key).count("1, 2") == 1
    assert path.read_text().splitlines()[1:] == ["a,0.1,,1,1", "a,0.1,,2,3", "b,0.1,,1,2"]


def test_the_code_is_that_of_this_process(tmp_path):
    assert ResultTable(tmp_path / "t.csv", KEY, VALUES).code == code_version()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"name,psnr\na,1\n",
        b"name,sigma,setting,psnr\na,0.1,2,1\n",
        b"name,sigma,setting,code,psnr\na,1\n",
        b"\xff\xfe\x00",
    ],
)
def test_another_table_is_refused(tmp_path, content):
    path = tmp_path / "t.csv"
    path.write_bytes(content)
    with pytest.raises(Mri2QmapError, match=r"t\.csv"):
        table_of(path)
    assert path.read_bytes() == content


def test_a_table_that_cannot_be_written(tmp_path):
    table = table_of(tmp_path / "missing" / "t.csv")
    with pytest.raises(Mri2QmapError, match="cannot be written"):
        table.put({("a", 0.1, None): (1.0,)})


def test_wrong_number_of_cells(tmp_path):
    table = table_of(tmp_path / "t.csv")
    with pytest.raises(ValueError, match="2 cells for 3 columns"):
        table.get(("a", 0.1))
