"""How much memory this process may still get from the machine and its cgroups.

Linux overcommits memory, and kills the process that then uses it. So table memory asks
here before it grows. RLIMIT_AS and RLIMIT_DATA need no question: mmap(2) and
mprotect(2) fail.

Nothing here runs Python: table memory grows under a page table's lock.
"""
import io
import os
import re

from libc.stdint cimport int64_t
from libc.stdlib cimport strtoll
from libc.string cimport strlen, strstr
from posix.unistd cimport close, read

cdef extern from "fcntl.h" nogil:
    int open(const char*, int)
    const int O_RDONLY, O_CLOEXEC

cdef extern from *:
    """
    static int64_t extmeta_granted;
    #define extmeta_spend(n) \
        (__atomic_sub_fetch(&extmeta_granted, (n), __ATOMIC_RELAXED) >= 0)
    #define extmeta_grant(n) __atomic_store_n(&extmeta_granted, (n), __ATOMIC_RELAXED)
    """
    bint spend "extmeta_spend"(int64_t nbytes) noexcept nogil
    void grant "extmeta_grant"(int64_t nbytes) noexcept nogil

cdef enum:
    # Levels of cgroups; deeper ones are ignored.
    LEVELS = 16
    # Bytes read of a file. memory.stat, the longest, has about 3 KiB.
    FILE_BYTES = 16384
    # Left for other memory than tables: results, and Python's own.
    MARGIN = 4 << 20

cdef struct Level:
    # Files of a cgroup, and the names of the page cache's two lists in memory.stat.
    const char* limit
    const char* usage
    const char* stat
    const char* inactive
    const char* active

cdef tuple V1 = (b"memory.limit_in_bytes", b"memory.usage_in_bytes",
                 (b"total_inactive_file ", b"total_active_file "))
cdef tuple V2 = (b"memory.max", b"memory.current",
                 (b"inactive_file ", b"active_file "))

cdef Level[LEVELS] levels
cdef int nr_levels = 0
# Keeps the strings that `levels` points to.
cdef list texts = []


cdef int64_t number_in(const char* path, const char* key) noexcept nogil:
    """Return the number behind ``key`` at the start of a line, or -1.

    The key may be empty. A cgroup without a limit has "max", so -1.
    """
    cdef char[FILE_BYTES] text
    cdef char* at
    cdef char* end
    cdef Py_ssize_t n
    cdef int64_t number
    cdef int fd = open(path, O_RDONLY | O_CLOEXEC)
    if fd < 0:
        return -1
    n = read(fd, text, FILE_BYTES - 1)
    close(fd)
    if n <= 0:
        return -1
    text[n] = 0
    at = strstr(text, key)
    while at is not NULL and at != text and (at - 1)[0] != c"\n":
        at = strstr(at + 1, key)
    if at is NULL:
        return -1
    at += strlen(key)
    number = strtoll(at, &end, 10)
    return number if end != at else -1


cdef int64_t available() noexcept nogil:
    cdef int64_t most = number_in(b"/proc/meminfo", b"MemAvailable:")
    cdef int64_t limit, usage, cache
    cdef Level* level
    cdef int i
    if most >= 0:
        most *= 1024
    for i in range(nr_levels):
        level = &levels[i]
        limit = number_in(level.limit, b"")
        usage = number_in(level.usage, b"")
        if limit < 0 or usage < 0:
            continue
        # The kernel reclaims the page cache before it kills.
        cache = max(0, number_in(level.stat, level.inactive))
        cache += max(0, number_in(level.stat, level.active))
        limit = max(0, limit - usage + min(cache, usage))
        most = limit if most < 0 else min(most, limit)
    return most


cdef bint affordable(size_t nbytes) noexcept nogil:
    cdef int64_t have
    if spend(<int64_t>nbytes):
        return True
    # The files are read again when an eighth of what they allowed is spent.
    have = available()
    if have >= 0 and <int64_t>nbytes + MARGIN > have:
        grant(0)
        return False
    grant(have // 8 - <int64_t>nbytes if have >= 0 else 0)
    return True


def available_now():
    """Return the bytes that machine and cgroups have left, or None if unknown.

    Linux Documentation/filesystems/proc.rst, MemAvailable;
    Documentation/admin-guide/cgroup-v2.rst, memory.max, and cgroup-v1/memory.rst.
    """
    watch()
    have = available()
    return None if have < 0 else have


def watch():
    """Look up the cgroups that this process is in."""
    global nr_levels
    found = list(cgroup_files())[:LEVELS]
    nr_levels = 0
    texts[:] = found
    for i, files in enumerate(found):
        levels[i].limit, levels[i].usage, levels[i].stat = files[:3]
        levels[i].inactive, levels[i].active = files[3:]
    nr_levels = len(found)


def lines_of(path):
    """Return the lines of a file; none if it can't be read."""
    try:
        with io.open(path, "rb") as file:
            return file.read().split(b"\n")
    except OSError:
        return []


def cgroup_files():
    """Yield a `Level` for each cgroup that may limit this process's memory.

    From its own one up to the root of what is mounted (man 7 cgroups).
    """
    mine = {}
    for line in lines_of("/proc/self/cgroup"):
        _number, _, rest = line.partition(b":")
        controllers, _, path = rest.partition(b":")
        for controller in controllers.split(b","):
            mine[controller] = path
    for line in lines_of("/proc/self/mountinfo"):
        before, _, after = line.partition(b" - ")
        mount, kind = before.split(b" "), after.split(b" ")
        if len(mount) < 5 or len(kind) < 3:
            continue
        v2 = kind[0] == b"cgroup2"
        path = mine.get(b"" if v2 else b"memory")
        if path is None or not (
                v2 or kind[0] == b"cgroup" and b"memory" in kind[2].split(b",")):
            continue
        root, folder = map(unescaped, mount[3:5])
        if path != root and not path.startswith(root.rstrip(b"/") + b"/"):
            # It is not mounted: a container sees its own cgroup as "/".
            path = root
        limit, usage, cache = V2 if v2 else V1
        below = path[len(root.rstrip(b"/")):].strip(b"/")
        while True:
            here = os.path.join(folder, below)
            yield (os.path.join(here, limit), os.path.join(here, usage),
                   os.path.join(here, b"memory.stat"), *cache)
            if not below:
                break
            below = os.path.dirname(below)


def unescaped(text):
    """Return a path of mountinfo without its escapes (man 5 proc_pid_mountinfo)."""
    return re.sub(rb"\\([0-7]{3})", lambda m: bytes([int(m[1], 8)]), text)


watch()
