"""Two writers that do all there is to a table while readers take snapshots.

Each writer has half of a range for itself, so it knows what is mapped where. Part of
its pages always have a word: they are stored to, moved and swapped, never unmapped.
The others come and go. `torn.Watch` is the reader.
"""

import threading
from collections.abc import Iterator

import numpy as np
from torn import Watch, words_of

from extmeta.fields import Fields
from extmeta.pagetable import PageTable
from extmeta.table.encoding import Encoding

# Each writer has PTEs that always have a word, room that they move to, and PTEs that
# come and go; several PTE tables of each.
LASTING = COMING = 1536
FIRST = 0x40000
REACH = 2 * LASTING + COMING
# Pages from here on always have a word.
ALWAYS = 1 << 20
# Pairs between two looks at the clock.
ROUND = 100_000


def fields_for(encoding: str | Encoding) -> Fields:
    """Return fields that an encoding can hold, as wide as that goes."""
    try:
        fields = Fields(meta=64)
        PageTable(encoding, fields)
    except ValueError:
        return Fields(meta=6)
    return fields


class Writer:
    """One of the two: changes its half of the range at random."""

    def __init__(self, table: PageTable, which: int, seed: int) -> None:
        self.table = table
        self.rng = np.random.default_rng((seed, which))
        self.first = FIRST + which * REACH
        self.at = self.first
        self.coming = self.first + 2 * LASTING
        self.bits = table.fields.bits
        self.generation = 0
        self.swaps = True
        self.fresh = 1 + which
        start = ALWAYS + which * LASTING
        self.pages = np.arange(start, start + LASTING, dtype=np.uint64)
        vpns = np.arange(self.at, self.at + LASTING, dtype=np.uint64)
        # Before the readers come, as a new PTE has no word.
        table.map(vpns, pfns=self.pages)
        table.store(vpns, self.words(self.pages))

    def words(self, pages: np.ndarray) -> np.ndarray:
        top = (1 << self.bits // 2) - 1
        self.generation = self.generation % top + 1
        return words_of(pages, self.generation, self.bits)

    def some(self, n: int) -> np.ndarray:
        """Return indices: a range, or in no order, few or many."""
        size = int(self.rng.integers(1, n if self.rng.random() < 0.3 else 20))
        if self.rng.random() < 0.5:
            at = int(self.rng.integers(0, n - size + 1))
            return np.arange(at, at + size)
        return self.rng.choice(n, size, replace=False)

    def step(self) -> None:
        turn = self.rng.random()
        if turn < 0.6:
            self.store(self.table)
        elif turn < 0.8:
            self.come_and_go()
        elif turn < 0.9:
            self.swap()
        elif turn < 0.95:
            self.move()
        else:
            child = self.table.fork()
            self.store(child)
            child.unmap(slice(self.coming, self.coming + COMING))

    def store(self, table: PageTable) -> None:
        index = self.some(LASTING)
        vpns = (index + self.at).astype(np.uint64)
        if self.rng.random() < 0.3:
            for vpn, word in zip(vpns[:8], self.words(self.pages[index]), strict=False):
                table.store(int(vpn), int(word))
        else:
            table.store(vpns, self.words(self.pages[index]))

    def come_and_go(self) -> None:
        index = np.sort(self.some(COMING))
        vpns = (index + self.coming).astype(np.uint64)
        # Numbers that come again: another page's word has another checksum.
        pages = (self.fresh + 2 * np.arange(len(vpns))).astype(np.uint64)
        self.fresh = (self.fresh + 2 * len(vpns)) % (ALWAYS // 2)
        self.table.map(vpns, pfns=pages)
        self.table.store(vpns, self.words(pages))
        if self.rng.random() < 0.5:
            self.table.update(vpns, clear=(1 << self.bits) - 1)
        self.table.unmap(slice(self.coming, self.coming + COMING))

    def swap(self) -> None:
        if not self.swaps:
            return
        index = self.some(LASTING)
        vpns = (index + self.at).astype(np.uint64)
        try:
            self.table.swap_out(vpns, self.pages[index])
        except ValueError:
            # This encoding has no place for such a word in a swap entry.
            self.swaps = False
            return
        self.table.store(vpns, self.words(self.pages[index]))
        self.table.swap_in(vpns, self.pages[index])

    def move(self) -> None:
        to = self.first + LASTING if self.at == self.first else self.first
        self.table.move(slice(self.at, self.at + LASTING), to)
        self.at = to


class Stress:
    """A table under two writers, and what readers found in it.

    Parameters
    ----------
    encoding : str or Encoding
    seed : int
    checked : bool, default True
        False: the readers take what they find, and should find what never was.
    readers : int, default 1
    """

    def __init__(
        self,
        encoding: str | Encoding,
        seed: int = 0,
        checked: bool = True,
        readers: int = 1,
    ) -> None:
        self.table = PageTable(encoding, fields_for(encoding))
        self.writers = [Writer(self.table, which, seed) for which in (0, 1)]
        last = FIRST + 2 * REACH
        self.watches = [
            Watch(self.table, FIRST - 8, last + 8, ALWAYS, seed + which)
            for which in range(readers)
        ]
        self.checked = checked
        self.steps = 0
        self.over = threading.Event()
        self.failed: list[BaseException] = []

    @property
    def seen(self) -> int:
        return sum(watch.seen for watch in self.watches)

    @property
    def torn(self) -> int:
        return sum(watch.torn for watch in self.watches)

    def rounds(self, n: int) -> Iterator[int]:
        """Take ``n`` snapshots against the writers; yield how many after each round.

        Counted are the first reader's. Raises whatever a writer failed with.
        """
        workers = [self._write(writer) for writer in self.writers]
        workers += [self._read(watch) for watch in self.watches[1:]]
        for worker in workers:
            worker.start()
        watch = self.watches[0]
        enough = watch.seen + n
        try:
            while watch.seen < enough and not self.failed:
                watch.look(min(ROUND, enough - watch.seen), self.checked)
                yield watch.seen
        finally:
            self.over.set()
            for worker in workers:
                worker.join()
            self.over.clear()
        if self.failed:
            raise self.failed[0]
        self.table.check()

    def _write(self, writer: Writer) -> threading.Thread:
        def run() -> None:
            while not self.over.is_set():
                writer.step()
                self.steps += 1

        return self._thread(run)

    def _read(self, watch: Watch) -> threading.Thread:
        def run() -> None:
            while not self.over.is_set():
                watch.look(ROUND // 10, self.checked)

        return self._thread(run)

    def _thread(self, body) -> threading.Thread:  # type: ignore[no-untyped-def]
        def run() -> None:
            try:
                body()
            except BaseException as error:  # noqa: BLE001 (told by rounds)
                self.failed.append(error)

        return threading.Thread(target=run, daemon=True)
