"""Makes the fixture `paired` known to pytest. `extmeta.pytest_plugin` has the rest.

pytest imports this module in every run, wherever extmeta is installed. So it lies
outside the package, which takes a tenth of a second to import, and imports pytest alone.
"""

import argparse
import math
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from extmeta.pytest_plugin import Pairs

MARKER = (
    "paired(group, max_ratio, max_ram_ratio, max_instruction_ratio): what the fixture "
    "`paired` takes for granted in a test, class or module"
)


def seconds(text: str) -> float:
    """Return the value of --paired-seconds."""
    found = float(text)
    if not 0 <= found < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not 0 or more")
    return found


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("paired", "comparisons of callables (extmeta)")
    group.addoption(
        "--paired-max-ratio",
        action="append",
        default=[],
        metavar="[GROUP=]RATIO",
        help="fail a comparison whose ratio of time may be above RATIO, in one group or "
        "in all; a limit that the test itself names comes first",
    )
    group.addoption(
        "--paired-seconds",
        type=seconds,
        metavar="SECONDS",
        help="CPU time that a ratio may take (default: 2)",
    )
    group.addoption(
        "--paired-instructions",
        action="store_true",
        help="count instructions as well; valgrind runs each test a second time",
    )
    # Tells a test that it runs under valgrind.
    group.addoption("--paired-counting", action="store_true", help=argparse.SUPPRESS)


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", MARKER)


@pytest.fixture
def paired(request: pytest.FixtureRequest) -> "Pairs":
    """Compare two callables: see `extmeta.pytest_plugin.Pairs.__call__`."""
    from extmeta.pytest_plugin import Pairs

    return Pairs(request)


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    rows = [
        row
        for reports in terminalreporter.stats.values()
        for report in reports
        if getattr(report, "when", "") == "call"
        for name, row in report.user_properties
        if name == "paired"
    ]
    if rows:
        from extmeta.reports.paired import table

        terminalreporter.section("paired: each against its baseline")
        terminalreporter.write_line(table(rows))
