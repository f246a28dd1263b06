"""`extmeta.compare`: what `extmeta compare` measures, from Python.

What measures is imported with the first call, so that `import extmeta` stays quick.
"""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Callable, Iterable, Mapping
from numbers import Real
from typing import TYPE_CHECKING, TypeVar

from extmeta.captures.capture import Capture, shipped
from extmeta.captures.process import capture
from extmeta.fields import Fields
from extmeta.integers import is_whole, whole
from extmeta.linux import AddressSpace
from extmeta.pagetable import PageTable

if TYPE_CHECKING:
    from extmeta.comparing.engine import Shown
    from extmeta.cost.space import Space
    from extmeta.interactive.result import ComparisonResult
    from extmeta.rows import Row

    Comparable = (
        str | int | os.PathLike[str] | Capture | PageTable | AddressSpace | Space
    )

Given = TypeVar("Given")


class Interrupted(KeyboardInterrupt):
    """`compare` was interrupted.

    Attributes
    ----------
    result : ComparisonResult or None
        What was measured before; None if nothing was.
    """

    def __init__(self, result: ComparisonResult | None) -> None:
        super().__init__(result)
        self.result = result

    def __str__(self) -> str:
        if self.result is None:
            return "nothing was measured"
        return f"result: {self.result!r}"


def compare(
    what: Comparable | list[Comparable] | tuple[Comparable, ...] | None = None,
    fields: Fields | Mapping[str, int] | str | None = None,
    *,
    encodings: str | Iterable[str] = (),
    fractions: str | float | Iterable[float] = (),
    placement: str | Iterable[str] = (),
    words: str | Iterable[str] = (),
    arch: str | Iterable[str] = (),
    quick: bool = False,
    processes: int = 0,
    instructions: bool = False,
    seed: int = 0,
    progress: Callable[[int, int, str], object] | bool | None = None,
) -> ComparisonResult:
    """Measure what each encoding costs in RAM and CPU, as `extmeta compare` does.

    A parameter that takes several values takes a text "a,b", a value, or an iterable.
    Its default is that of the option of `extmeta compare` with its name.

    Parameters
    ----------
    what : str, int, path-like, Capture, PageTable, AddressSpace or Space, or several
        The PTEs. A text is a capture file, the name of a shipped capture, or the id of
        a process; an int is the id of a process. Words that a table has are left out.
    fields : Fields, mapping or str, optional
        As in ``Fields(age=8)``, ``{"age": 8}`` or ``"uffd_wp=1,age=8"``.
    encodings : str, optional
        Names, or with an argument as in "linked:16".
    fractions : float, optional
        Fractions of the PTEs that are flagged, from 0 to 1.
    placement : str, optional
        How the flagged PTEs lie: "random", "clustered", "tables".
    words : str, optional
        How the words differ from each other: "one", "few", "byte", "different".
    arch : str, optional
        Architectures, or "all". If there are several, only RAM is compared.
    quick : bool, default False
        Measure fewer points, and each of them less often.
    processes : int, optional
        Number of processes that measure each ratio.
    instructions : bool, default False
        Also count instructions, with valgrind.
    seed : int, default 0
    progress : callable or bool, optional
        Called with the number of ratios measured, their total, and what comes next.
        True draws a bar, or prints lines if stderr is no terminal; False shows nothing.
        The default is a bar if stderr is a terminal.

    Returns
    -------
    extmeta.interactive.result.ComparisonResult

    Raises
    ------
    TypeError, ValueError
        If an argument is no value that this takes; the message names it.
    CaptureError
        If a process can't be read, or there is no PTE; it is a ValueError.
    Interrupted
        Instead of KeyboardInterrupt while it measures; has what was measured before.

    Warns
    -----
    UserWarning
        If something is left out: an architecture, instructions without valgrind.

    Examples
    --------
    >>> import extmeta as em
    >>> found = em.compare("redis", encodings="linked", arch="x86_64,arm64")
    >>> [row.arch for row in found.rows_of("Subject")]
    ['x86_64', 'arm64']
    """
    from extmeta.commands import arguments
    from extmeta.comparing import engine
    from extmeta.cost import origin
    from extmeta.cost import placement as places
    from extmeta.interactive.result import ComparisonResult
    from extmeta.reports.missing import Stage, missing

    bar = _bar(progress)
    left_out: list[str] = []
    made = _fields(fields, arguments.DEFAULT_FIELDS)
    named = _each("arch", arch, arguments.arches_of)
    arches = [*dict.fromkeys(name for names in named for name in names)]
    arches = engine.comparable(arches, made, left_out.append)
    request = engine.Request(
        spaces=_spaces(what, arches),
        fields=made,
        forms=_each("encodings", encodings, arguments.form_of),
        fractions=_each("fractions", fractions, arguments.fraction_of),
        placements=_each(
            "placement", placement, arguments.one_of("placement", places.PLACEMENTS)
        ),
        kinds=_each("words", words, arguments.one_of("kind of words", places.WORDS)),
        arches=arches,
        instructions=instructions,
        quick=quick,
        processes=whole("processes", processes),
        seed=whole("seed", seed),
    )
    provenance = origin.provenance(["extmeta.compare()"], request.seed)
    provenance["calibration"] = engine.calibration(left_out.append)
    rows: list[Row] = []
    stages: list[Stage] = []
    try:
        with bar as shown:
            # Not list(): rows measured before an interruption are kept.
            for row in engine.rows(request, shown, left_out.append, stages):
                rows.append(row)  # noqa: PERF402
    except KeyboardInterrupt:
        lacks = missing(rows, stages)
        found = ComparisonResult(rows, provenance, request, lacks) if rows else None
        raise Interrupted(found) from None
    for text in left_out:
        warnings.warn(text, stacklevel=2)
    return ComparisonResult(rows, provenance, request)


def _bar(progress: object) -> contextlib.AbstractContextManager[Shown]:
    """Return what gives the callable that is told of the progress."""
    from extmeta.commands import output

    if progress is None:
        return output.progress_on_a_terminal()
    if progress is True:
        return output.progress()
    if progress is False:
        return contextlib.nullcontext(lambda _done, _total, _what: None)
    if not callable(progress):
        raise TypeError(f"progress: {progress!r} is no callable, bool or None")
    return contextlib.nullcontext(progress)


def _fields(given: Fields | Mapping[str, int] | str | None, default: str) -> Fields:
    """Return the fields that an argument stands for."""
    from extmeta.commands.arguments import fields_of

    if isinstance(given, Fields):
        return given
    if given is None or isinstance(given, str):
        return fields_of(default if given is None else given)
    if not isinstance(given, Mapping):
        raise TypeError(f"fields: {given!r} is no Fields, mapping or text")
    if wrong := [name for name in given if not isinstance(name, str)]:
        raise TypeError(f"fields: {wrong[0]!r} is no name")
    return Fields(**given)


def _each(name: str, given: object, convert: Callable[[str], Given]) -> list[Given]:
    """Return the values of a text "a,b", of one value, or of an iterable."""
    if isinstance(given, str):
        items: list[object] = [part.strip() for part in given.split(",")]
    else:
        items = [*given] if isinstance(given, Iterable) else [given]
    found = []
    for item in items:
        # A number is converted as its text is, so that both have one message.
        text = str(item) if isinstance(item, Real) else item
        if not isinstance(text, str):
            raise TypeError(f"{name}: {item!r} is no text or number")
        try:
            found.append(convert(text))
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{name}: {error.args[0]}") from None
    return found


def _spaces(what: object, arches: list[str]) -> list[Space]:
    """Return the address spaces of ``what``, each on each architecture."""
    given = [*what] if isinstance(what, list | tuple) else [what]
    if not given:
        raise ValueError(f"what: {what!r} is empty")
    own: list[str | None] = [None]
    return [_space(one, arch) for one in given for arch in arches or own]


def _space(what: object, arch: str | None) -> Space:
    """Return the address space of a capture, a process or a table."""
    from extmeta.commands.inputs import capture_of
    from extmeta.commands.output import BadInputError
    from extmeta.cost.space import Space, space_of, space_of_table

    if what is None:
        what = next(iter(shipped()))
    if isinstance(what, AddressSpace):
        what = what.table
    if isinstance(what, PageTable):
        return space_of_table(what, "a PageTable", arch)
    if isinstance(what, Space):
        if arch not in (None, what.arch):
            raise ValueError(f"arch: {arch!r}, but {what.name} is of {what.arch!r}")
        return what
    if isinstance(what, Capture):
        return space_of(what, what.comm, arch)
    if isinstance(what, str) and what.isascii() and what.isdigit():
        what = what if os.path.exists(what) else int(what)
    if is_whole(what):
        found = capture(what)  # type: ignore[arg-type]
        return space_of(found, f"process {what}, {found.comm}", arch)
    if not isinstance(what, str | os.PathLike):
        raise TypeError(f"what: {what!r} is no capture, process, file or PageTable")
    try:
        found, name = capture_of(os.fsdecode(what))
    except BadInputError as error:
        raise ValueError(str(error)) from None
    return space_of(found, name, arch)
