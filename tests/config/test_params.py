"""params.yaml: merging, strictness, and one comment for every key."""

from __future__ import annotations

import re

import pytest
from ruamel.yaml import YAML

from alol.base.errors import InputError
from alol.config import params
from tests.closure import ROOT


@pytest.fixture
def edited(tmp_path):
    """params.yaml with leaves set by their dotted keys; `...` deletes one."""

    def edit(**changes):
        raw = YAML(typ="safe").load(ROOT / "params.yaml")
        for key, value in changes.items():
            *parents, leaf = key.split("__")
            table = raw
            for part in parents:
                table = table[part]
            if value is ...:
                del table[leaf]
            else:
                table[leaf] = value
        path = tmp_path / "params.yaml"
        YAML(typ="safe").dump(raw, path)
        return path

    return edit


def test_a_task_is_merged_over_the_defaults(edited):
    path = edited(tasks__demo__train={"batch_size": 3, "optimizer": {"lr": 0.5}}, defaults__train__evaluations=77)
    train = params.load("demo", "nll", path).train
    assert (train.batch_size, train.evaluations, train.optimizer.lr, train.optimizer.eps) == (3, 77, 0.5, 1e-8)


def test_options_are_merged_over_their_formats(edited):
    own = {"format": "table", "options": {"train": "x.csv", "prompt": "q", "response": "a", "shares": {"test": 0.3}}}
    path = edited(tasks__demo__clean=own, defaults__clean__formats__table__shares={"validation": 0.2, "test": 0.1})
    expected = {
        "train": "x.csv", "prompt": "q", "response": "a", "shares": {"validation": 0.2, "test": 0.3},
        "validation": None, "test": None, "seed": 1, "id": None, "preference": None, "context": {},
    }  # fmt: skip
    assert params.load("demo", "nll", path).clean.options == expected


def test_a_kind_may_be_made_of_another(edited):
    kinds = {"a": {"kind": "b", "model": "mine"}, "b": {"kind": "preference", "model": "other", "output": "logit"}}
    changes = {f"defaults__rewards__kinds__{name}": table for name, table in kinds.items()}
    path = edited(**changes, tasks__demo__rewards={"x": {"kind": "a", "max_length": 7}}, tasks__demo__test_rewards={})
    found = params.load("demo", "nll", path).rewards["x"]
    assert {key: found[key] for key in ("kind", "model", "output", "max_length", "low")} == {
        "kind": "preference", "model": "mine", "output": "logit", "max_length": 7, "low": 0.0,
    }  # fmt: skip


def test_the_files_own_task_and_algorithm_are_the_default(edited):
    loaded = params.load(path=edited(algorithm="wbc"))
    assert (loaded.task, loaded.algorithm, loaded.hyperparameters) == ("demo", "wbc", {})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task": "nope"}, "unknown task 'nope'; known: comet"),
        ({"algorithm": "nope"}, "unknown algorithm 'nope'; known: a_lol, a_lol_kl"),
        ({"tasks__demo__train": {"batchsize": 3}}, "unknown key 'batchsize' in tasks.demo.train"),
        ({"defaults__train__sampling": ...}, "missing key 'sampling' in tasks.demo.train"),
        ({"tasks__demo__trian": {}}, "unknown key 'trian' in tasks.demo"),
        ({"tasks__demo__value": ...}, "tasks.demo lacks the sections ['value']; write `value: {}`"),
        ({"launch__processes": "two"}, "launch.processes is 'two', but must be an integer"),
        ({"launch__device": "tpu"}, "launch.device is 'tpu'; known: auto, cpu"),
        ({"defaults__train__updates": 1.5}, "tasks.demo.train.updates is 1.5, but must be an integer"),
        (
            {"tasks__demo__rewards": {"x": {"kind": "nope"}}},
            "unknown reward kind at tasks.demo.rewards.x: 'nope'; known: class",
        ),
        (
            {"defaults__rewards__kinds__classifier": {"kind": "classifier"}},
            "unknown reward kind at defaults.rewards.kinds.classifier: 'classifier'; known: critic, depth,",
        ),
        ({"defaults__rewards__kinds__classifier": None}, "defaults.rewards.kinds.classifier must be a table of keys"),
        ({"tasks__demo__rewards__helpful__kind": ["tfidf"]}, "unknown reward kind at tasks.demo.rewards.helpful:"),
        ({"defaults__clean__formats": ...}, "missing key 'formats' in defaults.clean"),
        ({"defaults__clean__formats__demo": 3}, "defaults.clean.formats.demo must be a table of keys, not 3"),
        ({"tasks__demo__clean__format": ["demo"]}, "tasks.demo.clean.format is ['demo'], but must be a text"),
        ({"tasks__demo__clean__options": 3}, "tasks.demo.clean.options must be a table of keys, not 3"),
        ({"tasks__demo__rewards": {}}, "tasks.demo.rewards must name at least one reward component"),
        ({"seed": "one"}, "seed is 'one', but must be an integer"),
        ({"surprise": 1}, "unknown key 'surprise'"),
    ],
)
def test_mistakes_are_named(edited, changes, message):
    with pytest.raises(InputError) as error:
        params.load(path=edited(**changes))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_no_mistake_of_any_key_is_a_traceback(monkeypatch):
    raw = YAML(typ="safe").load(ROOT / "params.yaml")
    raw["tasks"] = {"demo": raw["tasks"]["demo"]}
    monkeypatch.setattr(params, "read", lambda path: raw)
    assert params.load()
    refused = 0
    for table, key in [*tables(raw["defaults"]), *tables(raw["tasks"]["demo"])]:
        right = table[key]
        for wrong in (..., None, 3, ["x"], "x"):
            table[key] = wrong
            if wrong is ...:
                del table[key]
            try:
                params.load()
            except InputError:
                refused += 1
            table[key] = right
    assert refused > 600


def tables(table):
    """Every table within a table, with each of its keys."""
    for key, value in list(table.items()):
        yield table, key
        if isinstance(value, dict):
            yield from tables(value)


def test_a_syntax_error_names_its_line(tmp_path):
    path = tmp_path / "params.yaml"
    path.write_text("task: demo\nseed: [1\n")
    with pytest.raises(InputError, match="line 3: not valid YAML"):
        params.load(path=path)


def test_every_key_has_a_comment():
    text = (ROOT / "params.yaml").read_text(encoding="utf-8").split("\ntasks:\n")[0]
    assert [line for line in text.splitlines() if re.match(r"\s*\w+: \S", line) and " # " not in line] == []
