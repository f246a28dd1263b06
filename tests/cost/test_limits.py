"""What the machine, a cgroup or ulimit does not grant is refused, not taken."""

import contextlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import extmeta as em
from extmeta.memory import limits
from extmeta.memory.available import available_bytes

SECONDS = 120
MIB = 1 << 20
CGROUP = Path("/sys/fs/cgroup")


def python(code, **options):
    return subprocess.run(
        [sys.executable, "-c", f"import extmeta as em\n{code}"],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
        **options,
    )


@pytest.fixture
def cgroup():
    """A cgroup of 256 MiB; what has a process enter it."""
    v1 = CGROUP / "memory"
    group = (v1 if v1.is_dir() else CGROUP) / f"extmeta-test-{os.getpid()}"
    try:
        group.mkdir()
    except OSError as error:
        pytest.skip(f"no cgroup can be made: {error}")
    try:
        if not any(
            (group / name).exists() for name in ("memory.limit_in_bytes", "memory.max")
        ):
            pytest.skip("the cgroup has no memory controller")
        for name, value in (
            *(("memory.limit_in_bytes", 256 * MIB), ("memory.max", 256 * MIB)),
            *(("memory.memsw.limit_in_bytes", 256 * MIB), ("memory.swap.max", 0)),
        ):
            with contextlib.suppress(OSError), open(group / name, "r+") as file:
                file.write(str(value))

        def enter():
            (group / "cgroup.procs").write_text(str(os.getpid()))

        yield enter
    finally:
        group.rmdir()


REFUSED = {
    "a range": "em.PageTable().map(range(1 << 27))",
    "set aside": "em.PageTable().reserve(1 << 18)",
    # Each is less than what is asked about at once.
    "one by one": "t = em.PageTable()\n    for i in range(64):"
    " t.map(range(i << 22, (i + 1) << 22))",
    "many tables": "made = []\n    for i in range(64):"
    " made.append(em.PageTable()); made[-1].map(range(1 << 22))",
    "side pages": "t = em.PageTable('linked'); t.map(range(1 << 24))\n"
    "    t.store(slice(0, 1 << 24), 1); t.fork(); t.fork().store(slice(0, 1 << 24), 2)\n"
    "    made = [t.copy() for i in range(9)]",
}


@pytest.mark.parametrize("what", REFUSED)
def test_more_than_a_cgroup_has_is_a_memory_error(what, cgroup):
    done = python(
        f"try:\n    {REFUSED[what]}\nexcept MemoryError as error: print('refused')",
        preexec_fn=cgroup,
    )
    assert (done.returncode, done.stdout) == (0, "refused\n"), done.stderr[-2000:]


def test_the_cgroup_is_what_is_told(cgroup):
    done = python(
        "from extmeta.memory.available import available_bytes; print(available_bytes())",
        preexec_fn=cgroup,
    )
    assert 0 < int(done.stdout) < 256 * MIB


@pytest.mark.parametrize("option", ["-v 2097152", "-d 1048576"])
def test_under_ulimit(option):
    """Tables work, and what is too much is refused without a trace."""
    code = (
        "import extmeta as em\n"
        "made = [em.PageTable('adaptive') for i in range(20)]\n"
        "for t in made: t.map(range(1 << 16)); t.store(range(1 << 16), range(1 << 16))\n"
        "try: t.map(range(1 << 20, 1 << 29))\n"
        "except MemoryError: print('refused', len(t), t.load(7))\n"
    )
    done = subprocess.run(
        ["sh", "-c", f'ulimit {option}; exec "{sys.executable}" -c "$0"', code],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.stdout == "refused 65536 7\n", done.stderr[-2000:]


def test_thousands_of_tables():
    made = [em.PageTable("linked") for _ in range(3000)]
    made += [em.PageTable("adaptive") for _ in range(1000)]
    for number, table in enumerate(made):
        table.map(number)
        table.store(number, number + 1)
    assert [table.load(number) for number, table in enumerate(made)] == [
        *range(1, 4001)
    ]


def test_a_table_grows_beyond_what_it_began_with():
    """Its views stay where they are."""
    table, others = em.PageTable(), [em.PageTable() for _ in range(8)]
    table.map(range(512))
    view = table.tables[0]
    table.map(slice(1 << 20, (1 << 20) + 512 * 20_000))
    assert len(table.table_vpns()) == 20_001
    assert table.memory().pte == 20_001 * 4096
    table.store(5, 7)
    assert view[5] & np.uint64(1 << 58) or view[5] == table.tables[0][5]
    assert np.shares_memory(view, table.tables[0])
    assert all(len(other) == 0 for other in others)


def test_results_that_no_memory_is_for():
    table = em.PageTable()
    table.map(range(8))
    table.store([3, 5], 1)
    for call in (table.load, table.flagged, table.snapshot):
        with pytest.raises(MemoryError, match="a result for 68719476736 vpns"):
            call(slice(0, 2**36))
    flags = table.flagged(slice(0, 1 << 26))
    assert np.flatnonzero(flags).tolist() == [3, 5]
    assert flags.nbytes == 1 << 26


def test_flags_of_any_form(form):
    encoding, fields = form
    table = em.PageTable(encoding, fields)
    vpns = np.r_[0:700, 5000:5100]
    table.map(vpns)
    table.store(vpns[::7], fields.pack(**{next(iter(fields)): 1}))
    order = np.random.default_rng(1).permutation(5200)
    words = table.load(order)
    expected = words != 0 if words.ndim == 1 else (words != 0).any(axis=1)
    assert (table.flagged(order) == expected).all()
    assert expected.sum() == len(vpns[::7])
    assert table.flagged(7) is True
    assert table.flagged(8) is False


def test_paths_of_cgroups():
    assert limits.unescaped(rb"/a\040b\134c") == b"/a b\\c"
    for files in limits.cgroup_files():
        assert files[0].rpartition(b"/")[0] == files[1].rpartition(b"/")[0]
    assert available_bytes() > MIB
