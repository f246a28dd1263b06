"""`extmeta capture --from`, and files of other programs as arguments of other verbs."""

from pathlib import Path

import pytest

import extmeta as em
from extmeta import cli

REAL = Path(__file__).parents[1] / "captures/real"
LOG = str(REAL / "kvm-dirty-log.bin")
LIST = str(REAL / "page-types-l.txt")


def refused(capsys, *arguments):
    assert cli.main(["capture", *arguments]) == 2
    out, err = capsys.readouterr()
    assert not out
    assert err.count("\n") == 1
    return err


def test_one_file(tmp_path):
    out = tmp_path / "out.npz"
    assert cli.main(["capture", "--from", LOG, "-o", str(out)]) == 0
    assert em.load_capture(out).sha256 == em.read(LOG).sha256
    assert em.load_capture(out).about == em.read(LOG).about


def test_several_files_go_to_a_directory(tmp_path, capsys):
    assert cli.main(["capture", "--from", LOG, LIST, "-o", str(tmp_path)]) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "kvm-dirty-log.npz",
        "page-types-l.npz",
    ]
    assert f"{tmp_path}/kvm-dirty-log.npz: Capture of" in capsys.readouterr().out
    assert "exists; --force" in refused(
        capsys, "--from", LOG, LIST, "-o", str(tmp_path)
    )


def test_pfns_are_dropped_unless_kept(tmp_path):
    out = tmp_path / "out.npz"
    cli.main(["capture", "--from", LIST, "-o", str(out)])
    assert not em.load_capture(out).has_pfns
    cli.main(["capture", "--from", LIST, "-o", str(out), "--force", "--pfns"])
    assert em.load_capture(out).sha256 == em.read(LIST).sha256


def test_bitmaps_in_a_row_are_a_trace(tmp_path, capsys):
    out = str(tmp_path / "out.npz")
    more = [str(REAL / f"kvm-dirty-log-{step}.bin") for step in (5, 7)]
    arguments = ["capture", "--from", LOG, *more, "--writes", "2", "-o", out]
    assert cli.main(arguments) == 0
    assert "3 rounds of 2 s" in capsys.readouterr().out
    assert (
        em.load_trace(out).vpns.tolist() == em.read_writes([LOG, *more]).vpns.tolist()
    )
    assert "exists; --force" in refused(capsys, *arguments[1:])
    other = str(tmp_path / "other.npz")
    assert "not a dirty bitmap" in refused(
        capsys, "--from", LIST, "--writes", "2", "-o", other
    )
    assert "No such file" in refused(
        capsys, "--from", out + "x", "--writes", "2", "-o", other
    )
    assert "only with --from" in refused(capsys, "1", "--writes", "2", "-o", other)


def test_bad_arguments(tmp_path, capsys):
    out = str(tmp_path / "out.npz")
    assert "2 captures need a directory" in refused(
        capsys, "--from", LOG, LIST, "-o", out
    )
    assert "have this name" in refused(capsys, "--from", LOG, LOG, "-o", str(tmp_path))
    assert "one of them is needed" in refused(capsys, "-o", out)
    assert "it has no pid" in refused(capsys, "1", "-o", out, "--from", LOG)
    assert "it has no pid and no vmlinux" in refused(
        capsys, "-o", out, "--from", LOG, "--vmlinux", LOG
    )
    assert "1: only with one file" in refused(
        capsys, "1", "-o", str(tmp_path), "--from", LOG, LIST
    )
    assert "--vmlinux x: only with --from" in refused(
        capsys, "1", "-o", out, "--vmlinux", "x"
    )
    assert "--stop: only with PID" in refused(
        capsys, "--stop", "-o", out, "--from", LOG
    )
    assert "no known format" in refused(capsys, "-o", out, "--from", __file__)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("verb", ["info", "map"])
def test_other_verbs_take_it(verb, capsys):
    assert cli.main([verb, LIST]) == 0
    assert "page-types-l.txt" in capsys.readouterr().out


def test_compare_takes_it(capsys):
    found = em.compare(LIST, encodings=["linked"], fractions=[0], quick=True)
    assert found.rows
