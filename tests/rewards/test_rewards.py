"""Rewards that need no network: bounds, checks, Python functions, tf-idf and stored scores."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

import custom
from alol import rewards
from alol.base.errors import InputError
from alol.base.files import read_json
from alol.checks import reward_parameters
from alol.data import schema
from alol.rewards import tfidf, training
from alol.rewards.options import KINDS
from alol.rewards.python import resolve
from stages import annotate, baseline, reward_model
from tests.reward_project import load, row, write_clean

LENGTH = {"kind": "python", "function": "custom.alol_test_rewards.length", "low": 0.0, "high": None}
MODULE = """
def length(prompt, response, context):
    return [float(len(text)) for text in response]

def constant(prompt, response, context):
    return [context[0]["give"]] * len(response)

def short(prompt, response, context):
    return [0.5]

def words(prompt, response, context):
    return ["good"] * len(response)

def broken(prompt, response, context):
    return [1 / 0 for _ in response]

def two(prompt, response):
    return [0.0]

one_number = 3
"""


@pytest.fixture(autouse=True)
def module(tmp_path, monkeypatch):
    """A user's modules of reward functions, found in custom/."""
    (tmp_path / "alol_test_rewards.py").write_text(MODULE, encoding="utf-8")
    (tmp_path / "alol_test_faulty.py").write_text("import nothing_like_this\n", encoding="utf-8")
    monkeypatch.setattr(custom, "__path__", [str(tmp_path), *custom.__path__])
    sys.modules.pop("custom.alol_test_rewards", None)


def loaded(tmp_path: Path, specs: dict, folder: Path | None = None) -> rewards.Rewards:
    given = load(tmp_path, specs)
    return rewards.load(given.rewards, folder or tmp_path / "reward_model", given.launch)


def python(name: str, **keys) -> dict:
    return {"kind": "python", "function": f"custom.alol_test_rewards.{name}", **keys}


def test_every_kind_of_params_yaml_has_options_and_a_class(tmp_path):
    import importlib

    given = load(tmp_path, {"length": LENGTH})
    assert given.rewards["length"]["kind"] == "python"
    for _, dotted in KINDS.values():
        module, _, name = dotted.partition(":")
        assert hasattr(importlib.import_module(module), name)


def test_checking_parameters_imports_no_deep_learning_library():
    code = "import sys, alol.rewards; assert not {'torch', 'transformers', 'sklearn'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_negative_weight_swaps_the_bounds_and_an_open_bound_stays_open():
    specs = {"a": {"low": 0.0, "high": 1.0}, "b": {"low": -2.0, "high": 3.0}, "c": {"low": 0.0, "high": None}}
    assert rewards.bounds(specs, {"a": 2.0, "b": -1.0}, 0.5) == (-2.5, 4.5)
    assert rewards.bounds(specs, {"a": 1.0, "c": 1.0}, 0.0) == (0.0, None)
    assert rewards.bounds(specs, {"a": 1.0, "c": -1.0}, 0.0) == (None, 1.0)
    assert rewards.bounds(specs, {"a": 1.0, "c": 0.0}, 0.0) == (0.0, 1.0)


def test_the_total_is_the_shifted_weighted_sum():
    scores = {"a": np.array([0.5, 1.0]), "b": np.array([2.0, -2.0])}
    assert rewards.total(scores, {"a": 2.0, "b": -0.5}, 1.0).tolist() == [1.0, 4.0]


def test_a_python_function_scores_every_response_in_order(tmp_path):
    scores = loaded(tmp_path, {"length": LENGTH}).score(["p", "p", "p"], ["abc", "", "ab"], [{}, {}, {}])
    assert scores["length"].tolist() == [3.0, 0.0, 2.0]
    assert scores["length"].dtype == np.float64


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_score_that_is_not_finite_is_refused(tmp_path, value):
    components = loaded(tmp_path, {"odd": python("constant")})
    with pytest.raises(InputError, match=r"'odd' gave -?(nan|inf) for row 0 .*finite"):
        components.score(["p"], ["r"], [{"give": value}])


def test_a_score_outside_its_bounds_names_component_row_and_value(tmp_path):
    components = loaded(tmp_path, {"length": {**LENGTH, "high": 2.0}})
    with pytest.raises(InputError, match=r"'length' gave 5 for row 1 .*\[0, 2\].*rewards\.length\.low"):
        components.score(["p", "p"], ["ab", "abcde"], [{}, {}])


def test_rounding_beyond_a_bound_passes(tmp_path):
    scores = loaded(tmp_path, {"odd": python("constant")}).score(["p"], ["r"], [{"give": 1 + 5e-7}])
    assert scores["odd"].tolist() == [1 + 5e-7]


def test_a_wrong_number_of_scores_or_no_numbers_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"'short' returned 1 scores for 2 responses"):
        loaded(tmp_path, {"short": python("short")}).score(["p"] * 2, ["r"] * 2, [{}] * 2)
    with pytest.raises(InputError, match=r"'words' must return a list of 2 numbers"):
        loaded(tmp_path, {"words": python("words")}).score(["p"] * 2, ["r"] * 2, [{}] * 2)


def test_an_error_inside_the_users_function_names_its_line(tmp_path):
    with pytest.raises(InputError, match=r"broken failed: ZeroDivisionError.*alol_test_rewards\.py, line 15"):
        loaded(tmp_path, {"broken": python("broken")}).score(["p"], ["r"], [{}])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("custom.nothing_here.reward", r"importing custom\.nothing_here failed: ModuleNotFoundError"),
        ("custom.alol_test_rewards.missing", "alol_test_rewards has no function 'missing'"),
        ("custom.alol_test_rewards.one_number", "has no function 'one_number'"),
        ("custom.alol_test_rewards.two", "cannot be called with three arguments"),
        (
            "custom.alol_test_faulty.reward",
            r"importing custom\.alol_test_faulty failed: .*\(alol_test_faulty.py, line 1\)",
        ),
        ("reward", "name a function of custom/"),
        (None, "name a function of custom/"),
    ],
)
def test_a_wrong_dotted_path_is_explained_in_one_line(name, message):
    with pytest.raises(InputError, match=message) as caught:
        resolve(name, "rewards.mine")
    assert "\n" not in str(caught.value)


def test_idf_is_smooth():
    idf = tfidf.fit(["the cat", "the dog"])
    assert idf == {"the": 1.0, "cat": pytest.approx(math.log(1.5) + 1), "dog": pytest.approx(math.log(1.5) + 1)}


def test_tfidf_equals_scikit_learn(tmp_path):
    from sklearn.feature_extraction.text import TfidfVectorizer

    train = ["the quick brown fox jumps over it", "the lazy dog sleeps all day long", "a quick day for the fox"]
    texts = ["The quick fox and the lazy dog sleep all day", "fox fox dog", "unknown words", ""]
    tfidf.save(tmp_path / "reward_model" / "words", tfidf.fit(train))
    components = loaded(tmp_path, {"words": {"kind": "tfidf"}})
    scores = components.score([""] * 4, texts, [{}] * 4)["words"]
    vectors = TfidfVectorizer().fit(train).transform(texts)
    means = [vector.data.mean() if vector.nnz else 0.0 for vector in vectors]
    assert scores[0] == pytest.approx(means[0], rel=1e-9)  # seven known words: no penalty
    assert scores[1] == pytest.approx(means[1] * 2 / 10, rel=1e-9)  # two distinct words
    assert scores[2:].tolist() == [0.0, 0.0]


def stored(**keys) -> dict:
    scorer = {**LENGTH, "high": None}
    return {"kind": "stored", "column": "given", "scorer": scorer, "low": None, "high": None, **keys}


def test_a_stored_score_is_used_for_the_sources_texts_alone(tmp_path):
    contexts = [{"given": 2.01}, {}, {"given": None}]
    components = loaded(tmp_path, {"stored": stored()})
    texts = ["p"] * 3, ["ab", "abc", "abcd"], contexts
    assert components.score(*texts, origin="source")["stored"].tolist() == [2.01, 3.0, 4.0]
    assert components.score(*texts)["stored"].tolist() == [2.0, 3.0, 4.0]


def test_a_stored_score_that_the_scorer_contradicts_is_refused(tmp_path):
    components = loaded(tmp_path, {"stored": stored()})
    with pytest.raises(InputError, match=r"context\.given.*scorer by 1\.0000 on average over 2 rows"):
        components.score(["p"] * 2, ["a", "ab"], [{"given": 0.0}, {"given": 3.0}], origin="source")


def test_a_stored_logit_passes_through_the_sigmoid_without_overflow(tmp_path):
    components = loaded(tmp_path, {"stored": stored(output="sigmoid", checked=0)})
    contexts = [{"given": value} for value in (0.0, math.log(3), -1000.0, 1000)]
    scores = components.score(["p"] * 4, ["a"] * 4, contexts, origin="source")["stored"]
    assert scores.tolist() == pytest.approx([0.5, 0.75, 0.0, 1.0])


def test_a_stored_score_that_is_no_number_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"context\.given of row 0 is 'high', not a number"):
        loaded(tmp_path, {"stored": stored()}).score(["p"], ["a"], [{"given": "high"}], origin="source")


def test_right_parameters_pass_the_check(tmp_path):
    labels = {"mine": {"file": "a.csv", "response": "r", "label": "l", "classes": [[0], [1]]}}
    specs = {
        "length": LENGTH,
        "words": {"kind": "tfidf"},
        "safe": {"kind": "classifier", "inputs": ["context.parent", "response"], "train": {"texts": "mine"}},
        "fluent": {"kind": "classifier", "model": "textattack/roberta-base-CoLA"},
        "liked": stored(scorer={"kind": "preference", "train": {}}),
    }
    assert reward_parameters.check(load(tmp_path, specs, clean={"labels": labels})) == []


@pytest.mark.parametrize(
    ("specs", "sections", "message"),
    [
        ({"a": LENGTH}, {"reward": {"weights": {"a": 1.0, "b": 1.0}}}, "reward.weights.b is of no component; known: a"),
        ({"a": LENGTH}, {"reward": {"weights": {}}}, "lacks the component 'a'"),
        ({"a": LENGTH}, {"reward": {"weights": {"a": math.inf}}}, "weights.a is inf"),
        ({"a": {**LENGTH, "high": -1.0}}, {}, "rewards.a.low is 0, which is not below rewards.a.high, -1"),
        ({"a": {**LENGTH, "function": "custom.alol_test_rewards.two"}}, {}, "cannot be called with three arguments"),
        ({"a": {**LENGTH, "colour": 1}}, {}, "rewards.a.colour is unknown"),
        ({"a": {"kind": "classifier"}}, {}, "has neither of `model`"),
        ({"a": {"kind": "preference", "model": "x/y", "train": {}}}, {}, "has both of `model`"),
        ({"a": {"kind": "classifier", "train": {"texts": "z"}}}, {}, "texts is 'z', which is no entry of clean.labels"),
        ({"a": {"kind": "classifier", "model": "/absent/folder"}}, {}, "/absent/folder does not exist"),
        ({"a": {"kind": "classifier", "model": "x/y", "inputs": ["text"]}}, {}, "names the unknown text 'text'"),
        ({"a": {"kind": "classifier", "model": "x/y", "inputs": []}}, {}, "has 0 texts"),
        ({"a": {"kind": "preference", "train": {"texts": "z"}}}, {}, "is trained on 'pairs'"),
        ({"a": {"kind": "preference", "train": {"heads": 3}}}, {}, "width is 128, which 3 heads do not divide"),
        ({"a": {"kind": "preference", "train": {"folds": 1}}}, {}, "folds is 1"),
        ({"a": {"kind": "stored", "column": "c"}}, {}, "rewards.a.scorer is not set"),
        ({"a": stored(column=None)}, {}, "column is not set"),
        ({"a": stored(scorer=stored())}, {}, "scorer is itself stored"),
        ({"a": stored(scorer={"kind": "preference"})}, {}, "rewards.a.scorer has neither"),
        ({"a": {"kind": "tfidf", "divisor": 0}}, {}, "rewards.a.divisor is 0"),
    ],
)
def test_the_check_names_each_mistake_in_one_line(tmp_path, specs, sections, message):
    try:
        lines = [str(error) for error in reward_parameters.check(load(tmp_path, specs, **sections))]
    except InputError as error:  # what the loader knows by itself
        lines = [str(error)]
    assert len(lines) == 1
    assert message in lines[0]
    assert "\n" not in lines[0]


def test_the_stages_write_one_column_per_component(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    specs = {"length": LENGTH, "words": {"kind": "tfidf"}, "stored": stored(tolerance=1.0)}
    load(tmp_path, specs)
    rows = [row("p", "one two", given=6.5), row("p", "three", rank=1, given=5.5)]
    write_clean(tmp_path / "data/clean/mine", train=rows, validation=rows[:1])
    for stage in (reward_model, annotate):
        assert CliRunner().invoke(stage.main, ["--task", "mine"], catch_exceptions=False).exit_code == 0
    assert Path("metrics/reward_model.json").read_text() == "{}\n"
    found = schema.rows(Path("data/annotated/mine/train.parquet"))
    assert [r["reward_length"] for r in found] == [7.0, 5.0]
    assert [r["reward_stored"] for r in found] == [6.5, 5.5]
    assert found[0]["reward_words"] == pytest.approx(math.sqrt(0.5) * 2 / 10)  # two equal entries of a unit vector
    assert [{k: v for k, v in r.items() if not k.startswith("reward_")} for r in found] == rows
    for split in ("validation", "test"):
        rollouts = [{k: v for k, v in rows[0].items() if k != "rank"}]
        schema.write(Path(f"data/rollouts/mine/{split}.parquet"), schema.ROLLOUTS, rollouts)
    assert CliRunner().invoke(baseline.main, ["--task", "mine"], catch_exceptions=False).exit_code == 0
    [found] = schema.rows(Path("data/baselines/mine/test.parquet"))
    assert found["reward_stored"] == 7.0  # of the scorer: the stored score belongs to another response


def test_a_bad_score_in_a_table_names_the_table_in_one_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    load(tmp_path, {"length": {**LENGTH, "high": 5.0}})
    write_clean(tmp_path / "data/clean/mine")
    result = CliRunner().invoke(annotate.main, ["--task", "mine"])
    assert result.exit_code == 1
    assert "train.parquet, rows from 0 on: reward component 'length' gave 10 for row 0" in result.output
    assert not Path("data/annotated/mine").exists()


def test_a_task_without_trained_components_gets_a_folder_that_says_what_they_are(tmp_path):
    given = load(tmp_path, {"length": LENGTH})
    assert training.train(given.rewards, tmp_path, tmp_path / "out", given.launch) == {}
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["settings.json"]
    assert read_json(tmp_path / "out/settings.json") == {"rewards": {"length": {**LENGTH, "low": 0.0, "high": None}}}
