"""Make another process execute system calls.

ptrace stops one of its threads, gives it the registers of a system call, and lets it
execute an existing ``syscall`` instruction in the vDSO or a library. Then it restores
registers and signal mask. The other threads go on. The kernel restarts a system
call that the stop interrupted, as after SIGSTOP; the few that return EINTR then
(epoll_wait, semop: signal(7)) do so here too.

If SIGKILL kills this process meanwhile (a millisecond), the other process goes on with
the wrong registers.
"""

import contextlib
import ctypes
import os
import platform
import signal
import struct
import time
from collections.abc import Iterator

from extmeta.captures import procfs

# include/uapi/linux/ptrace.h (Linux v6.12)
_GETREGS, _SETREGS, _CONT, _DETACH, _SYSCALL = 12, 13, 7, 17, 24
_SEIZE, _INTERRUPT, _GETSIGMASK, _SETSIGMASK = 0x4206, 0x4207, 0x420A, 0x420B
_GET_RSEQ = 0x420F
_O_TRACESYSGOOD, _O_SUSPEND_SECCOMP = 1, 1 << 21
_EVENT_STOP = 128
_SYSCALL_STOP = signal.SIGTRAP | 0x80
_WALL = 0x40000000

ALL_SIGNALS = (1 << 64) - 1

# struct user_regs_struct of arch/x86/include/asm/user_64.h (Linux v6.12), by place.
_REGS = struct.Struct("=27Q")
_RAX, _ORIG_RAX, _RIP = 10, 15, 16
_ARGUMENTS = (14, 13, 12, 7, 9, 8)  # rdi rsi rdx r10 r8 r9
_NO_SYSCALL = ALL_SIGNALS  # -1 in orig_rax: nothing to restart

_INSTRUCTION = b"\x0f\x05"
# struct rseq_cs: version and flags, start_ip, post_commit_offset, abort_ip.
_RSEQ_CS = struct.Struct("=8x3Q")
_RSEQ_CS_AT = 8  # in struct rseq

_EHDR_CLASS = 4
_ELFCLASS32 = 1

# How long a thread may take to stop. In an uninterruptible sleep it does not stop.
STOP_SECONDS = 5.0
POLL_SECONDS = 0.0005
# How many threads are tried, if they end before they stop.
TRIES = 8

_MAX_ERRNO = 4095
_MMAP, _MUNMAP = 9, 11
_PAGE_BYTES = 4096


class InjectError(Exception):
    """The process can't be made to execute system calls; the message is one line."""


class GoneError(InjectError):
    """The process has ended."""


_libc = ctypes.CDLL(None, use_errno=True)
_libc.ptrace.restype = ctypes.c_long
_libc.ptrace.argtypes = (ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p)


def _ptrace(request: int, tid: int, addr: int = 0, data: object = 0) -> int:
    ctypes.set_errno(0)
    done = int(_libc.ptrace(request, tid, addr, data))
    if done == -1 and (error := ctypes.get_errno()):
        raise OSError(error, os.strerror(error))
    return done


def refusal(pid: int) -> str:
    """Return why a process can't be made to execute system calls, or ""."""
    if platform.machine() != "x86_64":
        return f"system calls can't be injected on {platform.machine()}, only on x86_64"
    try:
        with open(procfs.open_file(procfs.living(pid), "exe"), "rb") as file:
            head = file.read(_EHDR_CLASS + 1)
    except (OSError, procfs.GoneError):
        return ""  # an unreadable binary is ptrace's to refuse
    if head[_EHDR_CLASS:] == bytes([_ELFCLASS32]):
        return f"process {pid} is a 32-bit one"
    return ""


class Thread:
    """A stopped thread of another process; see `stopped`."""

    def __init__(self, pid: int, tid: int) -> None:
        self.pid = pid
        self.tid = tid
        self._memory = -1
        self._instruction = 0

    def read(self, address: int, size: int) -> bytes:
        """Return bytes of the process's memory."""
        return os.pread(self._memory, size, address)

    def write(self, address: int, data: bytes) -> None:
        """Write to the process's memory."""
        os.pwrite(self._memory, data, address)

    def call(self, number: int, *arguments: int) -> int:
        """Execute a system call; return its result.

        Raises
        ------
        OSError
            If it failed, with its errno.
        GoneError
            If the process ended.
        """
        regs = list(self._regs)
        for place, value in zip(_ARGUMENTS, arguments, strict=False):
            regs[place] = value % (1 << 64)
        regs[_RAX], regs[_ORIG_RAX] = number, _NO_SYSCALL
        regs[_RIP] = self._instruction
        self._set_regs(tuple(regs))
        for _stop in ("entry", "exit"):
            self._ptrace(_SYSCALL)
            self._wait(_SYSCALL_STOP, _SYSCALL)
        result = int(ctypes.c_int64(self._get_regs()[_RAX]).value)
        if -_MAX_ERRNO <= result < 0:
            raise OSError(-result, os.strerror(-result))
        return result

    @contextlib.contextmanager
    def scratch(self) -> Iterator[int]:
        """Map a page in the process for a block; yield its address."""
        # PROT_READ|PROT_WRITE, MAP_PRIVATE|MAP_ANONYMOUS. Not on the stack, below which
        # another thread's memory may be.
        where = self.call(_MMAP, 0, _PAGE_BYTES, 3, 0x22, -1, 0)
        try:
            yield where
        finally:
            self.call(_MUNMAP, where, _PAGE_BYTES)

    # -- stop and continue -----------------------------------------------------------

    def _ptrace(self, request: int, addr: int = 0, data: object = 0) -> int:
        try:
            return _ptrace(request, self.tid, addr, data)
        except ProcessLookupError:
            raise GoneError(f"process {self.pid} has ended") from None

    def _wait(self, wanted: int, again: int) -> None:
        """Wait for the wanted stop; continue from others by ``again``."""
        deadline = time.monotonic() + STOP_SECONDS
        while True:
            try:
                tid, status = os.waitpid(self.tid, os.WNOHANG | _WALL)
            except ChildProcessError:
                raise GoneError(f"process {self.pid} has ended") from None
            if not tid:
                if time.monotonic() > deadline:
                    raise InjectError(
                        f"process {self.pid} does not stop within {STOP_SECONDS:g} s"
                    )
                time.sleep(POLL_SECONDS)
                continue
            if not os.WIFSTOPPED(status):
                raise GoneError(f"process {self.pid} has ended")
            event, number = status >> 16, os.WSTOPSIG(status)
            if (event or number) == wanted:
                return
            # Delivers a pending signal; later ones are blocked soon.
            self._ptrace(again, 0, 0 if event or number == _SYSCALL_STOP else number)

    def _get_regs(self) -> tuple[int, ...]:
        raw = ctypes.create_string_buffer(_REGS.size)
        self._ptrace(_GETREGS, 0, raw)
        return _REGS.unpack(raw.raw)

    def _set_regs(self, regs: tuple[int, ...]) -> None:
        raw = ctypes.create_string_buffer(_REGS.pack(*regs), _REGS.size)
        self._ptrace(_SETREGS, 0, raw)

    def _interrupt(self) -> None:
        self._ptrace(_INTERRUPT)
        self._wait(_EVENT_STOP, _CONT)

    def _attach(self) -> None:
        options = _O_TRACESYSGOOD
        if _number(self.pid, self.tid, b"Seccomp"):
            # Else its filter might kill it for the injected system call.
            options |= _O_SUSPEND_SECCOMP
        try:
            _ptrace(_SEIZE, self.tid, 0, options)
        except PermissionError:
            raise InjectError(_not_permitted(self.pid, self.tid, options)) from None
        except ProcessLookupError:
            raise GoneError(f"process {self.pid} has ended") from None
        except OSError as error:
            raise InjectError(f"process {self.pid}: {error.strerror}") from None
        self._interrupt()
        where = f"{self.pid}/task/{self.tid}"
        self._memory = procfs.open_file(where, "mem", os.O_RDWR)
        while self._in_rseq():
            # New registers would prevent the restart of its sequence.
            self._ptrace(_CONT)
            time.sleep(POLL_SECONDS)
            self._interrupt()
        self._regs = self._get_regs()
        self._mask = ctypes.c_uint64()
        self._ptrace(_GETSIGMASK, 8, ctypes.byref(self._mask))
        self._instruction = self._find()
        self._ptrace(_SETSIGMASK, 8, ctypes.byref(ctypes.c_uint64(ALL_SIGNALS)))

    def _in_rseq(self) -> bool:
        """Tell whether the thread is in a restartable sequence (rseq(2))."""
        raw = ctypes.create_string_buffer(24)
        try:
            if self._ptrace(_GET_RSEQ, len(raw), raw) <= 0:
                return False
        except OSError:  # before Linux 5.13
            return False
        (where,) = struct.unpack_from("=Q", raw)
        if not where:
            return False
        (section,) = struct.unpack("=Q", self.read(where + _RSEQ_CS_AT, 8))
        if not section:
            return False
        start, length, _abort = _RSEQ_CS.unpack(self.read(section, _RSEQ_CS.size))
        return bool(start <= self._get_regs()[_RIP] < start + length)

    def _find(self) -> int:
        """Return the address of a ``syscall`` instruction, mostly in the vDSO."""
        rows = procfs.vma_rows(procfs.slurp(f"{self.pid}/task/{self.tid}", "maps"))
        for first, end, perms, _inode, _name in sorted(
            rows, key=lambda row: row[-1] != b"[vdso]"
        ):
            start = int(first, 16)
            with contextlib.suppress(OSError):
                code = self.read(start, int(end, 16) - start) if b"x" in perms else b""
                if (at := code.find(_INSTRUCTION)) >= 0:
                    return start + at
        raise InjectError(f"process {self.pid} has no syscall instruction")

    def _let_go(self) -> None:
        # Stop it where signals are handled. Only from there the kernel restarts an
        # interrupted system call.
        self._ptrace(_INTERRUPT)
        self._ptrace(_CONT)
        self._wait(_EVENT_STOP, _CONT)
        self._set_regs(self._regs)
        self._ptrace(_SETSIGMASK, 8, ctypes.byref(self._mask))

    def _close(self) -> None:
        if self._memory >= 0:
            os.close(self._memory)
        with contextlib.suppress(OSError, InjectError):
            self._ptrace(_DETACH)


def _number(pid: int, tid: int, key: bytes) -> int:
    """Return a number in a thread's status; 0 if it is absent."""
    try:
        return int(procfs.status_lines(f"{pid}/task/{tid}").get(key, b"0"))
    except (FileNotFoundError, ProcessLookupError):
        raise GoneError(f"process {pid} has ended") from None


def _not_permitted(pid: int, tid: int, options: int) -> str:
    if tracer := _number(pid, tid, b"TracerPid"):
        return f"process {pid} is traced already, by process {tracer}"
    if options & _O_SUSPEND_SECCOMP:
        return f"process {pid} has a seccomp filter, which only root may suspend"
    return (
        f"process {pid} may not be traced by this user: it is another's, or "
        "kernel.yama.ptrace_scope forbids it"
    )


def _attached(pid: int) -> Thread:
    """Return a stopped thread of a process."""
    for _try in range(TRIES):
        try:
            thread = Thread(pid, procfs.threads(pid)[0][0])
        except (OSError, IndexError):
            break
        try:
            thread._attach()
            return thread
        except (GoneError, procfs.GoneError, FileNotFoundError, ProcessLookupError):
            thread._close()  # it has ended; try another one
        except BaseException:
            thread._close()
            raise
    raise GoneError(f"process {pid} has ended")


@contextlib.contextmanager
def stopped(pid: int) -> Iterator[Thread]:
    """Stop one thread of a process, to execute system calls in it; yield the Thread.

    Raises
    ------
    InjectError
        Without permission, for a 32-bit process, or if it does not stop.
    GoneError
        If it has ended.
    """
    if why := refusal(pid):
        raise InjectError(why)
    # A signal's exception here would leave the thread with the wrong registers.
    held = signal.pthread_sigmask(
        signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
    )
    try:
        thread = _attached(pid)
        try:
            try:
                yield thread
            finally:
                with contextlib.suppress(GoneError):
                    thread._let_go()
        finally:
            thread._close()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, held)
