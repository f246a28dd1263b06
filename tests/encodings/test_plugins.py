"""Encodings of other packages: found by entry points, imported when used."""

import subprocess
import sys

import pytest

import extmeta as em
from extmeta.cost import measure, sweep
from extmeta.cost.forms import default_forms, form, left_out
from extmeta.cost.space import sparse_tables
from extmeta.encodings import _factories, _plugins, built_in, register
from extmeta.rows import CONTROL, Cpu, Point, Ram, Refused

BUILT_IN = [name for name in em.encodings() if built_in(name)]

GOOD = """
import extmeta as em

class Good(em.PythonEncoding):
    forms = ("7",)

    def __init__(self, number=0):
        self.number = int(number)
        self.words = {}

    @property
    def config(self):
        return {"number": self.number}

    @classmethod
    def from_text(cls, argument):
        return cls(argument)

    def load(self, vpns):
        return [self.words.get(vpn, 0) for vpn in vpns.tolist()]

    def store(self, vpns, words):
        for vpn, word in zip(vpns.tolist(), words.tolist()):
            self.words[vpn] = word
            if not word:
                del self.words[vpn]

    def side_bytes(self):
        return 16 * len(self.words)

def one_form():
    return Good(1)

class Wrong(Good):
    def load(self, vpns):
        return [1] * len(vpns)

class Sizeless(Good):
    def side_bytes(self):
        raise RuntimeError("no idea")

class Picky(Good):
    def __init__(self):
        raise OSError("not today")
"""


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Install, into sys.path, distributions with entry points of our group."""

    def install(dist, points):
        info = tmp_path / f"{dist}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Name: {dist}\nVersion: 1.0\n")
        lines = [f"{name} = {value}" for name, value in points.items()]
        text = "\n".join(["[extmeta.encodings]", *lines])
        (info / "entry_points.txt").write_text(text + "\n")
        _plugins.cache_clear()

    (tmp_path / "good_one.py").write_text(GOOD)
    (tmp_path / "broken_one.py").write_text("import no_such_module\n")
    monkeypatch.syspath_prepend(tmp_path)
    _plugins.cache_clear()
    registered = dict(_factories)
    yield install
    _factories.clear()
    _factories.update(registered)
    _plugins.cache_clear()
    sys.modules.pop("good_one", None)


def test_they_are_listed_sorted_after_ours_and_not_imported(installed):
    installed("some-dist", {"zeta": "good_one:Good", "alpha": "broken_one:Bad"})
    installed("another", {"mid": "good_one:Good"})
    register("before-all", em.Linked)
    names = em.encodings()
    plugins = names[len(BUILT_IN) : -1]
    assert names[: len(BUILT_IN)] == BUILT_IN
    assert names[-1] == "before-all"
    assert plugins == sorted(plugins)
    assert {"alpha", "mid", "zeta"} <= set(plugins)
    assert "good_one" not in sys.modules
    table = em.PageTable("zeta")
    assert "good_one" in sys.modules
    table.map(5)
    table.store(5, 3)
    assert table.load(5) == 3


def test_both_ways_of_adding_one_agree(installed):
    installed("some-dist", {"by-name": "good_one:Good"})
    found = em.PageTable("by-name").encoding
    register("by-call", type(found))
    called = em.PageTable("by-call").encoding
    assert type(found) is type(called)
    assert repr(found) == repr(called) == "Good(number=0)"
    for name in ("by-name", "by-call"):
        assert repr(form(f"{name}:3")) == "Good(number=3)"
        assert f"{name}:7" in default_forms()
        with pytest.raises(ValueError, match=f"{name!r} is already registered"):
            register(name, em.Linked)


def test_a_broken_one_is_named_when_it_is_used(installed):
    installed("some-dist", {"bad": "broken_one:Bad", "worse": "good_one:Nothing"})
    installed("odd", {"odd": "good_one:GOOD:x", "flat": "math:pi"})
    assert {"bad", "worse", "odd", "flat"} <= set(em.encodings())
    with pytest.raises(ValueError, match=r"'bad' of some-dist 1\.0.*no_such_module"):
        em.PageTable("bad")
    with pytest.raises(ValueError, match=r"'worse' of some-dist 1\.0.*Nothing"):
        em.PageTable("worse")
    with pytest.raises(ValueError, match=r"'odd' of odd"):
        em.PageTable("odd")
    with pytest.raises(ValueError, match=r"'flat' of odd.*3\.14.* is not callable"):
        em.PageTable("flat")
    assert "bad" in default_forms()
    em.PageTable("linked")
    with pytest.raises(ValueError, match="encoding 'bad:3': the encoding 'bad'"):
        form("bad:3")


def test_ours_keep_their_names(installed):
    installed("thief", {"linked": "good_one:Good"})
    with pytest.warns(RuntimeWarning, match=r"'linked' of thief 1\.0 .* left out"):
        names = em.encodings()
    assert names.count("linked") == 1
    assert type(em.PageTable("linked").encoding) is em.Linked


def test_of_two_of_a_name_the_same_one_wins_always(installed):
    installed("b-dist", {"twice": "good_one:one_form"})
    installed("a-dist", {"twice": "good_one:Good"})
    with pytest.warns(RuntimeWarning, match=r"'twice' of b-dist 1\.0 .* left out"):
        em.encodings()
    assert repr(em.PageTable("twice").encoding) == "Good(number=0)"


@pytest.mark.parametrize("processes", [1, 2])
def test_a_comparison_goes_on_without_the_broken(installed, processes):
    points = {"picky": "good_one:Picky", "sizeless": "good_one:Sizeless"}
    points |= {"wrong": "good_one:Wrong", "bad": "broken_one:Bad"}
    installed("some-dist", {**points, "good": "good_one:Good"})
    forms = ["good", "good:7", "linked", *points]
    space = sparse_tables(2, 20, seed=1)
    rows = list(
        sweep.sweep(
            space,
            forms,
            em.Fields(age=4),
            [Point(0.5, "random")],
            rounds=measure.MIN_ROUNDS,
            budget_ns=0,
            processes=processes,
        )
    )
    refused = {r.encoding: r.why for r in rows if isinstance(r, Refused)}
    assert set(refused) == set(points)
    assert refused["picky"] == "OSError: not today"
    assert "no_such_module" in refused["bad"]
    assert refused["sizeless"] == "RuntimeError: no idea"
    assert "CheckError: words differ" in refused["wrong"]
    whole = {"inpte again", "good", "good:7", "linked"}
    assert whole <= {r.encoding for r in rows if isinstance(r, Cpu)}
    assert whole - {"inpte again"} <= {r.encoding for r in rows if isinstance(r, Ram)}


def test_a_bug_of_ours_is_raised():
    for error in (AssertionError("words differ"), RuntimeError("x")):
        with pytest.raises(type(error)):
            left_out("linked:16", error)
        with pytest.raises(type(error)):
            left_out(CONTROL, error)
    assert left_out("linked", ValueError("8 bits")).why == "8 bits"


def test_a_factory_that_is_no_class_takes_no_argument(installed):
    installed("some-dist", {"one-form": "good_one:one_form"})
    assert repr(em.PageTable("one-form").encoding) == "Good(number=1)"
    with pytest.raises(ValueError, match="'one-form:2': one-form takes no argument"):
        form("one-form:2")


def python(code):
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_extmeta_imports_neither_the_suite_nor_plugins():
    unwanted = "{'hypothesis', 'pytest', 'extmeta.testing', 'importlib.metadata'}"
    code = f"import extmeta, sys; print({unwanted} & set(sys.modules))"
    assert python(code) == "set()"


def test_the_suite_runs_without_pytest_and_says_what_failed():
    said = python(
        "import extmeta as em; from extmeta.testing import conformance\n"
        "from hypothesis import Phase, settings\n"
        "settings.register_profile('unshrunk', phases=[Phase.generate], database=None)\n"
        "settings.load_profile('unshrunk')\n"
        "class Nothing(em.PythonEncoding):\n"
        "    load = lambda self, vpns: vpns * 0\n"
        "    store = lambda self, vpns, words: None\n"
        "    side_bytes = lambda self: 0\n"
        "try: conformance(Nothing)\n"
        "except AssertionError as error: print(error)"
    )
    assert "Nothing'>: against_dict: CheckError" in said


@pytest.mark.parametrize("missing", ["hypothesis", "pytest"])
def test_the_suite_says_what_it_needs(missing):
    said = python(
        f"import sys; sys.modules[{missing!r}] = None\n"
        "try: import extmeta.testing\n"
        "except ImportError as error: print(error)"
    )
    assert said == f"extmeta.testing needs {missing}: pip install 'extmeta[testing]'"
