"""The programs whose page tables come with the package, each a context manager.

It starts a program, brings it to work, and gives the id of the process to capture. At
its end every process that it started is gone. Addresses, allocators and schedulers are
not seeded: numbers of entries and tables vary from run to run.
"""

import contextlib
import http.server
import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from extmeta.cost.kernel import guest

# How long a program may take until it is at work.
SECONDS = 60.0

KERNELS = Path(__file__).resolve().parent.parent / "build" / "guest"

REDIS_KEYS = 400_000
REDIS_BATCH = 10_000
VALUE_BYTES = 200

# The compiler is captured when it has so much memory, on its way to more.
COMPILER_MIB = 120
TEMPLATES = 4_000

GUEST_MIB = 192
CHILDREN = 8
SWAP_MIB = 128
CHURN_CALLS = 100_000_000

NUMPY = """
import sys
import numpy as np
sparse = np.empty(256 << 20, np.uint8)
rng = np.random.default_rng(1)
sparse[rng.integers(0, sparse.size, 6_000)] = 1
dense = np.ones(24 << 20, np.uint8)
print("ready", flush=True)
sys.stdin.read()
"""

ML = """
import sys
import numpy as np
rng = np.random.default_rng(1)
sizes = 784, 1536, 1536, 10
layers = [rng.normal(0, 0.02, pair).astype("f4") for pair in zip(sizes, sizes[1:])]
moments = [[np.zeros_like(w), np.zeros_like(w)] for w in layers]
data = rng.normal(0, 1, (16_000, 784)).astype("f4")
for step in range(20):
    acts = [data[rng.integers(0, len(data), 512)]]
    for w in layers:
        acts.append(np.maximum(acts[-1] @ w, 0))
    grad = acts[-1] / 512
    for w, (first, second), act in reversed([*zip(layers, moments, acts)]):
        slope = act.T @ grad
        grad = grad @ w.T * (act > 0)
        first += 0.1 * (slope - first)
        second += 0.001 * (slope**2 - second)
        w -= 0.001 * first / (np.sqrt(second) + 1e-8)
print("ready", flush=True)
sys.stdin.read()
"""

NODE = """
const kept = [];
for (let i = 0; i < 400000; i++)
  kept.push({id: i, name: "object " + i, next: kept[i >> 1]});
console.log("ready");
process.stdin.on("data", () => kept.length);
"""

JAVA = """
import java.util.*;
class Heap {
    public static void main(String[] args) throws Exception {
        Random random = new Random(1);
        List<byte[]> kept = new ArrayList<>();
        for (int i = 0; i < 400_000; i++) {
            byte[] made = new byte[64 + random.nextInt(2_000)];
            if (kept.size() < 80_000) kept.add(made);
            else kept.set(random.nextInt(kept.size()), made);
        }
        kept.subList(0, kept.size() / 2).clear();
        System.gc();
        System.out.println("ready");
        System.in.read();
        System.out.println(kept.size());
    }
}
"""

PAGE = """<!doctype html><meta charset="utf-8"><body><script>
const kept = [];
for (let i = 0; i < 20000; i++) {
  const row = document.createElement("p");
  row.textContent = "row " + i + " of a long page, with some text in it";
  document.body.append(row);
  kept.push({row, text: row.textContent, numbers: new Float64Array(64)});
}
window.scrollTo(0, document.body.scrollHeight);
requestAnimationFrame(() => setTimeout(() => fetch("/ready"), 1000));
</script>"""

FORK_SERVER = """
import os, random, sys
heap = [bytearray(random.randbytes(3000)) for _ in range(20_000)]
pids = []
for number in range(int(sys.argv[1])):
    read, write = os.pipe()
    pid = os.fork()
    if not pid:
        rng = random.Random(number)
        for item in rng.sample(heap, len(heap) // 10):
            item[rng.randrange(3000)] ^= 1
        os.write(write, b"x")
        sys.stdin.read()
    os.read(read, 1)
    pids.append(pid)
print("ready", flush=True)
print(*pids, flush=True)
sys.stdin.read()
"""

SWAPPED = """
import mmap, sys
import numpy as np
memory = mmap.mmap(-1, 96 << 20, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
memory.madvise(mmap.MADV_NOHUGEPAGE)
pages = np.frombuffer(memory, np.uint8).reshape(-1, 4096)
pages[:, 0] = 1
rng = np.random.default_rng(1)
for first in rng.permutation(len(pages) // 16)[: len(pages) // 32]:
    memory.madvise(21, int(first) << 16, 1 << 16)  # MADV_PAGEOUT
pages[rng.integers(0, len(pages), 2_000), 1] = 1
print("ready", flush=True)
sys.stdin.read()
"""

# Sizes are 16 bytes to 128 KiB, each power of two as likely as the next; large ones
# are rarer. The live objects grow and shrink with the time of day.
CHURN = """
#include <stdio.h>
#include <stdlib.h>
enum { SLOTS = 1 << 15 };
static void *slot[SLOTS];
static unsigned long state = 1;
static unsigned long next(void) {
    state ^= state << 13; state ^= state >> 7; state ^= state << 17;
    return state >> 11;
}
int main(int argc, char **argv) {
    long calls = atol(argv[1]);
    for (long i = 0; i < calls; i++) {
        long phase = i % (calls / 24);
        long live = SLOTS / 4 + 3 * (SLOTS / 4) * phase / (calls / 24);
        unsigned long at = next() % SLOTS, size = 16ul << next() % 14;
        size += next() % size;
        if (next() % 64 >= 1 && size > 8192) size >>= 5;
        free(slot[at]);
        slot[at] = 0;
        if ((long)at < live) {
            char *made = malloc(size);
            for (unsigned long byte = 0; byte < size; byte += 4096) made[byte] = 1;
            slot[at] = made;
        }
    }
    puts("ready");
    fflush(stdout);
    getchar();
}
"""

# In the guest: touch most of its memory, say so, and stay.
INIT = """
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/mount.h>
#include <unistd.h>
int main(void) {
    mkdir("/dev", 0755);
    mount("devtmpfs", "/dev", "devtmpfs", 0, "");
    size_t size = (size_t)MIB << 20;
    char *memory = malloc(size);
    for (size_t at = 0; at < size; at += 4096) memory[at] = 1;
    int tell = open("/dev/ttyS1", O_WRONLY);
    if (write(tell, "ready\\n", 6) != 6) return 1;
    for (;;) pause();
}
"""


class Program(NamedTuple):
    """What is captured: what it did, how to run it, its version."""

    did: str
    run: Callable[[], contextlib.AbstractContextManager[int]]
    version: Callable[[], str]


# -- starting, waiting, ending --------------------------------------------------------


@contextlib.contextmanager
def child(
    *command: str, ready: bool = True, user: str | None = None, **environment: str
) -> Iterator[subprocess.Popen[str]]:
    """Run a command until it says "ready"; afterwards kill it and its children."""
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=os.environ | environment,
        user=user,
        start_new_session=True,
    )
    try:
        if ready and process.stdout and process.stdout.readline() != "ready\n":
            raise SystemExit(f"{command[0]} did not get ready")
        yield process
    finally:
        for pid in {process.pid, *session(process.pid)}:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.communicate()


@contextlib.contextmanager
def folder(user: str | None = None) -> Iterator[Path]:
    """Make a folder for a while, perhaps another user's."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as made:
        if user:
            shutil.chown(made, user)
        yield Path(made)


def awaited(find: Callable[[], int | None], what: str) -> int:
    """Return what a call finds, once it finds something."""
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        found = find()
        if found is not None:
            return found
        time.sleep(0.01)
    raise SystemExit(f"{what}: not within {SECONDS:g} s")


def session(leader: int, words: str = "") -> Iterator[int]:
    """Yield the processes of a session whose command line has some words."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        pid = int(path.parent.name)
        with contextlib.suppress(OSError):
            if os.getsid(pid) == leader and words in path.read_text().replace(
                "\0", " "
            ):
                yield pid


def resident_mib(pid: int) -> int:
    """Return the memory of a process that is present."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) >> 8


def compiled(source: str, target: Path, *flags: str) -> str:
    """Compile a C program and return its path."""
    command = ["gcc", "-O2", "-x", "c", "-", "-o", str(target), *flags]
    subprocess.run(command, input=source, text=True, check=True)
    return str(target)


def ran(*command: str) -> str:
    """Return what a command prints."""
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return done.stdout


def said(*command: str) -> str:
    """Return the version number in what a command prints."""
    text = ran(*command)
    match = re.search(r"\d+\.\d+[.\d]*", text)
    return match.group() if match else text.strip()


# -- programs ------------------------------------------------------------------------


def connected(path: Path) -> socket.socket:
    """Return a connection to the socket at ``path``, once it is there."""
    connection = socket.socket(socket.AF_UNIX)
    awaited(lambda: None if connection.connect_ex(str(path)) else 0, str(path))
    return connection


@contextlib.contextmanager
def redis() -> Iterator[int]:
    """Run redis-server after `REDIS_KEYS` SETs of `VALUE_BYTES` bytes."""
    with folder() as at:
        path = at / "redis.sock"
        command = ["redis-server", "--port", "0", "--unixsocket", str(path)]
        command += ["--save", "", "--appendonly", "no", "--dir", str(at)]
        with child(*command, ready=False) as server, connected(path) as connection:
            replies = connection.makefile("rb")
            for first in range(0, REDIS_KEYS, REDIS_BATCH):
                keys = [b"key:%d" % i for i in range(first, first + REDIS_BATCH)]
                connection.sendall(
                    b"".join(
                        b"*3\r\n$3\r\nSET\r\n$%d\r\n%b\r\n$%d\r\n%b\r\n"
                        % (len(key), key, VALUE_BYTES, b"x" * VALUE_BYTES)
                        for key in keys
                    )
                )
                if replies.read(5 * REDIS_BATCH) != b"+OK\r\n" * REDIS_BATCH:
                    raise SystemExit("redis-server refused a SET")
            yield server.pid


@contextlib.contextmanager
def of_python(source: str, *words: str, **environment: str) -> Iterator[int]:
    """Run a Python program."""
    with child(sys.executable, "-c", source, *words, **environment) as process:
        yield process.pid


@contextlib.contextmanager
def node() -> Iterator[int]:
    """Run node with many small objects."""
    with child("node", "-e", NODE) as process:
        yield process.pid


@contextlib.contextmanager
def java() -> Iterator[int]:
    """Run a JVM whose heap has grown, lost half of it, and was collected by G1."""
    with folder() as at:
        source = at / "Heap.java"
        source.write_text(JAVA)
        with child("java", "-XX:+UseG1GC", "-Xmx192m", str(source)) as process:
            yield process.pid


@contextlib.contextmanager
def postgres() -> Iterator[int]:
    """Run a backend of PostgreSQL under pgbench, with the shared buffers it read."""
    user = "postgres"
    with folder(user) as at:
        data, where = str(at / "data"), ["-h", str(at), "-U", user]

        def ask(*command: str) -> str | None:
            done = subprocess.run(
                command, user=user, cwd=at, capture_output=True, text=True, check=False
            )
            return None if done.returncode else done.stdout

        ask("initdb", "-D", data, "-U", user)
        command = ["postgres", "-D", data, "-k", str(at), "-B", "128MB", "-h", ""]
        with child(*command, ready=False, user=user):
            awaited(
                lambda: None if ask("pg_isready", *where) is None else 0, "postgres"
            )
            if ask("pgbench", *where, "-i", "-q", "-s", "8", user) is None:
                raise SystemExit("pgbench could not make its tables")
            load = ["pgbench", *where, "-S", "-n", "-T", "600", user]
            sql = (
                "select pid from pg_stat_activity "
                "where application_name = 'pgbench' and state is not null"
            )
            with child(*load, ready=False, user=user):

                def backend() -> int | None:
                    pids = (ask("psql", *where, "-Atc", sql, user) or "").split()
                    full = [pid for pid in map(int, pids) if resident_mib(pid) >= 100]
                    return full[0] if full else None

                yield awaited(backend, "a backend with 100 MiB")


@contextlib.contextmanager
def chromium() -> Iterator[int]:
    """Run chromium without a display, on a page of 20,000 rows; its renderer."""
    shown = threading.Event()

    class Answer(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = PAGE.encode() if self.path == "/" else b"thanks"
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(body)
            if self.path == "/ready":
                shown.set()

        def log_message(self, format: str, *args: object) -> None:
            pass

    with (
        folder() as at,
        http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer) as web,
    ):
        threading.Thread(target=web.serve_forever, daemon=True).start()
        command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu"]
        command += [f"--user-data-dir={at}", "--remote-debugging-port=0"]
        url = f"http://127.0.0.1:{web.server_port}/"
        with child(*command, url, ready=False) as process:
            if not shown.wait(SECONDS):
                raise SystemExit("chromium did not show the page")
            yield max(session(process.pid, "--type=renderer"), key=resident_mib)
        web.shutdown()


@contextlib.contextmanager
def compiler() -> Iterator[int]:
    """Run g++ on a file of many instances of templates; its cc1plus, on the way."""
    lines = ["#include <map>", "#include <string>", "#include <functional>"]
    lines += ["template <int N> struct Key { int value; };"]
    lines += [
        f"int f{n}(int v) {{ std::map<int, Key<{n}>> m; m[v] = {{v}}; "
        f"std::function<int()> g = [&] {{ return m.at(v).value + {n}; }}; return g(); }}"
        for n in range(TEMPLATES)
    ]
    with folder() as at:
        source = at / "large.cc"
        source.write_text("\n".join(lines))
        command = ["g++", "-O2", "-S", "-o", str(at / "large.s"), str(source)]
        with child(*command, ready=False) as process:

            def grown() -> int | None:
                for pid in session(process.pid, "cc1plus"):
                    if resident_mib(pid) >= COMPILER_MIB:
                        return pid
                return None

            yield awaited(grown, "cc1plus with that much memory")


@contextlib.contextmanager
def qemu() -> Iterator[int]:
    """Run a virtual machine that has touched most of its memory."""
    with folder() as at:
        touched = GUEST_MIB // 2
        init = Path(compiled(INIT, at / "init", "-static", f"-DMIB={touched}"))
        image, _module = guest.kernel(KERNELS)
        entry = ("init", stat.S_IFREG | 0o755, init.read_bytes())
        (at / "initramfs").write_bytes(guest.cpio([entry]))
        told = at / "told"
        command = [guest.QEMU, "-nodefaults", "-no-user-config", "-display", "none"]
        # Not KVM: it fails in some guests. Its page tables are the same.
        command += ["-accel", "tcg", "-m", str(GUEST_MIB)]
        command += ["-kernel", str(image), "-initrd", str(at / "initramfs")]
        command += ["-append", "console=ttyS0 quiet", "-serial", "null"]
        command += ["-serial", f"file:{told}"]
        with child(*command, ready=False) as process:
            awaited(lambda: 0 if told.exists() and told.read_bytes() else None, "guest")
            yield process.pid


@contextlib.contextmanager
def fork_server() -> Iterator[int]:
    """Run a server and `CHILDREN` children that wrote to a tenth of their objects."""
    command = [sys.executable, "-c", FORK_SERVER, str(CHILDREN)]
    with child(*command) as process:
        pids = process.stdout.readline().split() if process.stdout else []
        yield int(pids[-1])


@contextlib.contextmanager
def swapped() -> Iterator[int]:
    """Run a process half of whose memory is in a swap file, made for it."""
    with folder() as at:
        file = at / "swap"
        ran("dd", "if=/dev/zero", f"of={file}", "bs=1M", f"count={SWAP_MIB}")
        file.chmod(0o600)
        ran("/sbin/mkswap", str(file))
        ran("/sbin/swapon", str(file))
        try:
            with of_python(SWAPPED) as pid:
                yield pid
        finally:
            ran("/sbin/swapoff", str(file))


@contextlib.contextmanager
def churn() -> Iterator[int]:
    """Run glibc's allocator for `CHURN_CALLS` calls."""
    with folder() as at:
        program = compiled(CHURN, at / "churn")
        with child(program, str(CHURN_CALLS)) as process:
            yield process.pid


def python_version() -> str:
    return f"Python {sys.version.split()[0]}"


def numpy_version() -> str:
    return f"numpy {np.__version__}, {python_version()}"


PROGRAMS = {
    "numpy-sparse": Program(
        "a 256 MiB numpy array touched at 6,000 random places, and 24 MiB filled; "
        "4 KiB pages (NUMPY_MADVISE_HUGEPAGE=0)",
        lambda: of_python(NUMPY, NUMPY_MADVISE_HUGEPAGE="0"),
        numpy_version,
    ),
    "redis": Program(
        f"redis-server after {REDIS_KEYS:,} SETs of {VALUE_BYTES} bytes",
        redis,
        lambda: f"redis {said('redis-server', '--version')}",
    ),
    "node": Program(
        "node holding 400,000 small objects",
        node,
        lambda: f"node {said('node', '--version')}",
    ),
    "java": Program(
        "a JVM with G1 and at most 192 MiB of heap, half of which was dropped and "
        "collected",
        java,
        lambda: f"OpenJDK {said('java', '--version')}",
    ),
    "postgres": Program(
        "a PostgreSQL backend under pgbench -S that has mapped most of 128 MiB of "
        "shared buffers",
        postgres,
        lambda: f"PostgreSQL {said('postgres', '--version')}",
    ),
    "chromium": Program(
        "the renderer of headless chromium that shows a page of 20,000 rows",
        chromium,
        lambda: f"chromium {said('chromium', '--version')}",
    ),
    "compiler": Program(
        f"cc1plus -O2 on {TEMPLATES:,} functions with templates, when it had "
        f"{COMPILER_MIB} MiB",
        compiler,
        lambda: f"g++ {said('g++', '-dumpfullversion')}",
    ),
    "qemu": Program(
        f"qemu, a guest of {GUEST_MIB} MiB that has touched more than half of it",
        qemu,
        lambda: f"qemu {said(guest.QEMU, '--version')}",
    ),
    "ml": Program(
        "training of a network of three layers in numpy; huge pages as numpy asks for",
        lambda: of_python(ML),
        numpy_version,
    ),
    "fork-server": Program(
        f"the last of {CHILDREN} children of a server with 60 MB of objects; each has "
        "written to a tenth of them",
        fork_server,
        python_version,
    ),
    "swapped": Program(
        "a process whose 96 MiB are half in a swap file, by 64 KiB at random, then "
        "touched at 2,000 random pages",
        swapped,
        numpy_version,
    ),
    "churn": Program(
        f"glibc's allocator after {CHURN_CALLS // 10**6} million calls of a seeded "
        "stream whose live objects grow and shrink 24 times: a minute that stands for "
        "hours of churn",
        churn,
        lambda: f"glibc {said('ldd', '--version')}",
    ),
}
