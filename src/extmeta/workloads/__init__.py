"""Uses of page-table metadata, played on any encoding: see docs/workloads.md.

Each module is one workload: a frozen dataclass of its parameters, and how it is played.
Every round is compared with a plain array of the pages written.

>>> import extmeta as em
>>> from extmeta.workloads import Predump, play, synthetic
>>> play(Predump(rounds=2), synthetic(1000), "adaptive").counts()
{'dumped': (1000, 50, 50)}
"""

from extmeta.workloads.ages import Ages
from extmeta.workloads.deferred_flush import DeferredFlush
from extmeta.workloads.epochs import Epochs
from extmeta.workloads.fork_server import ForkServer
from extmeta.workloads.play import MismatchError, Result, Workload, play
from extmeta.workloads.precopy import Precopy
from extmeta.workloads.predump import Predump
from extmeta.workloads.predump_beside_uffd import PredumpBesideUffd
from extmeta.workloads.process import Process, of_capture, synthetic
from extmeta.workloads.replay import of_trace, replay
from extmeta.workloads.write_barrier import WriteBarrier

__all__ = [
    "WORKLOADS",
    "Ages",
    "DeferredFlush",
    "Epochs",
    "ForkServer",
    "MismatchError",
    "Precopy",
    "Predump",
    "PredumpBesideUffd",
    "Process",
    "Result",
    "Workload",
    "WriteBarrier",
    "of_capture",
    "of_trace",
    "play",
    "replay",
    "synthetic",
]

# By their names on the command line.
WORKLOADS: dict[str, type[Workload]] = {
    "predump": Predump,
    "predump-beside-uffd": PredumpBesideUffd,
    "precopy": Precopy,
    "write-barrier": WriteBarrier,
    "ages": Ages,
    "epochs": Epochs,
    "fork-server": ForkServer,
    "deferred-flush": DeferredFlush,
}
