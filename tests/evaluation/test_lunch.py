"""What the filter keeps of the training responses, by hand."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from alol.base.errors import InputError, ParameterError
from alol.config import params
from alol.data import schema
from alol.evaluation import lunch

LOADED = params.load("demo")
REWARDS, VALUES, LENGTHS = [0.9, 0.1, 0.8, 0.4], [0.5, 0.5, 0.6, 0.6], [2, 4, 6, 8]
GOOD = [1, 0, 0, 1]


@pytest.fixture
def tables(tmp_path):
    """Two prompts with two responses each; two have A > 0: 0.4 and 0.2."""
    answers = [
        {
            "prompt_id": str(i // 2), "subset": "train", "prompt": "p", "cuts": [], "turns": [], "rank": i % 2,
            "response": "r", "context": {"good": GOOD[i], "source": "ab"[i // 2], "name": [i]},
        }
        for i in range(4)
    ]  # fmt: skip
    numbers = [
        {
            "prompt_id": str(i // 2), "rank": i % 2, "prompt_ids": [1], "response_ids": [1] * LENGTHS[i],
            "ref_logp": [-1.0] * LENGTHS[i], "reward": REWARDS[i], "raw_reward": REWARDS[i], "value": VALUES[i],
            "advantage": REWARDS[i] - VALUES[i],
        }
        for i in range(4)
    ]  # fmt: skip
    schema.write(tmp_path / "annotated.parquet", schema.RESPONSES, answers)
    schema.write(tmp_path / "advantages.parquet", schema.ADVANTAGES, numbers)
    return tmp_path / "annotated.parquet", tmp_path / "advantages.parquet"


def with_label(label):
    return dataclasses.replace(LOADED, aggregate=dataclasses.replace(LOADED.aggregate, label=label))


def test_groups_by_rank_length_and_context(tables):
    found = lunch.look(*tables, LOADED, None)
    shown = {(one.kind, one.name): (one.responses, one.kept, one.tokens, one.kept_tokens) for one in found.groups}
    assert shown == {
        ("all", ""): (4, 2, 20, 8),
        ("response", "others"): (2, 0, 12, 0),
        ("response", "preferred"): (2, 2, 8, 8),
        ("good", "0"): (2, 1, 10, 6),
        ("good", "1"): (2, 1, 10, 2),
        ("source", "a"): (2, 1, 6, 2),
        ("source", "b"): (2, 1, 14, 6),
        ("length", "2 to 4 tokens"): (2, 1, 6, 2),
        ("length", "5 to 6 tokens"): (1, 1, 6, 6),
        ("length", "7 to 8 tokens"): (1, 0, 8, 0),
    }
    every = found.groups[0]
    assert (every.reward, every.value, every.kept_reward) == pytest.approx((0.55, 0.55, 0.85))
    assert found.drawn_reward == pytest.approx((0.4 * 0.9 + 0.2 * 0.8) / 0.6)
    assert found.seconds is None
    assert lunch.words(found) == [
        "50.0% of 4 responses have A > 0; their mean reward is 0.850, that of draws in proportion to A 0.867; V(x) is "
        "0.550 on average (+0.300)."
    ]
    assert lunch.cells(found.groups)[1] == ["all", "", "4", "2", "50.0%", "40.0%", "0.550", "0.550", "0.850"]


def test_the_time_is_that_of_three_passes_over_what_is_drawn(tables):
    train = dataclasses.replace(LOADED.train, epochs=2.0, batch_size=2)
    found = lunch.look(*tables, dataclasses.replace(LOADED, train=train), 100.0)
    # 2 x 4 / 2 updates, half of which are left: 2 of 2 examples, 3 passes each, of 100 s / 4 a pass
    assert (found.updates, found.seconds) == (2, 300.0)


def test_the_curve_goes_from_all_to_the_best(tables):
    curve = lunch.look(*tables, with_label("good"), None).curve
    # A: 0.4, -0.4, 0.2, -0.2, of which the first and the last are labelled good
    assert [line["share"] for line in curve] == [1.0, 0.75, 0.5, 0.5, 0.25]
    assert [line["threshold"] for line in curve] == pytest.approx([-0.4, -0.2, 0.0, 0.2, 0.4])
    assert [line["reward"] for line in curve] == pytest.approx([0.55, 0.7, 0.85, 0.85, 0.9])
    assert [line["precision"] for line in curve] == pytest.approx([0.5, 2 / 3, 0.5, 0.5, 1.0])
    assert [line["recall"] for line in curve] == [1.0, 1.0, 0.5, 0.5, 0.5]


def test_no_lunch_is_said_so():
    assert lunch.curve(np.array([-1.0]), np.array([0.5]), None)[-1] == {"threshold": 0.0, "share": 0.0, "reward": None}
    none = lunch.Lunch([lunch.Group("all", "", 4, 0, 20, 0, 0.5, 0.6, None)], None, [], 0, None)
    assert lunch.words(none) == ["No lunch: none of the 4 responses has a reward above V(x)."]


def test_labels_and_tables_that_do_not_fit_are_named(tables, tmp_path):
    with pytest.raises(ParameterError, match=r"aggregate.label is 'better', which no context has"):
        lunch.look(*tables, with_label("better"), None)
    with pytest.raises(ParameterError, match=r"aggregate.label is 'source', which must be a number"):
        lunch.look(*tables, with_label("source"), None)
    schema.write(tmp_path / "short.parquet", schema.RESPONSES, [])
    with pytest.raises(InputError, match=r"short.parquet has 0 rows, but the advantages 4"):
        lunch.look(tmp_path / "short.parquet", tables[1], LOADED, None)
