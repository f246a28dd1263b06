"""`extmeta sweep`: RAM and instructions over many captures, as Parquet files."""

import argparse
import os
import re
import signal
from collections.abc import Sequence

from extmeta.arch import arch_named
from extmeta.captures.capture import shipped
from extmeta.commands import output
from extmeta.commands.arguments import (
    DEFAULT_FIELDS,
    above_0_of,
    add_seed,
    arches_of,
    count_of,
    fields_of,
    forms_of,
    fractions_of,
    list_of,
    one_of,
    path_of,
    placements_of,
    refusing,
)
from extmeta.commands.output import BadInputError, CannotWriteError, progress, say, tell
from extmeta.cost import forms, instructions, placement
from extmeta.cost.space import DEFAULT_ARCH
from extmeta.encodings import encodings
from extmeta.fleet import job, measure, sources
from extmeta.fleet import run as fleet
from extmeta.reports.layout import plain

DEFAULT_FRACTIONS = (0.0, 0.01, 0.1, 0.5, 1.0)
DEFAULT_PLACEMENTS = ("random",)

# Bad captures that are listed; the rest are counted.
LISTED = 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what `sweep` takes."""
    parser.epilog = (
        "Examples: extmeta sweep captures/ -o results; extmeta sweep s3://fleet/today "
        "-o results --shard 2/8. A sweep that was interrupted goes on if the same "
        "command is given again. A folder of captures is taken for a machine."
    )
    add = parser.add_argument
    add(
        "what",
        nargs="+",
        type=refusing(path_of),
        metavar="FILE|DIR|TAR|URL",
        help="capture files; directories, tars or fsspec URLs (s3://, gs://, ...), in "
        f"which each file *{sources.SUFFIX} is a capture; or a shipped capture's name",
    )
    add(
        "-o",
        "--output",
        type=refusing(path_of),
        required=True,
        metavar="DIR",
        help="directory of the results, which is made if need be",
    )
    add(
        "--encodings",
        type=refusing(forms_of),
        metavar="A,B",
        help=f"default: {','.join(encodings())}",
    )
    add(
        "--fields",
        type=refusing(fields_of),
        action="append",
        metavar="NAME=BITS,...",
        help="fields of a word and their widths; may be given several times; default: "
        f"{DEFAULT_FIELDS}",
    )
    add(
        "--arch",
        type=refusing(arches_of),
        metavar="NAME|all",
        help="build the page tables of that architecture; default: each capture's",
    )
    add(
        "--fractions",
        type=refusing(fractions_of),
        default=list(DEFAULT_FRACTIONS),
        metavar="0,0.01,...",
        help="which fractions of the PTEs have a word; default: "
        f"{','.join(f'{f:g}' for f in DEFAULT_FRACTIONS)}",
    )
    add(
        "--placement",
        type=refusing(placements_of),
        default=list(DEFAULT_PLACEMENTS),
        metavar="random,...",
        help=f"how they lie: {', '.join(placement.PLACEMENTS)}; default: random",
    )
    add(
        "--words",
        choices=placement.WORDS,
        default="different",
        help="how the words differ from each other; default: %(default)s",
    )
    add_seed(parser)
    add(
        "--ram-only",
        action="store_true",
        help="estimate no instructions, for which valgrind counts for some minutes once",
    )
    add(
        "--drop",
        type=refusing(list_of(one_of("thing to drop", job.DROPPED))),
        default=[],
        metavar=",".join(job.DROPPED),
        help="pfns: don't use page frame numbers; names: write no name of a machine, "
        "file, process or kernel, nor a digest of a capture",
    )
    add(
        "--workers",
        type=refusing(above_0_of(count_of)),
        default=len(os.sched_getaffinity(0)),
        metavar="N",
        help="processes of this machine; default: one for each processor",
    )
    add(
        "--scheduler",
        type=refusing(scheduler_of),
        metavar="ADDRESS",
        help="measure on the workers of a dask.distributed scheduler, which must see "
        "the captures and DIR; needs the extra `fleet`",
    )
    add(
        "--shard",
        type=refusing(shard_of),
        default=(1, 1),
        metavar="I/N",
        help="do the I-th of N shares, for batch systems; all shards share DIR",
    )


def scheduler_of(text: str) -> str:
    """Return an address that a scheduler can have."""
    found = re.fullmatch(r"[a-z]+://.+:([0-9]{1,5})", text)
    if not found or not 0 < int(found[1]) < 1 << 16:
        raise ValueError(f"{text!r} is no address as tcp://HOST:PORT")
    return text


def shard_of(text: str) -> tuple[int, int]:
    """Return the two numbers of "I/N"."""
    found = re.fullmatch(r"([0-9]+)/([0-9]+)", text)
    if not found or not 1 <= int(found[1]) <= int(found[2]):
        raise ValueError(f"{text!r} is not I/N with I from 1 to N")
    return int(found[1]), int(found[2])


def run(args: argparse.Namespace) -> int:
    """Measure RAM exactly, and estimate instructions, over many captures."""
    given = _sources(args.what)
    wanted = job.Job(
        arches=tuple(args.arch or [job.OWN]),
        fields=tuple(
            job.fields_text(fields)
            for fields in args.fields or [fields_of(DEFAULT_FIELDS)]
        ),
        forms=tuple(args.encodings or encodings()),
        fractions=tuple(args.fractions),
        placements=tuple(args.placement),
        words=args.words,
        seed=args.seed,
        drop=tuple(sorted(args.drop)),
        instructions=not args.ram_only,
    )
    _refuse_hopeless(wanted)
    if job.NAMES in wanted.drop:
        given = sources.nameless(given)
    try:
        job.begin(wanted, args.output, given)
    except ValueError as error:
        raise BadInputError(str(error)) from None
    except OSError as error:
        raise CannotWriteError(f"{args.output}: {error.strerror}") from None
    shard, of = args.shard
    every = job.parts(wanted, args.output, given)
    mine = [part for part in every if part.number % of == shard - 1]
    with output.Stop() as stop:
        try:
            _measure(args, wanted, mine)
        except KeyboardInterrupt:
            tell("extmeta sweep: interrupted; the same command goes on")
            return 128 + (stop.signal or signal.SIGINT)
    return _told(args, mine)


def _sources(what: Sequence[str]) -> list[sources.Source]:
    """Return the captures of all arguments, in order."""
    found = []
    for given in what:
        if given in shipped() and not os.path.exists(given):
            path = os.fsdecode(shipped()[given])
            found += [each._replace(name=given) for each in sources.sources(path)]
            continue
        try:
            found += sources.sources(given)
        except OSError as error:
            why = error.strerror or str(error)
            raise BadInputError(f"{given}: {plain(why)}") from None
        except (ImportError, ValueError) as error:
            raise BadInputError(f"{given}: {plain(str(error))}") from None
    if not found:
        raise BadInputError(
            f"{what[0]}: there is no capture, no file *{sources.SUFFIX}"
        )
    try:
        return sources.unique(found)
    except ValueError as error:
        raise BadInputError(str(error)) from None


def _refuse_hopeless(wanted: job.Job) -> None:
    """Refuse fields of which an architecture can hold none; and missing programs."""
    for name in wanted.arches:
        arch = arch_named(DEFAULT_ARCH if name == job.OWN else name)
        for text in wanted.fields:
            try:
                forms.fitting(job.fields_in(text), arch, has_swap=False)
            except ValueError as error:
                raise BadInputError(str(error)) from None
    try:
        import pyarrow  # noqa: F401
    except ImportError:
        raise BadInputError("results are Parquet files: pip install pyarrow") from None
    if wanted.instructions and (why := instructions.missing()):
        raise BadInputError(f"{why}; or --ram-only")


def _measure(
    args: argparse.Namespace, wanted: job.Job, mine: Sequence[job.Part]
) -> None:
    left = fleet.missing_parts(mine)
    with progress() as shown:
        nr_captures = sum(len(part.sources) for part in mine)
        finished = nr_captures - sum(len(part.sources) for part in left)

        def done(captures: int) -> None:
            nonlocal finished
            finished += captures
            shown(finished, nr_captures, "captures of the sweep")

        if wanted.instructions and left:
            shown(0, 1, "instructions, which valgrind counts once, for minutes")
            try:
                measure.count_costs(wanted, args.output, args.workers)
            except ValueError as error:
                why = f"instructions can't be counted: {error}; or --ram-only"
                raise BadInputError(why) from None
        done(0)
        given = (wanted, args.output, left)
        try:
            if args.scheduler:
                fleet.by_dask(*given, args.scheduler, done)
            else:
                fleet.locally(*given, args.workers, done)
        except (measure.WriteError, fleet.LostError) as error:
            raise CannotWriteError(str(error)) from None
        except ImportError as error:
            raise BadInputError(f"--scheduler: {error}") from None
        except OSError as error:
            raise CannotWriteError(
                f"{args.scheduler or args.output}: {error}"
            ) from None


def _told(args: argparse.Namespace, mine: Sequence[job.Part]) -> int:
    """Say what was done, and list the captures that could not be read."""
    bad = dict(found for part in mine for found in measure.bad_of(part.path))
    names = {source.name for part in mine for source in part.sources}
    for name, why in list(bad.items())[:LISTED]:
        tell(
            f"extmeta sweep: skipped: {plain(why if name in why else f'{name}: {why}')}"
        )
    if len(bad) > LISTED:
        tell(f"extmeta sweep: skipped: {len(bad) - LISTED:,} more")
    done, files = len(names) - len(bad), len(mine)
    say(
        f"{args.output}: {done:,} capture{'s' * (done != 1)} in "
        f"{files:,} file{'s' * (files != 1)}, {len(bad):,} skipped"
    )
    return 0
