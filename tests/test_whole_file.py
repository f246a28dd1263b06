"""A file is the old one or the new one, whenever its writer is killed.

Captures, traces, calibrations, comparisons and the states of campaigns are all
written by `whole_file.replace`.
"""

import contextlib
import os
import random
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import pytest

import extmeta as em
from extmeta import whole_file

ROUNDS = 15
# So that writing it takes some of the time.
SIZE = 8_000_000


def killed_while(body):
    """Run ``body`` again and again in a child, and kill it at a random moment."""
    child = os.fork()
    if child == 0:
        try:
            turn = 0
            while True:
                body(turn)
                turn += 1
        finally:
            os._exit(1)
    time.sleep(random.uniform(0.001, 0.05))
    os.kill(child, signal.SIGKILL)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL


def test_a_text_is_whole(tmp_path):
    path = tmp_path / "state.json"

    def write(turn):
        whole_file.replace(path, f"{turn % 10}".encode() * SIZE)

    seen = set()
    for _ in range(ROUNDS):
        killed_while(write)
        if path.exists():
            data = path.read_bytes()
            assert len(data) == SIZE
            assert len(set(data)) == 1
            seen.add(data[:1])
    assert len(seen) > 1
    # Drafts are left behind, none of them by the name of the file.
    assert all(
        each == path or each.name.startswith(".extmeta-") for each in tmp_path.iterdir()
    )
    write(3)
    assert path.read_bytes() == b"3" * SIZE


def test_a_capture_loads(tmp_path):
    path = tmp_path / "a.npz"
    capture = em.load_capture(em.shipped()["redis"])
    for _ in range(ROUNDS):
        killed_while(lambda _turn: capture.save(path))
        if path.exists():
            assert len(em.load_capture(path).build()) == 33_049
    capture.save(path)
    assert len(em.load_capture(path).build()) == 33_049


# --- modes, owners, links --------------------------------------------------------


@pytest.fixture
def umask():
    before = os.umask(0o027)
    yield
    os.umask(before)


def mode(path):
    return stat.S_IMODE(os.stat(path).st_mode)


@pytest.mark.parametrize("was", [0o600, 0o644, 0o666, 0o4711])
def test_a_replaced_file_keeps_its_mode(tmp_path, umask, was):
    path = tmp_path / "a"
    path.write_bytes(b"old")
    path.chmod(was)
    whole_file.replace(path, b"new")
    assert (path.read_bytes(), mode(path)) == (b"new", was)


def test_a_capture_and_a_trace_keep_a_mode(tmp_path, umask):
    vmas = np.array([[5, 9]], np.uint64)
    trace = em.Trace(vmas[0, :1], np.array([0, 1]), vmas, 1.0, "sh", "6", "WP_ASYNC")
    for made in (em.load_capture(em.shipped()["redis"]), trace):
        path = tmp_path / "a"
        path.touch()
        path.chmod(0o600)
        made.save(path)
        assert mode(path) == 0o600


def test_a_new_file_has_the_mode_of_the_umask(tmp_path, umask):
    (tmp_path / "link").symlink_to("made")
    whole_file.replace(tmp_path / "link", b"new")
    assert mode(tmp_path / "made") == 0o640
    assert (tmp_path / "link").is_symlink()


def test_a_draft_is_nobody_elses_to_read(tmp_path, monkeypatch):
    path = tmp_path / "a"
    path.touch(0o600)
    seen = []
    monkeypatch.setattr(
        os, "fchown", lambda fd, *_to: seen.append(stat.S_IMODE(os.fstat(fd).st_mode))
    )
    whole_file.replace(path, b"new")
    assert seen == [0o600]


def test_a_replaced_file_keeps_its_owner(tmp_path):
    path = tmp_path / "a"
    path.touch()
    try:
        os.chown(path, 1234, 2345)
    except PermissionError:
        pytest.skip("needs root")
    whole_file.replace(path, b"new")
    assert (path.stat().st_uid, path.stat().st_gid) == (1234, 2345)


@pytest.mark.parametrize(("was", "becomes"), [(0o664, 0o644), (0o640, 0o600)])
def test_a_group_that_cannot_be_kept_passes_nothing_on(
    tmp_path, monkeypatch, was, becomes
):
    def refuse(*_args):
        raise PermissionError(1, "Operation not permitted")

    path = tmp_path / "a"
    path.touch()
    path.chmod(was)
    monkeypatch.setattr(os, "fchown", refuse)
    whole_file.replace(path, b"new")
    assert mode(path) == becomes


def test_a_replaced_file_keeps_its_attributes(tmp_path):
    path = tmp_path / "a"
    path.touch()
    try:
        os.setxattr(path, "user.origin", b"here")
    except OSError:
        pytest.skip("needs a file system with user attributes")
    whole_file.replace(path, b"new")
    assert os.getxattr(path, "user.origin") == b"here"


def test_links_to_links_stay(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "second").symlink_to("../target")
    (tmp_path / "first").symlink_to("folder/second")
    (tmp_path / "target").write_bytes(b"old")
    whole_file.replace(tmp_path / "first", b"new")
    assert (tmp_path / "target").read_bytes() == b"new"
    assert (tmp_path / "first").is_symlink()
    assert (tmp_path / "folder" / "second").is_symlink()


# --- what is no regular file -----------------------------------------------------


def test_a_fifo_is_written_to(tmp_path):
    path = tmp_path / "fifo"
    os.mkfifo(path)
    heard = []
    reader = threading.Thread(target=lambda: heard.append(path.read_bytes()))
    reader.start()
    whole_file.replace(path, b"x" * 200_000)
    reader.join()
    assert heard == [b"x" * 200_000]
    assert stat.S_ISFIFO(os.stat(path).st_mode)


@pytest.mark.parametrize("name", ["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"])
@pytest.mark.parametrize("to_file", [True, False])
def test_standard_output_is_written_to(tmp_path, name, to_file):
    path = tmp_path / "out"
    command = f"from extmeta import whole_file as w; w.replace({name!r}, b'data')"
    with path.open("wb") as file:
        ran = subprocess.run(
            [sys.executable, "-c", command],
            stdout=file if to_file else subprocess.PIPE,
            check=True,
        )
        # The file that was open, not another one in its place.
        assert os.fstat(file.fileno()).st_ino == path.stat().st_ino
    assert (path.read_bytes() if to_file else ran.stdout) == b"data"


# --- refused ---------------------------------------------------------------------


def refused(path, kind, target):
    with pytest.raises(kind) as caught:
        whole_file.replace(path, b"new" * 100_000)
    assert caught.value.filename == str(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert ".tmp" not in str(caught.value)
    assert [each.name for each in target.iterdir()] == ["a"]
    assert (target / "a").read_bytes() == b"old"


@contextlib.contextmanager
def nobody():
    """Be another user for a while."""
    if os.geteuid():
        pytest.skip("needs root, to be somebody else")
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def shown():
    """Return a folder that others may enter; pytest's own are its user's alone."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        yield Path(folder)


def test_a_refused_write_names_the_file_and_changes_nothing(shown):
    path = shown / "a"
    path.write_bytes(b"old")
    refused(shown, IsADirectoryError, shown)
    refused(shown / "none" / "b", FileNotFoundError, shown)
    refused(path / "b", NotADirectoryError, shown)
    refused("/dev/full", OSError, shown)
    with nobody():
        refused(path, PermissionError, shown)
        refused(shown / "b", PermissionError, shown)


def test_a_link_to_itself_is_refused(tmp_path):
    (tmp_path / "a").symlink_to("a")
    with pytest.raises(OSError, match="symbolic links"):
        whole_file.replace(tmp_path / "a", b"new")


def test_a_small_file_system_that_is_full(tmp_path):
    mount = ["mount", "-t", "tmpfs", "-o", "size=16k", "none", str(tmp_path)]
    if (
        os.geteuid()
        or subprocess.run(mount, check=False, stderr=subprocess.DEVNULL).returncode
    ):
        pytest.skip("needs root, to mount a tmpfs")
    try:
        (tmp_path / "a").write_bytes(b"old")
        refused(tmp_path / "a", OSError, tmp_path)
        with pytest.raises(OSError, match="No space left"):
            em.load_capture(em.shipped()["redis"]).save(tmp_path / "b")
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)
