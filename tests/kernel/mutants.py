"""Bugs planted in the model, each of which the oracle must find.

    python tests/kernel/mutants.py            on this kernel
    python tests/kernel/mutants.py --guest    those about soft-dirty, in the guest
    python tests/kernel/mutants.py --only UFFDIO_MOVE

The kernel runs the programs once; each mutant, a copy of the package with one piece
of text replaced, is held against its answers. Exit 1 if one survives.
"""

import argparse
import itertools
import os
import pickle
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import native
from answers import Kernel, run_guest, run_native
from directed import DIRECTED
from oracle import mismatches
from programs import Program, random_programs

import extmeta

SEED = 20


@dataclass(frozen=True)
class Mutant:
    """A bug: in a file of ``src/extmeta/linux`` one text stands for another."""

    name: str
    file: str
    sound: str
    planted: str


NATIVE = (
    Mutant(
        "fork keeps protection that nobody tracks",
        "fork.py",
        "            child.disown(vma.start, vma.stop)",
        "            pass",
    ),
    Mutant(
        "mremap keeps protection without EVENT_REMAP",
        "move.py",
        "        mm.disown(dst, dst + count)",
        "        pass",
    ),
    Mutant(
        "a shared page given back leaves no marker",
        "mm.py",
        'self.has("uffd_wp", entries.vpn) if vma.wp else marked',
        "marked & False",
    ),
    Mutant(
        "an anonymous page in swap loses its protection",
        "reclaim.py",
        "    mm.physical.swap_out(entries.value, slots)",
        "    mm.physical.swap_out(entries.value, slots)\n"
        "    mm.change_words(entries.vpn, mm.uffd_wp)",
    ),
    Mutant(
        "protecting makes no markers",
        "protect.py",
        "            mm.mark(mm.absent(first, stop))",
        "            pass",
    ),
    Mutant(
        "resolving leaves markers",
        "protect.py",
        "    mm.clear_markers(mm.entries(first, stop))",
        "",
    ),
    Mutant(
        "unregistering leaves protection",
        "protect.py",
        "            change(mm, vma, low, high, on=False)",
        "            pass",
    ),
    Mutant(
        "a write does not resolve asynchronously",
        "faults.py",
        "mm.uffd_wp if vma.wp else 0, mm.soft_dirty",
        "0, mm.soft_dirty",
    ),
    Mutant(
        "a page read where its marker was is not protected",
        "faults.py",
        "        mm.change_words(kept, 0, mm.uffd_wp)",
        "        pass",
    ),
    Mutant(
        "copy on write takes a shared page for its own",
        "faults.py",
        "    shared = physical.shared(entries.value) |",
        "    shared = np.zeros(len(entries.value), np.bool_) |",
    ),
    Mutant(
        "a scan protects what does not match",
        "scan.py",
        "            matching = regions.wants_output",
        "            matching = False",
    ),
    Mutant(
        "COLD and FREE of a part leave a huge page whole",
        "reclaim.py",
        "            # The page itself is split too.\n"
        "            mm.split_leaf(base, frozen=True)",
        "            pass",
    ),
    Mutant(
        "PAGEOUT of a huge page freed lazily takes its table",
        "reclaim.py",
        "            mm.drop(mm.entries(base, base + mm.pages_per_leaf))",
        "            mm.drop(mm.entries(base, base + mm.pages_per_leaf))\n"
        "            mm.tables.discard(base)",
    ),
    Mutant(
        "a huge page counts as shared by page, not by process",
        "mm.py",
        "        return total > int((heads == head).sum())",
        "        return False",
    ),
    Mutant(
        "a page of a shared huge page is reused",
        "faults.py",
        "            shared |= unsure",
        "            pass",
    ),
    Mutant(
        "a read past the end maps nothing around it",
        "faults.py",
        "            _map_around(mm, vma, reach)",
        "            pass",
    ),
    Mutant(
        "COLLAPSE inside a huge page succeeds",
        "huge.py",
        "    failed = errno.EINVAL if end < start else 0",
        "    failed = 0",
    ),
    Mutant(
        "FREE marks no page",
        "reclaim.py",
        "    mm.free_lazily(mm.pages(first, stop).value)",
        "    pass",
    ),
    Mutant(
        "a write leaves a page freed",
        "faults.py",
        "    mm.keep(pfns)",
        "    pass",
    ),
    Mutant(
        "DONTFORK is copied",
        "fork.py",
        "        if not vma.copied:",
        "        if False:",
    ),
    Mutant(
        "WIPEONFORK keeps the pages",
        "fork.py",
        "        if vma.wiped or (",
        "        if (",
    ),
    Mutant(
        "UFFDIO_COPY_MODE_WP protects nothing",
        "fill.py",
        "(mm.uffd_wp if protect else 0)",
        "0",
    ),
    Mutant(
        "UFFDIO_ZEROPAGE replaces a marker",
        "fill.py",
        "    if vma.shared or not zeros:\n        held",
        "    if True:\n        held",
    ),
    Mutant(
        "UFFDIO_COPY does not replace a marker",
        "fill.py",
        "held = entries.present | (entries.value != mm.marker)",
        "pass",
    ),
    Mutant(
        "UFFDIO_COPY does not look into the backing",
        "fill.py",
        "vpns[vma.backing.has(pages_of(vma, vpns))][:1].tolist()",
        "[]",
    ),
    Mutant(
        "UFFDIO_COPY does not look for huge pages",
        "fill.py",
        "mm.leaves_within(first, stop)[:1]",
        "()",
    ),
    Mutant(
        "UFFDIO_ZEROPAGE brings a page of its own",
        "fill.py",
        "    elif zeros:\n",
        "    elif zeros is None:\n",
    ),
    Mutant(
        "UFFDIO_COPY does all or nothing",
        "fill.py",
        "        return min(taken), errno.EEXIST",
        "        return first, errno.EEXIST",
    ),
    Mutant(
        "UFFDIO_COPY gives no anon_vma",
        "fill.py",
        "        mm.vmas.prepare_anon(vma)",
        "        pass",
    ),
    Mutant(
        "UFFDIO_MOVE keeps protection",
        "uffd_move.py",
        "    mm.change_words(vpns[entries.present], mm.uffd_wp)\n",
        "",
    ),
    Mutant(
        "UFFDIO_MOVE takes protection off swap entries",
        "uffd_move.py",
        "vpns[entries.present], mm.uffd_wp)",
        "vpns, mm.uffd_wp)",
    ),
    Mutant(
        "UFFDIO_MOVE moves what was shared",
        "uffd_move.py",
        " & ~mm.physical.exclusive(pages)",
        " & False",
    ),
    Mutant(
        "UFFDIO_MOVE moves swap entries that were shared",
        "uffd_move.py",
        "~mm.physical.exclusive_slots(slots) |",
        "False |",
    ),
    Mutant(
        "UFFDIO_MOVE takes every hole",
        "uffd_move.py",
        "0 if holes else errno.ENOENT)",
        "0)",
    ),
    Mutant(
        "UFFDIO_MOVE makes no tables",
        "uffd_move.py",
        "    mm.tables |= {base, to_base}\n",
        "",
    ),
    Mutant(
        "UFFDIO_MOVE splits every huge page",
        "uffd_move.py",
        "count < size or dst in mm.tables:",
        "count or dst in mm.tables:",
    ),
    Mutant(
        "a marker is no missing page",
        "faults.py",
        "    vpns = np.union1d(absent, entries.vpn[marked])",
        "    vpns = absent",
    ),
    Mutant(
        "a missing fault makes no table",
        "faults.py",
        "        mm.tables.add(mm.leaf_of(vpn))\n",
        "        pass\n",
    ),
    Mutant(
        "a missing fault gives no anon_vma",
        "faults.py",
        "if not vma.shared and (write or huge):",
        "if False:",
    ),
    Mutant(
        "a missing page of a hole is brought by shared memory",
        "faults.py",
        "        vpns = vpns[~vma.backing.has(pages_of(vma, vpns))]",
        "        vpns = vpns[:0]",
    ),
    Mutant(
        "a mode registered again is added",
        "protect.py",
        "uffd=uffd, mode=mode)",
        "uffd=uffd, mode=mode | vma.mode)",
    ),
    Mutant(
        "munmap tells nobody",
        "mm.py",
        '            self.note(vma, "UNMAP", first, stop)',
        "            pass",
    ),
    Mutant(
        "DONTNEED tells nobody",
        "reclaim.py",
        'brings new ones."""\n    mm.tell_now(vma, "REMOVE", first, stop)',
        'brings new ones."""',
    ),
    Mutant(
        "mremap tells nobody",
        "move.py",
        '    mm.note(new_vma, "REMAP", src, src + told, dst)\n',
        "",
    ),
)
GUEST = (
    Mutant(
        "mremap does not set soft-dirty",
        "move.py",
        "    mm.change_words(forced + np.uint64(delta % 2**64), 0, mm.soft_dirty)\n",
        "",
    ),
    Mutant(
        "clear_refs leaves a VMA soft-dirty",
        "protect.py",
        "        vma.soft_dirty = False",
        "        pass",
    ),
    Mutant(
        "a huge page that is split sets no soft-dirty",
        "mm.py",
        "word |= self.settable(base, self.soft_dirty)",
        "pass",
    ),
    Mutant(
        "fork drops soft-dirty",
        "fork.py",
        "            child.disown(vma.start, vma.stop)",
        "            child.disown(vma.start, vma.stop)\n"
        "            child.change_words(\n"
        "                slice(vma.start, vma.stop), child.soft_dirty)",
    ),
    Mutant(
        "UFFDIO_MOVE does not set soft-dirty",
        "uffd_move.py",
        "    mm.change_words(vpns[~zero], 0, mm.soft_dirty)\n",
        "",
    ),
    Mutant(
        "UFFDIO_MOVE keeps soft-dirty of the page of zeros",
        "uffd_move.py",
        "vpns[zero], mm.uffd_wp | mm.soft_dirty",
        "vpns[zero], mm.uffd_wp",
    ),
    Mutant(
        "UFFDIO_ZEROPAGE sets soft-dirty",
        "fill.py",
        "    if vma.shared or not zeros:\n        # pte",
        "    if True:\n        # pte",
    ),
)


@contextmanager
def planted(mutant: Mutant) -> Iterator[Path]:
    """Make a copy of the package with the bug; yield the directory it is in."""
    package = Path(extmeta.__file__).parent
    with tempfile.TemporaryDirectory(prefix="extmeta-mutant-") as directory:
        copy = Path(directory) / "extmeta"
        shutil.copytree(package, copy, ignore=shutil.ignore_patterns("*.c", "*.pyc"))
        path = copy / "linux" / mutant.file
        text = path.read_text()
        if text.count(mutant.sound) != 1:
            raise ValueError(
                f"{mutant.name}: {mutant.file} has {mutant.sound!r} "
                f"{text.count(mutant.sound)} times"
            )
        path.write_text(text.replace(mutant.sound, mutant.planted))
        yield Path(directory)


def save(path: Path, programs: list[Program], kernel: Kernel, answers: list) -> Path:
    """Keep what the kernel did for the mutants, which run on their own."""
    path.write_bytes(pickle.dumps((programs, kernel, answers)))
    return path


def hunt(mutant: Mutant, answered: Path, encoding: str = "adaptive") -> str:
    """Return the first mismatch of a mutant, or '' if it survives."""
    with planted(mutant) as directory:
        done = subprocess.run(
            [sys.executable, __file__, "--answered", answered, "--encoding", encoding],
            env={**os.environ, "PYTHONPATH": str(directory)},
            capture_output=True,
            text=True,
            check=True,
        )
    return done.stdout.strip()


def main(argv: Sequence[str] | None = None) -> int:
    """Hunt all mutants; 0 if none survives, 1 if one does, 2 if it can't."""
    parser = argparse.ArgumentParser(description="Bugs that the oracle must find.")
    parser.add_argument("--guest", action="store_true", help="in the qemu guest")
    parser.add_argument("--programs", type=int, default=1000, metavar="N")
    parser.add_argument("--encoding", default="adaptive")
    parser.add_argument("--only", default="", help="those with this in their name")
    parser.add_argument("--answered", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.answered:
        saved = pickle.loads(args.answered.read_bytes())
        for _, found in mismatches(*saved, args.encoding):
            print(found)
            break
        return 0
    chosen = [m for m in (GUEST if args.guest else NATIVE) if args.only in m.name]
    if not chosen:
        parser.error(f"--only {args.only}: no mutant has this in its name")
    programs = [*DIRECTED, *itertools.islice(random_programs(SEED), args.programs)]
    with nullcontext() if args.guest else native.swap() as no_swap:
        if no_swap:
            print(f"mutants: no swap: {no_swap}", file=sys.stderr)
            return 2
        try:
            kernel, answers = (run_guest if args.guest else run_native)(programs)
        except (native.Missing, native.DriverError) as reason:
            print(f"mutants: {reason}", file=sys.stderr)
            return 2
    # What the sound model does not agree with would find every bug.
    wrong = {one for one, _ in mismatches(programs, kernel, answers, args.encoding)}
    if wrong:
        print(f"mutants: {len(wrong)} programs left out", file=sys.stderr)
    kept = [i for i, program in enumerate(programs) if program not in wrong]
    programs, answers = [programs[i] for i in kept], [answers[i] for i in kept]
    survivors = 0
    with tempfile.TemporaryDirectory(prefix="extmeta-mutants-") as directory:
        answered = save(Path(directory) / "answers", programs, kernel, answers)
        for mutant in chosen:
            found = hunt(mutant, answered, args.encoding)
            survivors += not found
            print(f"{mutant.name}: {found or 'SURVIVES'}", flush=True)
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main())
