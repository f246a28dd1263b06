"""A file is the old one or the new one, whenever its writer is killed.

Captures, traces, calibrations, comparisons and the states of campaigns are all
written by `whole_file.replace`.
"""

import os
import random
import signal
import time

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
