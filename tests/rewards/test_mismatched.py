"""Responses with another prompt as bad examples: which are drawn, where they are held out, and what is measured."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from alol.base.errors import InputError
from alol.checks import reward_parameters
from alol.data import schema
from alol.rewards import mismatched, training
from alol.rewards.examples import Examples, divide, gather
from alol.rewards.folds import fold
from alol.rewards.measures import Outputs, measure
from alol.rewards.options import Measured, fitted
from tests.reward_project import load, row, write_clean, write_labels
from tests.rewards.test_reward_training import LABELS, SMALL

BOTH = {"kind": "classifier", "max_length": 32}


def options(tmp_path: Path, share: float, spec: dict = BOTH, **keys):
    """The component `it` with `train.mismatched`, and its examples of two folds."""
    train = {"texts": "tone", "folds": 2, **keys, "mismatched": share}
    [(_, built)] = fitted(load(tmp_path, {"it": {**spec, "train": train}}, clean={"labels": LABELS}).rewards)
    return built


def single(texts: list[tuple[str, str, int]], shared: bool = True) -> Examples:
    """An example each of a prompt, a response and a class."""
    rows, keys = [(prompt, response, {}) for prompt, response, _ in texts], [prompt for prompt, _, _ in texts]
    members = [(i,) for i in range(len(rows))]
    return Examples(rows, members, [t for *_, t in texts], keys, [(key,) for key in keys], shared, "labels")


def made(found: Examples) -> list[tuple[str, str, float]]:
    """Prompt, response and class of the mismatched ones."""
    count = len(found.rows) - found.mismatched
    return [(p, r, t) for (p, r, _), t in zip(found.rows[count:], found.targets[count:], strict=True)]


def in_fold(number: int, count: int) -> list[str]:
    """Prompts of one of two folds."""
    return [name for name in (f"prompt {i}" for i in range(200)) if fold(name, 2) == number][:count]


def test_none_are_made_by_default(tmp_path):
    examples = single([("a", "x", 1), ("b", "y", 1)])
    assert mismatched.added(examples, options(tmp_path, 0.0), "w") is examples


def test_a_good_response_stands_with_the_only_other_good_prompt_of_its_fold(tmp_path):
    a, b, bad = in_fold(0, 3)
    c, d = in_fold(1, 2)
    examples = single([(a, "x", 1), (bad, "never", 0), (b, "y", 1), (c, "u", 1), (d, "v", 1)])
    found = mismatched.added(examples, options(tmp_path, 1.0), "w")
    assert found.rows[:5] == examples.rows and found.targets[:5] == examples.targets
    assert sorted(made(found)) == sorted([(b, "x", 0), (a, "y", 0), (d, "u", 0), (c, "v", 0)])
    assert found.mismatched == 4 and found.members == [(i,) for i in range(9)]
    for i in range(5, 9):
        assert found.keys[i] == found.rows[i][0]
        assert set(found.related[i]) == ({a, b} if found.keys[i] in (a, b) else {c, d})
    for number, (out, kept) in enumerate(divide(found, 2, 0.1)):
        assert sorted([*out, *kept]) == list(range(9))  # none is lost, for both halves have one fold
        assert {fold(found.keys[i], 2) for i in out} == {number}


def test_no_good_example_is_made_a_bad_one_whatever_its_case_and_blanks(tmp_path):
    a, b, c = in_fold(0, 3)
    examples = single([(a, "to be happy", 1), (b, "To  be happy ", 1), (c, "to rest", 1)])
    found = made(mismatched.added(examples, options(tmp_path, 1.0), "w"))
    assert {(p, r) for p, r, _ in found if r != "to rest"} == {(c, "to be happy")}  # once: the second equals it
    assert [p for p, r, _ in found if r == "to rest"] in ([a], [b])


def test_a_share_counts_wholes_and_a_random_part(tmp_path):
    examples = single([(prompt, f"r {i}", 1) for i, prompt in enumerate(in_fold(0, 10))])
    for share, count in ((0.3, 3), (1.0, 10), (2.5, 25)):
        found = made(mismatched.added(examples, options(tmp_path, share), "w"))
        assert len(found) == len({(p, r) for p, r, _ in found}) == count
        counts = [sum(r == f"r {i}" for _, r, _ in found) for i in range(10)]
        assert set(counts) <= {int(share), int(share) + 1}
    first, again, other = (
        made(mismatched.added(examples, options(tmp_path, 1.0, seed=seed), "w")) for seed in (1, 1, 2)
    )
    assert first == again != other


def test_where_every_prompt_has_the_response_nothing_is_left_to_draw(tmp_path):
    a, b = in_fold(0, 2)
    [c] = in_fold(1, 1)
    with pytest.raises(InputError, match=r"^w.train.mismatched is 1, but no response of class 1 can be given another"):
        mismatched.added(single([(a, "x", 1), (b, "x", 1), (c, "y", 1)]), options(tmp_path, 1.0), "w")


def test_examples_that_are_held_out_once_are_mismatched_among_themselves(tmp_path):
    texts = [(f"p {i}", f"r {i}", 1) for i in range(40)]
    found = mismatched.added(single(texts, shared=False), options(tmp_path, 1.0, holdout=0.2), "w")
    [(out, kept)] = divide(found, 2, 0.2)
    assert (len(out), len(kept), found.mismatched) == (16, 64, 40)
    assert {found.rows[i][1][2:] for i in out} == {found.rows[i][0][2:] for i in out}


def test_the_other_class_is_that_which_the_component_does_not_score(tmp_path):
    a, b = in_fold(0, 2)
    examples = single([(a, "x", 0), (b, "y", 0), (a, "z", 1)])
    spec = {**BOTH, "label": 0}
    assert sorted(made(mismatched.added(examples, options(tmp_path, 1.0, spec), "w"))) == [(a, "y", 1), (b, "x", 1)]


def test_a_critics_triples_keep_their_relation_and_change_their_head(tmp_path):
    triples = [(f"PersonX {verb}", relation, f"{verb} {relation}")
               for verb in ("eats", "runs", "sings", "naps") for relation in ("xNeed", "xWant")]  # fmt: skip
    cells = [
        {"prompt": None, "response": tail, "context": {"head": head, "relation": relation}, "label": 1}
        for head, relation, tail in triples
    ]
    splits = {name: [row(name, "a tail", head=name)] for name in schema.SPLITS}
    clean = write_clean(tmp_path / "clean", **splits)
    schema.write(clean / "labels/tone.parquet", schema.LABELLED, cells)
    built = options(tmp_path, 1.0, {"kind": "critic"}, holdout=0.5)
    found = mismatched.added(gather(clean, built, "w"), built, "w")
    assert found.mismatched == 8
    for (_, tail, context), key in zip(found.rows[8:], found.keys[8:], strict=True):
        assert tail.split()[1] == context["relation"]
        assert context["head"] == key != f"PersonX {tail.split()[0]}"


def test_the_figures_of_given_examples_and_of_mismatched_ones_stand_apart():
    """Given: 3 of 4 right. Mismatched: 1 of 2; the rule says class 1 of all."""
    examples = single([(f"p {i}", "r", t) for i, t in enumerate([1, 1, 0, 0, 0, 0])])
    plain = single([(f"p {i}", "r", t) for i, t in enumerate([1, 1, 0, 0])])
    values = np.array([[2.0], [1.0], [-1.0], [0.5], [-3.0], [3.0]])
    rule = {"length": Outputs(list(range(6)), np.ones((6, 1)))}
    settings = Measured(100, 10, 100)
    assert examples.mismatched == 0
    examples = Examples(*(getattr(examples, name) for name in examples.__dataclass_fields__ if name != "mismatched"), 2)
    found = measure(examples, Outputs(list(range(6)), values), rule, settings, 1)
    few = {"length": Outputs(list(range(4)), np.ones((4, 1)))}
    alone = measure(plain, Outputs(list(range(4)), values[:4]), few, settings, 1)
    assert {key: found[key] for key in alone} == alone
    assert (alone["accuracy"], alone["rows"], alone["length_accuracy"]) == (0.75, 4, 0.5)
    assert set(found) - set(alone) == {
        "accuracy_mismatched", "accuracy_mismatched_low", "accuracy_mismatched_high", "length_accuracy_mismatched",
        "rows_mismatched",
    }  # fmt: skip
    assert (found["accuracy_mismatched"], found["length_accuracy_mismatched"], found["rows_mismatched"]) == (0.5, 0, 2)
    assert found["accuracy_mismatched_low"] == 0 and found["accuracy_mismatched_high"] == 1
    assert "; accuracy 0.500 [0.000, 1.000] on 2 unseen mismatched ones; length 0.000, bag of words 0.250" in (
        training.in_words({**found, "words_accuracy": 0.5, "words_accuracy_mismatched": 0.25})
    )


def test_a_classifier_learns_that_a_response_belongs_to_its_prompt(tmp_path):
    """Every labelled text is good, so that without mismatched ones there is a single class and nothing to learn."""
    colours = ["red", "blue", "green", "white"]
    texts = [(f"{colours[i % 4]} {i}", f"a {colours[i % 4]} one", 1) for i in range(120)]
    texts += [(f"grey {i}", "a grey one", 0) for i in range(8)]
    clean = write_clean(tmp_path / "clean")
    write_labels(clean, "tone", texts)
    train = {"texts": "tone", **SMALL, "width": 64, "epochs": 30, "mismatched": 1.0}
    given = load(tmp_path, {"it": {**BOTH, "train": train}}, clean={"labels": LABELS})
    assert reward_parameters.check(given) == []
    found = training.train(given.rewards, clean, tmp_path / "models", given.launch)["it"]
    assert found["rows"] == 13
    assert found["accuracy_mismatched"] > found["words_accuracy_mismatched"]
    assert found["accuracy_mismatched"] >= 0.8


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({**BOTH, "inputs": ["response"], "train": {"texts": "tone"}}, "inputs has only response; the response and"),
        ({"kind": "preference", "train": {}}, "objective pairs has no class for bad examples; set it to 0"),
        (
            {**BOTH, "output": "logit", "train": {"objective": "scores", "texts": "responses", "column": "stars"}},
            "objective scores has no class for bad examples",
        ),
        ({**BOTH, "train": {"texts": "three"}}, "clean.labels.three has 3 classes; two are needed"),
        ({**BOTH, "train": {"texts": "tone", "mismatched": -1}}, "mismatched is -1, but must be from 0 to 100"),
    ],
)
def test_what_cannot_be_mismatched_is_refused(tmp_path, spec, message):
    labels = {**LABELS, "three": {**LABELS["tone"], "classes": [[0], [1], [2]]}}
    spec = {**spec, "train": {"mismatched": 0.5, **spec["train"]}}
    try:
        found = [str(e) for e in reward_parameters.check(load(tmp_path, {"it": spec}, clean={"labels": labels}))]
    except InputError as error:
        found = [str(error)]
    assert len(found) == 1 and message in found[0] and "rewards.it.train.mismatched" in found[0]


def test_votes_on_responses_are_mismatched_with_the_prompts_of_others(tmp_path):
    rows = [row(f"q {i}", f"r {i}", up=1) for i in range(20)] + [row("q 0", "poor", 1, up=0)]
    clean = write_clean(tmp_path / "clean", train=rows)
    keys = {"objective": "labels", "texts": "responses", "column": "up"}
    built = options(tmp_path, 1.0, {"kind": "preference"}, **keys)
    found = mismatched.added(gather(clean, built, "w"), built, "w")
    assert found.mismatched == 20 and "poor" not in {r for _, r, _ in made(found)}
    assert all(p.split()[1] != r.split()[1] for p, r, _ in made(found))
