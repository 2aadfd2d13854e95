"""The table of a cohort."""

import pytest

from mri2qmap.cohort.outcome import CohortTable, ScanOutcome, summary
from mri2qmap.errors import Mri2QmapError

HEADER = "scan,state,seconds,peak_memory_bytes,worker,reason"


def test_rows_are_replaced_and_those_of_others_kept(tmp_path):
    path = tmp_path / "cohort.csv"
    CohortTable(tmp_path, [ScanOutcome("a", "unfinished"), ScanOutcome("b", "done", 1.5)]).write()
    table = CohortTable(tmp_path, [ScanOutcome("a", "unfinished")])
    table.put(ScanOutcome("a", "failed", worker="tcp://x:1", reason='it says "no", twice'))
    assert path.read_text().splitlines() == [
        HEADER,
        'a,failed,,,tcp://x:1,"it says ""no"", twice"',
        "b,done,1.500,,,",
    ]
    assert [p.name for p in tmp_path.iterdir()] == ["cohort.csv"]


def test_a_name_that_is_not_utf8_has_one_row(tmp_path):
    for _ in range(2):
        CohortTable(tmp_path, [ScanOutcome("sc\udce4n", "done")]).write()
    assert (tmp_path / "cohort.csv").read_text().splitlines() == [HEADER, r"sc\udce4n,done,,,,"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("name,age\nx,3\n", "its columns are not those of this program"),
        (f"{HEADER}\na,b\n", "its columns are not those of this program"),
        ("", "it cannot be read as a table"),
        ("a\x00b\n", "not those of this program|cannot be read"),
    ],
)
def test_the_table_of_somebody_else_is_not_replaced(tmp_path, content, words):
    path = tmp_path / "cohort.csv"
    path.write_text(content)
    with pytest.raises(Mri2QmapError, match=words):
        CohortTable(tmp_path, [])
    assert path.read_text() == content


def test_the_summary_is_aligned():
    text = summary(
        [
            ScanOutcome("a", "done", 12.34, 3 * 2**30, "tcp://x:1"),
            ScanOutcome("long name", "failed", reason="it is empty"),
        ]
    )
    assert text.splitlines() == [
        "scan       state      s  GiB  worker     reason",
        "a          done    12.3  3.0  tcp://x:1",
        "long name  failed                        it is empty",
    ]
