"""Each layer of the package imports from layers below it only."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import extmeta

PACKAGE = Path(extmeta.__file__).parent
# From the bottom. What stands in one line may import each other.
LAYERS = (
    ("checks", "names", "notebook", "arrays", "integers", "release", "arch", "fields"),
    ("rows", "compared"),
    ("memory",),
    ("table",),
    ("encodings", "encoding"),
    ("edge", "pagetable"),
    ("linux",),
    ("captures",),
    ("cost",),
    ("workloads",),
    ("reports",),
    ("comparing",),
    ("fleet",),
    ("commands",),
    ("interactive",),
    ("cli",),
    ("__main__",),
)
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}
# The suite for encodings and the pytest plugin, which nothing of the package imports.
ASIDE = ("testing", "pytest_plugin")
CIMPORT = re.compile(
    r"^ *from extmeta(?:\.([\w.]+))? c?import +\(?([\w, ]*)", re.MULTILINE
)


def imports(path):
    """Yield the names below extmeta that a source imports when it runs."""
    if path.suffix != ".py":
        for module, names in CIMPORT.findall(path.read_text()):
            yield from [module] if module else names.replace(",", " ").split()
        return
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            node.body = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (a.name[8:] for a in node.names if a.name.startswith("extmeta."))
        elif isinstance(node, ast.ImportFrom) and node.module:
            if node.module == "extmeta":
                yield from (a.name for a in node.names)
            elif node.module.startswith("extmeta."):
                yield node.module[8:]


def sources():
    for path in sorted(PACKAGE.rglob("*.p*")):
        if path.suffix in (".py", ".pyx", ".pxd"):
            layer = path.relative_to(PACKAGE).with_suffix("").parts[0]
            yield path, layer


def test_every_arrow_points_down():
    upward = [
        f"{path.relative_to(PACKAGE)} imports {name}"
        for path, layer in sources()
        if layer not in (*ASIDE, "__init__")
        for name in imports(path)
        if name != "__version__"
        and RANK.get(name.split(".")[0], len(LAYERS)) > RANK[layer]
    ]
    assert not upward


def test_reports_import_nothing_that_measures():
    """But for files of measurements, which the report of CPU reads."""
    measuring = [
        f"{path.relative_to(PACKAGE)} imports {name}"
        for path, layer in sources()
        if layer == "reports"
        for name in imports(path)
        if name.split(".")[0] in ("cost", "workloads")
        and name not in ("cost.kernel", "cost.kernel.costs", "cost.kernel.prototype")
    ]
    assert not measuring


def test_no_file_is_too_long_to_read():
    long = {
        str(path.relative_to(PACKAGE)): lines
        for path, _layer in sources()
        if path.suffix == ".py" and path != PACKAGE / "arch.py"
        if (lines := len(path.read_text().splitlines())) > 500
    }
    assert not long


def test_every_module_has_its_layer():
    assert {layer for _path, layer in sources()} == {*RANK, *ASIDE, "__init__"}


@pytest.mark.parametrize(
    ("code", "absent"),
    [
        ("import extmeta", {"rich", "hashlib", "importlib.resources", "subprocess"}),
        (
            "from extmeta import cli; cli.main(['--help'])",
            {"rich", "extmeta.cost", "extmeta.workloads", "extmeta.commands.compare"},
        ),
        ("import pytest_extmeta", {"extmeta", "numpy"}),
    ],
)
def test_what_starts_often_imports_little(code, absent):
    """`python -X importtime -c 'import extmeta'` shows what takes how long."""
    told = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys\nprint('imported', *sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
    )
    *_, modules = told.stdout.splitlines()
    assert modules.startswith("imported sys")
    assert not absent & {*modules.split()}
