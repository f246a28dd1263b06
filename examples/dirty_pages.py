"""Track the pages that a running process writes, as live migration does.

A child process writes pages. Each round asks the kernel which ones (soft-dirty bits, or
a userfaultfd and PAGEMAP_SCAN), and counts in a word of each page how often it was
written. Pages that are written again and again are best sent last.

pip install extmeta
python dirty_pages.py
"""

import subprocess
import sys

import numpy as np

import extmeta as em
from extmeta.captures.trackers import SoftDirty, WpAsync, has_soft_dirty

# It says where its 1,024 pages are, then writes as many as each line of stdin says.
CHILD = """
import ctypes, mmap, sys
memory = mmap.mmap(-1, 1024 * 4096, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
memory.madvise(mmap.MADV_NOHUGEPAGE)
memory[::4096] = b"a" * 1024
print(ctypes.addressof(ctypes.c_char.from_buffer(memory)) // 4096, flush=True)
for line in sys.stdin:
    for page in range(int(line)):
        memory[page * 4096] = 98
    print("written", flush=True)
"""

fields = em.Fields(dirty=1, times=7)
command = [sys.executable, "-c", CHILD]
pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
with subprocess.Popen(command, **pipes) as child:
    first = int(child.stdout.readline())
    mine = slice(first, first + 1024)
    table = em.capture(child.pid).build("adaptive", fields)
    tracker = (SoftDirty if has_soft_dirty() else WpAsync)(child.pid)
    tracker.written()  # Writes from here on count.
    for pages in (400, 100, 25, 25):
        print(pages, file=child.stdin, flush=True)
        child.stdout.readline()
        written = np.concatenate(tracker.written())
        written = written[(written >= mine.start) & (written < mine.stop)]
        times = table.load(written, "times") + np.uint64(1)
        table.store(written, dirty=1, times=times)
        print(f"{len(written):4} pages were written ({tracker.how}).")
    tracker.close()
    child.stdin.close()

often = table.scan(mine, fields.mask("times"), fields.pack(times=4))
print(f"{len(often):4} pages were written in every round, and are best sent last.")
print(
    f"{table.memory().side:4} bytes hold the words of {table.flagged(mine).sum()} pages."
)
