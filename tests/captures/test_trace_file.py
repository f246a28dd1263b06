"""Write traces in files: what is written is read; what is damaged is named.

The archive and its headers are read as captures' are: test_capture_files.py.
"""

import io
import zipfile

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

import extmeta as em
from extmeta.captures import trace

A, B = 0x7F000, 0x7F0000000


def u64(*values):
    return np.array(values, np.uint64)


def content(**changes):
    """Return a good trace's arrays: two VMAs, three rounds, one of no page."""
    good = {
        "vpns": u64(A, A + 1, B, A + 1, B + 9),
        "rounds": np.array([0, 3, 3, 5]),
        "vmas": np.array([[A, A + 2], [B, B + 10]], np.uint64),
        "interval": 0.5,
        "comm": "made",
        "release": "6.18.44",
        "how": "WP_ASYNC",
    }
    return good | changes


def saved(path, **changes):
    """Write what Trace would refuse."""
    arrays = {**content(), "version": 1, **changes}
    np.savez_compressed(path, **{k: v for k, v in arrays.items() if v is not None})
    return path


@pytest.fixture
def path(tmp_path):
    return tmp_path / "trace.npz"


def test_what_is_written_is_read(path):
    trace = em.Trace(**content())
    trace.save(path)
    found = em.load_trace(path)
    for key, value in content().items():
        assert np.array_equal(getattr(found, key), value), key
    assert found.nr_rounds == 3
    assert found.nr_pages == 12
    assert [found.round(i).tolist() for i in range(3)] == [
        [A, A + 1, B],
        [],
        [A + 1, B + 9],
    ]
    assert repr(found) == (
        "<Trace of 'made': 3 rounds of 0.5 s, 5 pages written of 12 in 2 VMAs, "
        "by WP_ASYNC>"
    )
    with pytest.raises(IndexError, match="round 3 "):
        found.round(3)
    with pytest.raises(ValueError, match="read-only"):
        found.vpns[0] = 1


def test_by_columns_and_of_other_byte_order(path):
    # As numpy saves a transposed array.
    vmas = np.asfortranarray(content()["vmas"]).astype(">u8", order="F")
    found = em.load_trace(saved(path, vmas=vmas, rounds=np.array([0, 3, 3, 5], "i2")))
    assert found.vmas.tolist() == content()["vmas"].tolist()
    assert found.rounds.dtype == np.int64


def test_nothing_written_in_no_vma(path):
    none = np.empty((0, 2), np.uint64)
    found = em.load_trace(saved(path, vpns=u64(), rounds=np.array([0, 0]), vmas=none))
    assert (found.nr_rounds, found.nr_pages, len(found.round(0))) == (1, 0, 0)


WRONG = [
    ({"vpns": np.arange(5)}, "vpns"),
    ({"vpns": u64(A, A + 1, B, A + 1, B + 10)}, "vpns: 0x7f000000a is in no VMA"),
    ({"vpns": u64(A - 1, A + 1, B, A + 1, B)}, "vpns: 0x7efff is in no VMA"),
    ({"vpns": u64(A, A, B, A + 1, B)}, "vpns: 0x7f000 follows 0x7f000 in a round"),
    ({"vpns": u64(A, A + 1)}, "rounds: from 0 to 5, not from 0 to 2"),
    ({"rounds": np.array([1, 5])}, "rounds: from 1 to 5"),
    ({"rounds": np.array([0, 4, 3, 5])}, "rounds: 3 follows 4"),
    ({"rounds": np.array([0, 5])}, "vpns: 0x7f001 follows 0x7f0000000 in a round"),
    ({"rounds": np.array([0])}, "rounds: 1 offsets are of no round"),
    ({"rounds": np.array([0.0, 5.0])}, "rounds"),
    ({"vmas": np.array([[A, B + 10], [A + 1, B]], np.uint64)}, "vmas: 0x7f001 follows"),
    ({"vmas": np.array([[A, A]], np.uint64)}, "vmas: [0x7f000, 0x7f000) is no range"),
    ({"vmas": np.array([[0, 1 << 60]], np.uint64)}, "vmas: 0x1000000000000000 is past"),
    ({"vmas": np.zeros((2, 3), np.uint64)}, "vmas"),
    ({"vmas": u64(A, B)}, "vmas"),
    ({"interval": float("nan")}, "interval: nan is no number of seconds"),
    ({"interval": -1.0}, "interval: -1.0 is no number"),
    ({"how": "guessed"}, "how: 'guessed' is none of WP_ASYNC, soft-dirty"),
]


@pytest.mark.parametrize(("changes", "why"), WRONG)
def test_contradictions_are_named(path, changes, why):
    with pytest.raises(em.CaptureError) as caught:
        em.Trace(**content(**changes))
    assert why in str(caught.value)
    with pytest.raises(em.CaptureError) as caught:
        em.load_trace(saved(path, **changes))
    assert str(caught.value).startswith(f"{path}: {why.partition(':')[0]}")


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"version": 2}, "version: 2 is not 1"),
        ({"version": None}, "no version: not a write trace"),
        ({"vpns": None, "how": None}, "no vpns, how: not a write trace"),
        ({"interval": 1}, "interval.npy: dtype <i8 is not float64"),
        ({"comm": "x" * 3000}, "comm.npy: dtype <U3000 is not text"),
        ({"comm": np.array(["a"])}, "comm.npy: shape (1,) has 1 dimensions"),
        ({"vmas": np.zeros((2, 3), np.uint64)}, "(2, 3) has not 2 columns"),
        ({"how": np.array(b"WP_ASYNC")}, "how.npy: dtype |S8 is not text"),
    ],
)
def test_damaged_files_are_named(path, changes, why):
    with pytest.raises(em.CaptureError) as caught:
        em.load_trace(saved(path, **changes))
    assert str(caught.value).startswith(f"{path}: ")
    assert why in str(caught.value)


def test_pickles_are_not_read(path):
    with zipfile.ZipFile(saved(path, comm=None), "a") as archive:
        file = io.BytesIO()
        np.lib.format.write_array(file, np.array(["x"], object), allow_pickle=True)
        archive.writestr("comm.npy", file.getvalue())
    with pytest.raises(em.CaptureError, match=r"comm.npy: dtype .O\d* is not text"):
        em.load_trace(path)


def test_too_many_pages_are_refused_unread(path):
    # The header alone says so; what it promises is not there.
    head = io.BytesIO()
    shape = {
        "descr": "<u8",
        "fortran_order": False,
        "shape": (trace.MAX_WRITTEN + 1,),
    }
    np.lib.format.write_array_header_1_0(head, shape)
    with zipfile.ZipFile(saved(path, vpns=None), "a") as archive:
        archive.writestr("vpns.npy", head.getvalue())
    with pytest.raises(em.CaptureError, match=r"vpns.npy: 67108865 elements are more"):
        em.load_trace(path)


def test_captures_and_traces_are_told_apart(path):
    with pytest.raises(em.CaptureError, match="not a write trace"):
        em.load_trace(em.shipped()["redis"])
    em.Trace(**content()).save(path)
    with pytest.raises(em.CaptureError, match="not a capture"):
        em.load_capture(path)
    with pytest.raises(FileNotFoundError):
        em.load_trace(path.with_name("none.npz"))


@hypothesis.given(data=st.data())
def test_damage_anywhere_is_refused_or_harmless(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "damaged.npz"
    em.Trace(**content()).save(path)
    raw = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(raw) - 1))
        raw[at] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(raw)) | st.just(len(raw)))
    path.write_bytes(raw[:cut])
    try:
        found = em.load_trace(path)
    except em.CaptureError as error:
        assert str(error).startswith(f"{path}: ")  # noqa: PT017 (or harmless)
    else:
        # A checksum covers what members hold, so only names were changed.
        assert np.array_equal(found.vpns, content()["vpns"])
