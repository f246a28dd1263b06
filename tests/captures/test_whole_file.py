"""A file is the old one or the new one, whenever its writer is killed.

Captures, traces, calibrations, comparisons and the states of campaigns are all
written by `whole_file.replace`.
"""

import os
import random
import signal
import stat
import subprocess
import sys
import time

import pytest

import extmeta as em
from extmeta.captures import whole_file

ROUNDS = 15
# So that writing it takes some of the time.
SIZE = 8_000_000


def killed_while(body):
    """Run ``body`` again and again in a child; kill it somewhere in a later round."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            turn = 0
            while True:
                body(turn)
                os.write(writer, b".")
                turn += 1
        finally:
            os._exit(1)
    os.close(writer)
    for _ in range(random.randint(1, 3)):
        assert os.read(reader, 1) == b"."
    time.sleep(random.uniform(0, 0.03))
    os.kill(child, signal.SIGKILL)
    os.close(reader)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL


def test_a_text_is_whole(tmp_path):
    path = tmp_path / "state.json"

    def write(turn):
        whole_file.replace(path, f"{turn % 10}".encode() * SIZE)

    for _ in range(ROUNDS):
        killed_while(write)
        data = path.read_bytes()
        assert len(data) == SIZE
        assert len(set(data)) == 1
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
        assert em.load_capture(path).sha256 == capture.sha256


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o444])
def test_a_file_that_is_replaced_keeps_its_mode_and_owner(tmp_path, mode):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    path.chmod(mode)
    if os.geteuid() == 0:
        os.chown(path, 1234, 4321)
    before = path.stat()
    whole_file.replace(path, b"new")
    after = path.stat()
    assert path.read_bytes() == b"new"
    assert (after.st_mode, after.st_uid, after.st_gid) == (
        (before.st_mode, before.st_uid, before.st_gid)
    )


def test_a_new_file_has_the_mode_of_the_umask(tmp_path):
    before = os.umask(0o027)
    try:
        whole_file.replace(tmp_path / "file", b"new")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o640


def test_a_link_stays_a_link(tmp_path):
    target, link, dangling = (tmp_path / name for name in ("t", "l", "d"))
    target.write_bytes(b"old")
    link.symlink_to(target)
    dangling.symlink_to(tmp_path / "made")
    for path in (link, dangling):
        whole_file.replace(path, b"new")
        assert path.is_symlink()
        assert path.read_bytes() == b"new"


def test_what_dev_and_proc_name_is_written_to(tmp_path):
    """Replaced by a file of its name, it would not reach who reads it."""
    code = (
        "from extmeta.captures import whole_file as w; w.replace('/dev/stdout', b'new')"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, check=True)
    assert done.stdout == b"new"
    with open(tmp_path / "file", "w+b") as file:
        subprocess.run(command, stdout=file, check=True)
        file.seek(0)
        assert file.read() == b"new"
    whole_file.replace("/dev/null", b"new")
    with pytest.raises(OSError, match="No space"):
        whole_file.replace("/dev/full", b"new")
    with pytest.raises(IsADirectoryError):
        whole_file.replace(tmp_path, b"new")
