"""How much memory this process can still get."""

import resource

from extmeta.memory import limits


def available_bytes() -> int | None:
    """Return how many bytes this process can still get, or None if that is unknown.

    The least of what the machine has (MemAvailable of /proc/meminfo), what its
    cgroups leave, and what RLIMIT_AS and RLIMIT_DATA leave (man 2 getrlimit).
    """
    found = [limits.available_now()]
    for limit, key in ((resource.RLIMIT_AS, 0), (resource.RLIMIT_DATA, 5)):
        most, _hard = resource.getrlimit(limit)
        if most != resource.RLIM_INFINITY:
            # Pages of address space, and of data and stack (man 5 proc_pid_statm).
            with open("/proc/self/statm", "rb") as file:
                pages = int(file.read().split()[key])
            found.append(max(0, most - pages * resource.getpagesize()))
    return min((n for n in found if n is not None), default=None)


def refuse_hopeless(nbytes: int, what: str) -> None:
    """Raise MemoryError, with ``what`` in the message, if ``nbytes`` are too many.

    Linux overcommits memory, and kills the process that then uses it.
    """
    have = available_bytes()
    if have is not None and nbytes > have:
        raise MemoryError(f"{nbytes} bytes for {what}; {have} bytes are available")
