"""How rows are dealt out to processes, by hand."""

from __future__ import annotations

from alol.compute.batching import share


def test_each_row_goes_to_the_process_with_the_fewest_tokens():
    lengths = [3, 9, 5, 8, 4]
    # 9 to the first, 8 and 5 to the second (13), 4 to the first (13), 3 to the first: 16 and 13
    assert [share(lengths, 2, i) for i in (0, 1)] == [[1, 4, 0], [3, 2]]
    assert share(lengths, 1, 0) == [1, 3, 2, 4, 0]  # longest first


def test_a_process_may_have_none():
    assert [share([4, 4], 3, i) for i in range(3)] == [[0], [1], []]
    assert share([], 2, 0) == []
