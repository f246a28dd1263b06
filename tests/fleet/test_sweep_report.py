"""What `extmeta sweep-report` says, held against the rows."""

import pytest

import extmeta as em
from extmeta import cli
from extmeta.reports import fleet

pytest.importorskip("duckdb")
pq = pytest.importorskip("pyarrow.parquet")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("sweep")
    given = [
        "sweep",
        "redis",
        "swapped",
        "-o",
        str(out),
        "--ram-only",
        "--workers",
        "1",
    ]
    given += ["--encodings", "linked,adaptive,compact", "--fractions", "0,0.01,1"]
    assert cli.main(given) == 0
    return out


def test_a_fleet_costs_what_its_rows_add_up_to(folder):
    rows = pq.read_table(folder, partitioning="hive").to_pylist()
    at = [row for row in rows if row["fraction"] == 1]
    linked = sum(row["total"] for row in at if row["encoding"] == "linked")
    base = sum(row["total"] for row in at if row["encoding"] == "inpte")
    told = fleet.text(str(folder))
    extra = f"{(linked - base) / fleet.GIB:,.3f}"
    assert line_of(told, "All machines", "100%", "linked") == [
        extra,
        f"{linked / fleet.GIB:,.3f}",
    ]
    scaled = fleet.text(str(folder), machines=1000)
    assert line_of(scaled, "All machines", "100%", "linked")[0] == (
        f"{1000 * (linked - base) / fleet.GIB:,.3f}"
    )
    assert "2 captures of 1 machines" in told
    assert line_of(told, "RAM beyond", "100%", "linked")[0] == (
        f"{(linked - base) / (1 << 20):,.2f}"
    )


def line_of(text, title, *starts):
    """Return the cells of a line of a table, behind those it starts with."""
    block = next(part for part in text.split("\n\n") if part.startswith(title))
    for line in block.splitlines():
        cells = line.split()
        if cells[: len(starts)] == list(starts):
            return cells[len(starts) :]
    raise AssertionError(f"no line {starts} in {block}")


def test_the_smallest_is_told_by_process(folder):
    told = fleet.text(str(folder))
    rows = pq.read_table(folder, partitioning="hive").to_pylist()
    at = {
        row["encoding"]: row["total"]
        for row in rows
        if row["fraction"] == 1 and row["capture"] == "redis"
    }
    del at["inpte"]
    at = {name: total for name, total in at.items() if total is not None}
    comm = em.load_capture("redis").comm
    found = line_of(told, "The smallest", "100%", comm)
    assert found == ["1", min(at, key=at.__getitem__), "100%"]


def test_instructions_that_nobody_counted_are_not_there(folder):
    assert "Instructions" not in fleet.text(str(folder))


@pytest.mark.parametrize("made", [True, False])
def test_a_folder_without_results_is_one_line_and_2(tmp_path, capsys, made):
    given = tmp_path if made else tmp_path / "nowhere"
    assert cli.main(["sweep-report", str(given)]) == 2
    assert capsys.readouterr().err == (
        f"extmeta sweep-report: {given}: no results of a sweep\n"
    )
