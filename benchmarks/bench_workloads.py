"""What does a tracker's work cost, as CRIU, a VMM or a collector asks for it?

Each workload is played once in each encoding, and what it asked of the page table is
asked again of bare tables, in pairs with the baseline's. pytest-benchmark's own time
has the copying of the table before each replay in it; the ratios have not.
"""

import pytest

from extmeta.checks import same
from extmeta.cost import origin, sweep
from extmeta.cost.forms import form
from extmeta.reports import workloads as workload_report
from extmeta.rows import ALL_PHASES, BASELINE, CONTROL, Peak, Refused
from extmeta.workloads import WORKLOADS, synthetic
from extmeta.workloads.comparison import POINT, Player, paired

PAGES = 16384
PAGES_QUICK = 1024

# A ratio of each phase; what all of them may take of the minutes there are.
BUDGET = {"rounds": 15, "budget_ns": 300_000_000}
BUDGET_QUICK = {"rounds": 5, "budget_ns": 20_000_000}


class Played:
    """Players of the session, one for each workload, and the rows they came to."""

    def __init__(self, quick, seed):
        self.process = synthetic(PAGES_QUICK if quick else PAGES)
        self.budget = BUDGET_QUICK if quick else BUDGET
        self.seed = seed
        self.players = {}
        self.rows = {}

    def player(self, name):
        if name not in self.players:
            load = WORKLOADS[name](seed=self.seed)
            self.players[name] = Player(name, load, self.process)
            self.rows[name] = [self.players[name].load()]
        return self.players[name]


@pytest.fixture(scope="session")
def played(request, seed, results):
    found = Played(request.config.getoption("quick"), seed)
    yield found
    rows = [row for rows in found.rows.values() for row in rows]
    if rows:
        command = ["pytest", *request.config.invocation_params.args]
        results.notes.append(
            workload_report.text(rows, origin.provenance(command, seed))
        )


@pytest.mark.parametrize("name", WORKLOADS)
def bench_workload(benchmark, played, name, encoding):
    benchmark.group = f"workload {name}"
    player, rows = played.player(name), played.rows[name]
    told = CONTROL if encoding == BASELINE else encoding
    try:
        if encoding == BASELINE:
            replay, extra = player.control(), 0
        else:
            replay, extra = player.played(form(encoding))
    except ValueError as error:
        rows.append(Refused(encoding, str(error)))
        pytest.skip(f"{encoding} can't hold the words: see the report")
    if encoding != BASELINE:
        rows.append(Peak(encoding, extra))
    found = paired(player.base_replay, replay, seed=played.seed, **played.budget)
    ptes = {**player.base.recording.ptes, ALL_PHASES: player.base.ptes}
    rows.extend(
        sweep.cpu_of(told, phase, POINT, max(1, ptes[phase]), one)
        for phase, one in found.items()
    )
    # Every answer was compared when it was played; here the phases are.
    took = benchmark.pedantic(replay.once, rounds=played.budget["rounds"])
    same({*took, ALL_PHASES}, {*found})
    benchmark.extra_info.update(
        encoding=encoding,
        workload=name,
        extra_bytes=extra,
        calls=player.base.calls,
        ptes=player.base.ptes,
        **{f"ratio {phase}": one.ratio for phase, one in found.items()},
    )
