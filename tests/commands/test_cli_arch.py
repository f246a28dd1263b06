"""``extmeta arch``: a table of all architectures, and one of them bit by bit."""

import json
import re

import pytest

from extmeta import cli
from extmeta.arch import ALIASES, ARCHES


def printed(capsys, *arguments):
    """Run the command; return what it printed on stdout."""
    assert cli.main(["arch", *arguments]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    return out


def test_all_of_them(capsys):
    lines = printed(capsys).splitlines()
    assert max(map(len, lines)) <= 80
    rows = {line.split()[0]: line.split() for line in lines if line}
    for name, arch in ARCHES.items():
        _name, levels, _page, free, swap_free, *tracked = rows[name]
        assert levels == "/".join(map(str, arch.level_bits))
        assert (int(free), int(swap_free)) == (len(arch.free), len(arch.swap.free))
        assert tracked == [
            "yes" if tracker in arch.owned else "-"
            for tracker in ("soft_dirty", "uffd_wp")
        ]
    assert all(f"{plain} for {name}" in lines[-1] for plain, name in ALIASES.items())


def test_json_gives_each_bit_one_use(capsys):
    found = json.loads(printed(capsys, "--json"))
    assert [one["name"] for one in found] == [*ARCHES]
    for one in found:
        arch = ARCHES[one["name"]]
        for entry, free, flag in (
            ("present", arch.free, arch.flag),
            ("swap", arch.swap.free, arch.swap_flag),
        ):
            uses = [
                (bit, use["by"])
                for use in one[entry]
                for bit in range(use["first"], use["last"] + 1)
            ]
            assert sorted(bit for bit, _by in uses) == [*range(64)]
            assert (flag, "flag") in uses
            left = {bit for bit, by in uses if by == "free"}
            assert left == set(free) - {flag}
    assert json.loads(printed(capsys, "s390x", "--json"))[0]["flag_from"]


@pytest.mark.parametrize("name", ARCHES)
def test_one_of_them(capsys, name):
    arch = ARCHES[name]
    out = printed(capsys, name)
    assert out.isascii()
    assert max(map(len, out.splitlines())) <= 80
    signs = [
        re.fullmatch(r"    ([hLt=F.]{64})", line)[1]
        for line in out.splitlines()
        if re.fullmatch(r"    [hLt=F.]{64}", line)
    ]
    assert len(signs) == 2
    for line, flag, free in zip(
        signs,
        (arch.flag, arch.swap_flag),
        (arch.free, arch.swap.free),
        strict=True,
    ):
        assert line[63 - flag] == "F"
        assert line.count("F") == 1
        assert {63 - i for i, sign in enumerate(line) if sign == "."} == {*free} - {
            flag
        }
    # Below each ruler every bit is named.
    listed = re.findall(
        r"^    (\d+)(?:-(\d+))? +(?:hardware|Linux|tracker|number|flag|free) ",
        out,
        re.MULTILINE,
    )
    bits = [
        bit
        for last, first in listed
        for bit in range(int(first or last), int(last) + 1)
    ]
    assert sorted(bits) == sorted(2 * list(range(64)))
    flat = " ".join(out.split())
    assert " ".join(arch.source.split()) in flat
    assert " ".join(arch.unverified.split()) in flat
    assert ("UNVERIFIED" in flat) == bool(arch.unverified)


def test_what_is_repurposed_is_said(capsys):
    assert "No bit is free" in printed(capsys, "s390x")
    assert "the flag; was soft_dirty" in printed(capsys, "s390x")
    assert "No bit is free" not in printed(capsys, "x86_64")
    assert "second half: hidx" in printed(capsys, "ppc64_hash_64k")
    assert "256 to a page" in printed(capsys, "ppc64_radix_64k")


def test_what_mprotect_does_is_said(capsys):
    flat = " ".join(printed(capsys, "x86_64").split())
    assert "mprotect clears 52-57: _PAGE_CHG_MASK lacks them." in flat
    assert "mprotect changes 9-11, 57-58 without a flush of the TLB." in flat
    assert "another software bit flushes nothing, but warns and flushes" in flat
    flat = " ".join(printed(capsys, "arm64").split())
    assert "mprotect keeps 57, 63." in flat
    assert "_PAGE_CHG_MASK lacks" not in flat
    assert "a change of a software bit flushes the TLB" in flat


def test_a_release(capsys):
    rows = printed(capsys, "--release", "6.12.117").splitlines()
    free = {line.split()[0]: line.split()[3] for line in rows[2:-2]}
    assert (free["x86_64"], free["arm64_4k"], free["riscv64_sv48"]) == ("5", "1", "0")
    assert "Linux 6.12. Plain names" in rows[-1]
    out = printed(capsys, "riscv64", "--release", "6.12")
    assert out == printed(capsys, "riscv64@6.12")
    assert "the flag; was DEVMAP" in out
    assert "    57     Linux     DEVMAP" in printed(capsys, "x86_64@6.12")


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["--release", "6.11"], "'6.11' is not known; 6.12 to 7.3 are known"),
        (["arm64", "--release", "newest"], "'newest' is no version"),
        (["arm64@6.12", "--release", "7.3"], "'arm64@6.12' is not of release '7.3'"),
    ],
)
def test_a_release_that_is_not_known(capsys, arguments, why):
    assert cli.main(["arch", *arguments]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert why in err


def test_a_plain_name(capsys):
    assert printed(capsys, "arm64") == printed(capsys, "arm64_4k")


def test_an_unknown_name(capsys):
    assert cli.main(["arch", "vax"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert "'vax'" in err
    assert all(name in err for name in ARCHES)
