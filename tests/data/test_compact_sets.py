"""Keys in compact form behave as a Counter's and a set's do."""

from __future__ import annotations

from collections import Counter

import pytest

from alol.data import compact_sets
from alol.data.compact_sets import Counts, Seen, digest


@pytest.mark.parametrize("held", [compact_sets.HELD, 16])
def test_counts_are_a_counters_also_of_digests_that_end_in_zeros(monkeypatch, held):
    """Also of more than memory may hold, in blocks of a file."""
    monkeypatch.setattr(compact_sets, "HELD", held)
    monkeypatch.setattr(compact_sets, "BLOCK", 3)
    keys = [digest(str(i % 31)) for i in range(80)] + [b"\1" * 15 + b"\0", b"\1" + b"\0" * 15, b"\0" * 16, b"\0" * 16]
    counts, expected = Counts(keys), Counter(keys)
    assert dict(counts) == expected
    assert list(counts) == sorted(expected)
    assert (len(counts), counts.total()) == (34, 84)
    assert digest("31") not in counts
    assert b"\1" * 16 not in counts
    assert dict(counts.select(lambda key: key[0] < 2)) == {k: n for k, n in expected.items() if k[0] < 2}
    assert (dict(Counts([])), Counts([]).total()) == ({}, 0)


def test_keys_beyond_what_memory_holds_are_compared_at_the_end(monkeypatch):
    monkeypatch.setattr(compact_sets, "RECENT", 4)
    monkeypatch.setattr(compact_sets, "HELD", 12)
    seen = Seen()
    assert all(seen.add(digest(str(i))) for i in range(50))
    assert not seen.add(digest("49"))  # of the last ones
    assert (seen.repeated(), len(seen)) == (None, 50)
    assert all(seen.add(digest(str(i))) for i in (50, 3, 51))  # 3 came too long ago
    assert seen.repeated() == (3, 51)


def test_a_key_is_new_once_also_after_it_was_stored_away(monkeypatch):
    monkeypatch.setattr(compact_sets, "RECENT", 3)
    keys = [digest(str(i)) for i in range(20)] + [b"\2" * 14 + b"\0\0"]
    seen = Seen()
    assert [seen.add(key) for key in keys] == [True] * 21
    assert [seen.add(key) for key in keys] == [False] * 21
    assert len(seen) == 21
