"""`extmeta capture`: write page tables of processes, or read from files, to files."""

import argparse
import os
from pathlib import Path

from extmeta.captures.capture import Capture, CaptureError
from extmeta.captures.collect import collect
from extmeta.captures.read import FORMATS, read, read_writes
from extmeta.commands import output
from extmeta.commands.arguments import (
    above_0_of,
    fraction_of,
    path_of,
    pid_of,
    refusing,
    seconds_of,
)
from extmeta.commands.inputs import capture_of, captured, loaded
from extmeta.commands.output import (
    STANDARD,
    BadInputError,
    CannotWriteError,
    bad_input,
    must_be_writable,
    progress,
    saved,
    say,
    tell,
)
from extmeta.reports.figures import size
from extmeta.reports.layout import plain

# The share of one processor that --all uses: a machine of 16 has 0.6 % less.
CPU_SHARE = 0.1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what `capture` takes."""
    parser.epilog = (
        "Examples: extmeta capture $(pidof redis-server) -o redis.npz; "
        "extmeta capture --from pagemap-1234.img -o 1234.npz; "
        "extmeta capture --all --cpu 0.05 -o machine/"
    )
    add = parser.add_argument
    add(
        "pid",
        nargs="?",
        type=refusing(pid_of),
        metavar="PID",
        help="id of the process; with --from, of a process in a dump of a kernel's "
        "memory",
    )
    formats = "; ".join(form.NAME for form in FORMATS)
    add(
        "--from",
        dest="files",
        nargs="+",
        type=refusing(path_of),
        metavar="FILE",
        help="read files or directories of other programs instead of a process, each "
        f"found by its content: {formats}",
    )
    add(
        "--vmlinux",
        type=refusing(path_of),
        metavar="FILE",
        help="with --from: the debug information of the kernel whose memory was dumped; "
        "default: where distributions put it",
    )
    add(
        "--writes",
        type=refusing(above_0_of(seconds_of)),
        metavar="S",
        help="with --from: the files are dirty bitmaps of one slot, or one migration "
        "stream of QEMU; bitmaps or passes are S seconds apart; or one record of damo, "
        "which tells that itself; write a trace of them, for `compare --trace`",
    )
    add(
        "--all",
        action="store_true",
        help="capture every process that may be read, each to a file of the directory "
        "FILE; those that have one are not read again",
    )
    add(
        "--cpu",
        type=refusing(above_0_of(fraction_of)),
        metavar="SHARE",
        help="with --all: the share of one processor to use on average; default: "
        f"{CPU_SHARE:g}",
    )
    add(
        "--seconds",
        type=refusing(above_0_of(seconds_of)),
        metavar="S",
        help="with --all: begin no process after S seconds; the next call goes on",
    )
    add(
        "-o",
        "--output",
        type=refusing(path_of),
        required=True,
        metavar="FILE",
        help="file to write, always in numpy's .npz format; - is stdout; a directory "
        "for --all, and for --from with several files",
    )
    add("--pfns", action="store_true", help="keep page frame numbers (needs root)")
    add(
        "--stop",
        action="store_true",
        help="stop the process by SIGSTOP while it is read, so that nothing changes",
    )
    add("--force", action="store_true", help="replace FILE if it is there")


def run(args: argparse.Namespace) -> int:
    """Write page tables, of a process or from files of other programs, to a file."""
    if bool(args.pid or args.files) == args.all:
        raise BadInputError("PID, --from FILE or --all: one of them is needed")
    for option in ("cpu", "seconds"):
        if getattr(args, option) is not None and not args.all:
            raise BadInputError(
                f"--{option} {getattr(args, option):g}: only with --all"
            )
    if args.writes and not args.files:
        raise BadInputError(f"--writes {args.writes:g}: only with --from")
    if args.vmlinux and not args.files:
        raise BadInputError(f"--vmlinux {args.vmlinux}: only with --from")
    if args.stop and (args.files or not args.pid):
        raise BadInputError("--stop: only with PID of a running process")
    if args.all:
        return _all(args)
    if args.files:
        return _from_files(args)
    must_be_writable(args.output, args.force)
    # A signal must not leave the process stopped.
    with output.Stop():
        found = captured(args.pid, args.stop)
    _save(args, found, args.output)
    if not found.settled:
        tell(
            f"extmeta capture: process {args.pid} changed while it was read; "
            "--stop holds it"
        )
    return 0


def _all(args: argparse.Namespace) -> int:
    if args.output == STANDARD:
        raise BadInputError("-: --all needs a directory")
    try:
        os.makedirs(args.output, exist_ok=True)
    except OSError as error:
        raise BadInputError(f"{args.output}: {error.strerror}") from None
    with progress() as shown:

        def read(done: int, total: int) -> None:
            shown(done, total, "processes")

        try:
            done = collect(
                args.output,
                cpu=args.cpu or CPU_SHARE,
                seconds=args.seconds or float("inf"),
                pfns=args.pfns,
                progress=read,
            )
        except OSError as error:
            raise CannotWriteError(f"{args.output}: {error.strerror}") from None
    say(f"{args.output}: {done.new:,} new captures, {size(done.nbytes)}")
    for count, what in (
        (done.there, "were there"),
        (done.unsettled, "of the new ones changed while they were read"),
        (done.left, "processes are left for another call"),
        *((count, f"not captured: {why}") for why, count in done.refused.items()),
    ):
        if count:
            say(f"{count:>7,} {plain(what)}")
    return 0


def _from_files(args: argparse.Namespace) -> int:
    if args.pid and (args.writes or len(args.files) > 1):
        raise BadInputError(f"{args.pid}: only with one file, a dump of memory")
    if args.writes:
        must_be_writable(args.output, args.force)
        try:
            with bad_input(CaptureError):
                trace = read_writes(args.files, args.writes)
        except OSError as error:
            raise BadInputError(f"{error.filename}: {error.strerror}") from None
        output.save(args.output, trace.save)
        saved(args, trace)
        return 0
    if len(args.files) == 1 and not os.path.isdir(args.output):
        must_be_writable(args.output, args.force)
        _save(args, _read(args, args.files[0]), args.output)
        return 0
    if not os.path.isdir(args.output):
        raise BadInputError(
            f"{args.output}: {len(args.files)} captures need a directory"
        )
    targets = [Path(args.output, f"{_stem(file)}.npz") for file in args.files]
    for target in targets:
        if targets.count(target) > 1:
            raise BadInputError(f"{target}: two of the captures have this name")
        must_be_writable(str(target), args.force)
    for file, target in zip(args.files, targets, strict=True):
        _save(args, _read(args, file), str(target))
    return 0


def _read(args: argparse.Namespace, file: str) -> Capture:
    if args.pid is None and args.vmlinux is None:
        return capture_of(file)[0]
    return loaded(file, lambda path: read(path, args.pid, args.vmlinux))[0]


def _stem(file: str) -> str:
    """Return the name of a file for the capture that is read from it."""
    return "stdin" if file == STANDARD else Path(os.path.abspath(file)).stem


def _save(args: argparse.Namespace, found: Capture, path: str) -> None:
    output.save(path, lambda path: found.save(path, pfns=args.pfns))
    saved(args, found, path)
