"""Is it faster to parse JSON lines one by one, or joined into one array?"""

import json

import pytest

LINES = [json.dumps({"id": i, "name": f"n{i}", "tags": ["a", "b"]}) for i in range(500)]


def line_by_line():
    return [json.loads(line) for line in LINES]


def as_one_array():
    return json.loads("[" + ",".join(LINES) + "]")


@pytest.mark.paired(group="parse 500 JSON lines")
def test_one_array_is_faster(paired):
    # Both have to return the same; ram=True compares the most memory that each takes.
    paired(line_by_line, as_one_array, ram=True, max_ratio=1, max_ram_ratio=2)
