"""Keys in compact form behave as a Counter's and a set's do."""

from __future__ import annotations

from collections import Counter

from alol.data import compact_sets
from alol.data.compact_sets import Counts, Seen, digest


def test_counts_are_a_counters_also_of_digests_that_end_in_zeros():
    keys = [digest(str(i % 7)) for i in range(40)] + [b"\1" * 15 + b"\0", b"\1" + b"\0" * 15, b"\0" * 16, b"\0" * 16]
    counts, expected = Counts(keys), Counter(keys)
    assert dict(counts) == expected
    assert list(counts) == sorted(expected)
    assert (len(counts), counts.total()) == (10, 44)
    assert digest("7") not in counts
    assert b"\1" * 16 not in counts
    assert dict(counts.select(lambda key: key[0] < 2)) == {k: n for k, n in expected.items() if k[0] < 2}
    assert (dict(Counts([])), Counts([]).total()) == ({}, 0)


def test_a_key_is_new_once_also_after_it_was_stored_away(monkeypatch):
    monkeypatch.setattr(compact_sets, "RECENT", 3)
    keys = [digest(str(i)) for i in range(20)] + [b"\2" * 14 + b"\0\0"]
    seen = Seen()
    assert [seen.add(key) for key in keys] == [True] * 21
    assert [seen.add(key) for key in keys] == [False] * 21
    assert len(seen) == 21
