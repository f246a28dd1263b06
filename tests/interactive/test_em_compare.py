"""em.compare(): arguments, and what the result makes of its rows."""

import dataclasses
import json
import pickle
import subprocess
import sys

import numpy as np
import pytest

import extmeta as em
from extmeta import cli, rows
from extmeta.comparing import engine
from extmeta.cost.space import full_tables, space_of_table
from extmeta.reports import comparison, missing

FIELDS = em.Fields(age=8)
# If there are several architectures, only RAM is compared, in less than a second.
ARCHES = ["x86_64", "arm64"]


@pytest.fixture(scope="module")
def result():
    seen = []
    found = em.compare(
        full_tables(4),
        FIELDS,
        encodings="linked,adaptive",
        fractions=[0, 0.01],
        placement="random",
        quick=True,
        processes=1,
        progress=lambda done, total, what: seen.append((done, total, what)),
    )
    assert seen[-1][0] == seen[-1][1] > 0
    return found


def ram(*args, **more):
    return em.compare(*args, **{"encodings": "linked", "arch": ARCHES, **more})


def test_the_commands_and_the_function_have_one_engine(result, monkeypatch, capsys):
    asked = []

    def rows(request, *_given):
        asked.append(request)
        yield from result.rows

    monkeypatch.setattr(engine, "rows", rows)
    assert em.compare("redis").rows == result.rows
    assert cli.main(["compare", "redis"]) == 0
    assert cli.main(["report", "redis"]) == 0
    assert capsys.readouterr().out.count("4 full tables") >= 2
    assert [request.spaces[0].name for request in asked] == ["redis"] * 4
    assert [request.crossover for request in asked] == [False] * 3 + [True]


@pytest.mark.parametrize("measured", [0, 3, 40])
def test_an_interrupted_comparison_keeps_its_rows(measured, result, monkeypatch):
    def rows(_request, _shown, _told, stages):
        stages += [missing.Stage(0, "4 full tables", missing.WHOLE)] * (measured > 0)
        yield from result.rows[:measured]
        raise KeyboardInterrupt

    monkeypatch.setattr(engine, "rows", rows)
    with pytest.raises(em.Interrupted) as stopped:
        em.compare("redis", processes=1)
    found = stopped.value.result
    if not measured:
        assert found is None
        return
    assert found.rows == result.rows[:measured]
    assert found.missing == ("4 full tables: the rest of all",)
    assert missing.stored(found.to_json()) == [*found.missing]
    assert str(found).startswith("INCOMPLETE")
    assert bool(found.verdict) is (measured == 40)


def test_text_and_json_are_those_of_the_command(result, tmp_path, capsys):
    path = tmp_path / "rows.json"
    path.write_text(result.to_json())
    assert cli.main(["compare", "--from", str(path)]) == 0
    assert capsys.readouterr().out == f"{result}\n"
    again, provenance = comparison.from_json(result.to_json())
    assert tuple(again) == result.rows
    assert provenance == json.loads(json.dumps(result.provenance))


def test_the_verdict_is_that_of_the_reports(result, monkeypatch):
    def verdict(rows, _provenance):
        return [f"{len([*rows])} rows, <b>"]

    monkeypatch.setattr("extmeta.interactive.result.verdict", verdict)
    assert result.verdict == [f"{len(result.rows)} rows, <b>"]
    assert f"<li>{len(result.rows)} rows, &lt;b&gt;</li>" in result._repr_html_()


def test_the_verdict_names_encodings_that_were_compared(result):
    said = " ".join(result.verdict)
    assert "linked" in said or "adaptive" in said
    assert any(char.isdigit() for char in said)


def test_frames_have_a_line_for_each_row_of_a_kind(result):
    pytest.importorskip("pandas")
    frame = result.to_pandas("Ram")
    held = result.rows_of("Ram")
    assert len(frame) == len(held) > 0
    assert frame["total"].tolist() == [row.total for row in held]
    assert set(frame["subject"]) == {"4 full tables"}
    figures = result.to_pandas()
    assert {"Ram", "Cpu"} <= set(figures["row"])
    one = figures.query("row == 'Ram' and encoding == 'linked' and figure == 'side'")
    assert one["value"].tolist() == [
        row.side for row in held if row.encoding == "linked"
    ]


def test_arrow_tables_have_what_frames_have(result):
    pytest.importorskip("pyarrow")
    table = result.to_arrow("Cpu")
    assert table["ratio"].to_pylist() == [row.ratio for row in result.rows_of("Cpu")]
    figures = result.to_arrow()
    assert (
        json.loads(figures.schema.metadata[b"extmeta"])
        == json.loads(result.to_json())["provenance"]
    )
    for kind in comparison.KINDS:
        assert result.to_arrow(kind).num_rows == len(result.rows_of(kind))


@pytest.mark.parametrize(
    ("call", "package", "extra"),
    [("to_pandas", "pandas", "pandas"), ("to_arrow", "pyarrow", "parquet")],
)
def test_a_package_that_is_missing_is_named(result, monkeypatch, call, package, extra):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError) as caught:
        getattr(result, call)()
    needs = f"{call}() needs {package}: pip install 'extmeta[{extra}]'"
    assert str(caught.value) == needs


def test_the_crossover_is_drawn_of_the_compared_encodings(result):
    pytest.importorskip("matplotlib")
    figure = result.plot_crossover()
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == ["linked", "adaptive", "1% random"]
    assert figure._repr_png_().startswith(b"\x89PNG")


def test_html_escapes_a_name():
    capture = em.load_capture("redis")
    bad = dataclasses.replace(capture, comm="<script>alert(1)</script>")
    html = ram(bad)._repr_html_()
    assert "<script>" not in html
    assert "&lt;script&gt;" in html


def test_kinds_of_rows_that_are_none_are_named(result):
    with pytest.raises(ValueError, match=r"'Rom'; .*did you mean Ram"):
        result.rows_of("Rom")
    with pytest.raises(ValueError, match="Rom"):
        result.to_arrow("Rom")


@pytest.mark.parametrize("fields", [FIELDS, {"age": 8}, "age=8"])
def test_fields_as_users_have_them(fields):
    (subject, *_) = ram("redis", fields).rows
    assert subject.fields == {"age": 8}


@pytest.mark.parametrize("one", [1, 1.0, np.float32(1), np.int64(1), "1"])
def test_a_fraction_may_be_any_number(one):
    found = {row.fraction for row in ram("redis", fractions=one).rows_of("Ram")}
    assert found == {1.0}


FAST = {"fractions": 0, "processes": 1}


def subjects(what, **more):
    return [row.name for row in ram(what, **more).rows if isinstance(row, rows.Subject)]


def test_what_may_be_a_capture_a_file_a_name_or_a_process(tmp_path):
    capture = em.load_capture("redis")
    capture.save(tmp_path / "a.npz")
    path = str(tmp_path / "a.npz")
    found = subjects(["redis", capture, path, tmp_path / "a.npz"], arch=ARCHES)
    assert found[::2] == ["redis", capture.comm, "a.npz", "a.npz"]
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        assert subjects(child.pid)[0].startswith(f"process {child.pid}, ")
        assert subjects(str(child.pid))[0].startswith(f"process {child.pid}, ")
    finally:
        child.communicate(b"\n")


@pytest.mark.parametrize("arch", ["x86_64", "x86_64@6.12", "arm64_16k"])
def test_a_wide_table_is_compared_as_its_architecture_has_it(arch):
    table = em.PageTable("wide", FIELDS, arch)
    table.map(range(5000))
    space = space_of_table(table, "mine", arch)
    bare = space.bare("linked", FIELDS)
    assert (space.arch, bare.arch.name) == (arch, arch)
    assert np.array_equal(bare.vpns(), table.vpns())


def test_the_table_of_an_address_space_is_compared():
    process = em.AddressSpace(em.Fields(uffd_wp=1))
    process.mmap(1 << 20, 8 << 12)
    process.write(1 << 20, 3 << 12)
    (first, *_) = em.compare(process, encodings="linked", quick=True, **FAST).rows
    assert first.nr_ptes == 3


def test_a_page_table_is_compared_as_it_is():
    table = em.PageTable("adaptive", FIELDS)
    table.map(range(5000))
    table.map(range(5000, 5100), writable=False)
    table.store(range(9), age=3)
    table.swap_out(range(100, 120), range(20))
    table.map_huge([1 << 18])
    space = pickle.loads(pickle.dumps(space_of_table(table, "mine")))
    assert (space.nr_huge, space.has_swap) == (1, True)
    assert space.present_bytes == (5100 - 20 + 512) * 4096
    built = space.bare("linked", em.Fields(tag=64))
    assert np.array_equal(built.vpns(), table.vpns())
    assert built.memory().pte == table.memory().pte
    assert not built.load(built.vpns()).any()
    wide = space.build("linked", em.Fields(tag=100))
    assert not wide.load(wide.vpns()).any()
    result = em.compare(table, encodings="linked", quick=True, **FAST)
    assert result.rows[0].nr_ptes == 5100


@pytest.mark.parametrize(
    ("given", "error", "parts"),
    [
        ({"what": "rediss"}, ValueError, ["rediss", "did you mean redis"]),
        ({"what": 2.5}, TypeError, ["2.5"]),
        ({"what": []}, ValueError, ["[]"]),
        ({"what": em.PageTable("linked")}, ValueError, ["no PTE"]),
        ({"fields": "age=0"}, ValueError, ["age", "0"]),
        ({"fields": {"age": "x"}}, TypeError, ["age", "'x'"]),
        ({"fields": {3: 1}}, TypeError, ["3"]),
        ({"fields": 7}, TypeError, ["7"]),
        ({"encodings": "linkd"}, ValueError, ["encodings", "linkd", "linked"]),
        (
            {"encodings": [em.Linked(bits=8)]},
            TypeError,
            ["encodings", "Linked(bits=8)"],
        ),
        ({"fractions": 1.5}, ValueError, ["fractions", "1.5"]),
        ({"fractions": float("nan")}, ValueError, ["fractions", "nan"]),
        ({"placement": "randm"}, ValueError, ["placement", "randm", "random"]),
        ({"words": "many"}, ValueError, ["words", "many"]),
        ({"arch": "arm65"}, ValueError, ["arch", "arm65", "arm64"]),
        ({"seed": -1}, ValueError, ["seed", "-1"]),
        ({"progress": "bar"}, TypeError, ["progress", "'bar'"]),
        ({"processes": 1.5}, TypeError, ["processes", "1.5"]),
    ],
)
def test_bad_input_is_named(given, error, parts):
    with pytest.raises(error) as caught:
        em.compare(**given)
    for part in parts:
        assert part in str(caught.value)


def test_a_process_that_is_not_there_is_named():
    with pytest.raises(em.CaptureError, match="4194305"):
        em.compare(4194305)


def test_another_architecture_than_the_tables_is_refused():
    table = em.PageTable("linked")
    table.map([1])
    with pytest.raises(ValueError, match=r"'arm64_4k'.*'x86_64'"):
        em.compare(table, arch="arm64")


def test_an_architecture_without_a_bit_is_told():
    with pytest.warns(UserWarning, match="loongarch64@6.12"):
        ram("redis", FIELDS, arch=["loongarch64@6.12", "s390x", "arm64"])


def test_a_warning_is_about_the_line_that_calls(monkeypatch):
    monkeypatch.setattr(engine.instructions, "missing", lambda: "no valgrind")
    with pytest.warns(UserWarning, match="--instructions: no valgrind") as told:
        em.compare("redis", encodings="linked", arch=ARCHES, instructions=True)
    assert [each.filename for each in told] == [__file__]
