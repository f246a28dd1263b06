"""The planted bugs are still about code that there is."""

import planted
import pytest


@pytest.mark.parametrize("bug", planted.BUGS, ids=lambda bug: bug.name)
def test_its_text_is_in_one_file_once(bug):
    sources = [path.read_text() for path in (planted.ROOT / "src").rglob("*.pyx")]
    assert [source.count(bug.sound) for source in sources if bug.sound in source] == [1]
