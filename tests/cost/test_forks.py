"""A fork that lives and exits leaves the table that others are compared on."""

import pytest

import extmeta as em
from extmeta.cost import forks
from extmeta.cost.forms import default_forms
from extmeta.cost.measure import verify
from extmeta.cost.space import full_tables
from extmeta.cost.sweep import Held
from extmeta.cost.tasks import Filled
from extmeta.rows import Point


@pytest.mark.parametrize("encoding", default_forms())
def test_lives_do_their_work_and_leave_the_words(encoding):
    point = Point(1, "random")
    held = Held(full_tables(4), [encoding], em.Fields(uffd_wp=1, age=3))
    ours, theirs = held.words(point)
    table = held.bare.get(encoding, held.base)
    filled = Filled(table, theirs if encoding in held.bare else ours)
    for task in forks.TASKS.values():
        verify(task(filled))
        assert (filled.table.load(filled.load.space.vpns) == filled.load.words).all()
