"""What does it cost to build page tables that have no word yet?"""

from extmeta.captures.capture import load_capture, shipped
from extmeta.checks import same
from extmeta.cost.measure import Task
from extmeta.cost.space import space_of
from extmeta.rows import Point

BARE = Point(0.0, "")


def build(filled):
    """Build the tables of a filled one again; freeing them is not timed."""
    load, encoding = filled.load, filled.table.encoding

    def check(made, _result):
        same(len(made[0]), len(load.space.vpns))

    def run(made):
        made.append(load.space.build(encoding, load.fields))

    return Task(list, run, check, list.clear, each=True)


def bench_map(paired, benchmark, bench, space, encoding):
    bench.time(paired, benchmark, "map", space, encoding, BARE, build)


def bench_build_capture(paired, benchmark, bench, encoding, shipped_name):
    capture = load_capture(shipped()[shipped_name])
    space = space_of(capture, shipped_name)
    bench.time(paired, benchmark, "build", space, encoding, BARE, build)
