"""The YAML files: merging, strictness, and a comment, with its range where it is a number, for every key."""

from __future__ import annotations

import re

import pytest

from alol.base.errors import InputError, ParameterError
from alol.config import params, places, yaml_files
from alol.config.ranges import ANY, Range, above, at_least, between
from benchmarks import project
from tests.closure import ROOT
from tests.config import numbers


@pytest.fixture
def edited(tmp_path):
    """A project with leaves set by their dotted keys; `...` deletes one."""

    def edit(**changes):
        raw = project.parameters("demo")
        for key, value in changes.items():
            *parents, leaf = key.split("__")
            table = raw
            for part in parents:
                table = table[part]
            if value is ...:
                del table[leaf]
            else:
                table[leaf] = value
        project.write(tmp_path, raw)
        return tmp_path

    return edit


def test_a_task_is_merged_over_the_defaults(edited):
    root = edited(tasks__demo__train={"batch_size": 3, "optimizer": {"lr": 0.5}}, defaults__train__evaluations=77)
    train = params.load("demo", "nll", root).train
    assert (train.batch_size, train.evaluations, train.optimizer.lr, train.optimizer.eps) == (3, 77, 0.5, 1e-8)


def test_options_are_merged_over_their_formats(edited):
    own = {"format": "table", "options": {"train": "x.csv", "prompt": "q", "response": "a", "shares": {"test": 0.3}}}
    root = edited(tasks__demo__clean=own, defaults__clean__formats__table__shares={"validation": 0.2, "test": 0.1})
    expected = {
        "train": "x.csv", "prompt": "q", "response": "a", "shares": {"validation": 0.2, "test": 0.3},
        "validation": None, "test": None, "seed": 1, "id": None, "preference": None, "context": {}, "marks": [],
    }  # fmt: skip
    assert params.load("demo", "nll", root).clean.options == expected


def test_a_kind_may_be_made_of_another(edited):
    kinds = {"a": {"kind": "b", "model": "mine"}, "b": {"kind": "preference", "model": "other", "output": "logit"}}
    changes = {f"defaults__rewards__kinds__{name}": table for name, table in kinds.items()}
    root = edited(**changes, tasks__demo__rewards={"x": {"kind": "a", "max_length": 7}}, tasks__demo__test_rewards={})
    found = params.load("demo", "nll", root).rewards["x"]
    assert {key: found[key] for key in ("kind", "model", "output", "max_length", "low")} == {
        "kind": "preference", "model": "mine", "output": "logit", "max_length": 7, "low": 0.0,
    }  # fmt: skip


def test_the_files_own_task_and_algorithm_are_the_default(edited):
    loaded = params.load(root=edited(algorithm="wbc"))
    assert (loaded.task, loaded.algorithm, loaded.hyperparameters) == ("demo", "wbc", {})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task": "nope"}, "unknown task 'nope'; known: demo"),
        ({"task": "defaults"}, "tasks/defaults.yaml holds what tasks share and is no task"),
        (
            {"algorithm": "nope"},
            "params.yaml: algorithm is 'nope', which has no entry in `algorithms`; known: a_lol, a_l",
        ),
        (
            {"tasks__demo__train": {"batchsize": 3}},
            "tasks/demo.yaml: train.batchsize is unknown; known keys of train: ",
        ),
        ({"defaults__train__sampling": ...}, "tasks/defaults.yaml: train.sampling is missing"),
        ({"tasks__demo__trian": {}}, "tasks/demo.yaml: the section trian is unknown; known: source, clean"),
        ({"tasks__demo__seed": 2}, "tasks/demo.yaml: the section seed is unknown; it belongs into params.yaml"),
        ({"defaults__value__folds": ...}, "tasks/defaults.yaml: value.folds is missing"),
        ({"tasks__demo__value": ...}, "tasks/demo.yaml lacks the sections value; write `value: {}`"),
        ({"defaults__value": ...}, "tasks/defaults.yaml lacks the sections value"),
        ({"launch__processes": "two"}, "params.yaml: launch.processes is 'two', but must be an integer"),
        (
            {"launch__score_batch": 8},
            "params.yaml: launch.score_batch is now `batch_size` of each kind of reward that is a network "
            "(tasks/shared/rewards.yaml, or a component's own); set it there and delete it here",
        ),
        ({"launch__device": "tpu"}, "params.yaml: launch.device is 'tpu'; known: auto, cpu"),
        ({"defaults__train__updates": 1.5}, "tasks/defaults.yaml: train.updates is 1.5, but must be an integer"),
        (
            {"tasks__demo__rewards": {"x": {"kind": "nope"}}},
            "tasks/demo.yaml: rewards.x.kind is 'nope', which is no reward kind; known: class",
        ),
        (
            {"defaults__rewards__kinds__classifier": {"kind": "classifier"}},
            "shared/rewards.yaml: kinds.classifier.kind is 'classifier', which is no reward kind; known: critic,",
        ),
        (
            {"defaults__rewards__kinds__classifier": None},
            "tasks/shared/rewards.yaml: kinds.classifier is None, but must be a table of keys",
        ),
        ({"tasks__demo__rewards__helpful__kind": ["tfidf"]}, "rewards.helpful.kind is ['tfidf'], which is no reward"),
        (
            {"defaults__clean__formats__demo": 3},
            "tasks/shared/clean.yaml: formats.demo is 3, but must be a table of keys",
        ),
        ({"defaults__rewards__training": ...}, "tasks/shared/rewards.yaml: training is missing"),
        ({"tasks__demo__clean__format": ["demo"]}, "clean.format is ['demo'], but must be a text"),
        ({"tasks__demo__clean__options": 3}, "clean.options is 3, but must be a table of keys"),
        ({"tasks__demo__rewards": {}}, "tasks/demo.yaml: rewards must name at least one reward component"),
        ({"seed": "one"}, "params.yaml: seed is 'one', but must be an integer"),
        ({"surprise": 1}, "params.yaml: surprise is unknown"),
        ({"tasks": {"demo": {}}}, "tasks/demo.yaml lacks the sections source, clean, "),
    ],
)
def test_mistakes_are_named(edited, changes, message):
    with pytest.raises(InputError) as error:
        params.load(root=edited(**changes))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_params_yaml_of_the_older_layout_is_told_where_its_parts_go(tmp_path):
    (tmp_path / "params.yaml").write_text("task: demo\ndefaults: {}\ntasks: {demo: {}}\n")
    with pytest.raises(
        InputError, match=r"older layout: move what is under `defaults` to tasks/defaults\.yaml and each"
    ):
        params.load(root=tmp_path)


def test_files_that_cannot_be_read_are_named(edited):
    root = edited()
    (root / "tasks/demo.yaml").write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match=r"demo\.yaml: not valid YAML"):
        params.load(root=root)
    (root / "tasks/demo.yaml").write_text("")
    with pytest.raises(InputError, match=r"demo\.yaml must be a table of keys, but is empty"):
        params.load(root=root)
    (root / "params.yaml").unlink()
    (root / "params.yaml").mkdir()
    with pytest.raises(InputError, match=r"params\.yaml cannot be read: Is a directory"):
        params.load(root=root)


def test_no_mistake_of_any_key_is_a_traceback():
    raw, *shared, own = project.files(project.parameters("demo")).values()
    assert params.merged(raw, yaml_files.joined(*shared), own, "demo", None)
    refused = 0
    every = [at for table in (own, *shared, raw["launch"]) for at in tables(table)]
    for table, key in [*every, (raw, "seed"), (raw, "algorithm")]:
        right = table[key]
        for wrong in (..., None, -3, ["x"], "x", 10**22):
            table[key] = wrong
            if wrong is ...:
                del table[key]
            try:
                params.merged(raw, yaml_files.joined(*shared), own, "demo", None)
            except InputError as error:
                refused += 1
                assert "\n" not in str(error)
            except KeyError:
                assert wrong is ... and table is raw  # the file's own keys are checked as it is read
            table[key] = right
    assert refused > 800


def tables(table):
    """Every table within a table, with each of its keys."""
    for key, value in list(table.items()):
        yield table, key
        if isinstance(value, dict):
            yield from tables(value)


def test_a_syntax_error_names_its_line(tmp_path):
    (tmp_path / "params.yaml").write_text("task: demo\nseed: [1\n")
    with pytest.raises(InputError, match=r"line 3: not valid YAML"):
        params.load(root=tmp_path)


SHARED = ["params.yaml", *map(str, yaml_files.SHARED)]
FILES = ["params.yaml", *(str(path.relative_to(ROOT)) for path in sorted((ROOT / "tasks").rglob("*.yaml")))]


def test_every_key_has_a_comment():
    for name in SHARED:
        lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
        bare = [line for line in lines if re.match(r"\s*\w+: \S", line) and " # " not in line]
        assert [line for line in bare if not line.strip().startswith("system:")] == []  # its comment is the line above


def lines_of(name: str) -> dict[str, str]:
    """Dotted key -> its line in a YAML file."""
    from ruamel.yaml import YAML

    text = (ROOT / name).read_text(encoding="utf-8")
    lines, found = text.splitlines(), {}

    def walk(table, where):
        for key, value in table.items():
            found[f"{where}{key}"] = lines[table.lc.data[key][0]]
            if isinstance(value, dict):
                walk(value, f"{where}{key}.")

    walk(YAML().load(text), "")
    return found


def test_every_number_has_a_range_and_its_comment_says_which():
    lines = {name: lines_of(name) for name in SHARED}
    told = 0
    for (name, key), text in numbers.texts().items():
        if (line := lines[name].get(key)) is not None:  # the others stand in the tasks that need them
            assert text in line.partition("#")[2], f"{name}: {key} must say: {text}"
            told += 1
    assert told > 140


@pytest.mark.parametrize("name", FILES)
def test_dvc_writes_the_files_as_they_are(name, tmp_path):
    """`-S` loads a file, sets a key and dumps all of it: without a change, the file stays as it is to the byte."""
    from dvc.utils.hydra import apply_overrides

    path = tmp_path / "file.yaml"
    path.write_bytes((ROOT / name).read_bytes())
    apply_overrides(path, [])
    assert path.read_text(encoding="utf-8") == (ROOT / name).read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("where", "right", "wrong", "text"),
    [
        (at_least(1), (1, 2.5), (0, -1), "at least 1"),
        (above(0), (1e-9, 5), (0, -1), "above 0"),
        (between(0, 0.5), (0, 0.5), (-0.1, 0.6), "from 0 to 0.5"),
        (Range(0, 1, high_open=True), (0, 0.99), (1, -1), "at least 0 and below 1"),
        (ANY, (-1e9, 0), (), "any number"),
    ],
)
def test_a_range_takes_what_it_says(where, right, wrong, text):
    assert [where.problem(value) for value in right] == [None] * len(right)
    assert [where.problem(value) for value in wrong] == [f"must be {text}"] * len(wrong)
    assert str(where) == text


def test_a_parameter_is_looked_for_where_it_stands():
    raw = project.parameters("demo")
    own, defaults = raw["tasks"]["demo"], raw["defaults"]
    own["rewards"] |= {"fluent": {"kind": "fluency"}, "liked": {"kind": "stored", "scorer": {"kind": "preference"}}}
    for key, expected in {
        "launch.tokens": ("params.yaml", "launch.tokens"),
        "algorithms.a_lol.clip": ("params.yaml", "algorithms.a_lol.clip"),
        "train.optimizer.lr": ("tasks/demo.yaml", "train.optimizer.lr"),
        "train.optimizer.betas[1]": ("tasks/defaults.yaml", "train.optimizer.betas"),
        "rewards.helpful.max_length": ("tasks/demo.yaml", "rewards.helpful.max_length"),
        "rewards.helpful.label": ("tasks/shared/rewards.yaml", "kinds.classifier.label"),
        "rewards.helpful.train.lr": ("tasks/shared/rewards.yaml", "training.lr"),
        "rewards.fluent.label": ("tasks/shared/rewards.yaml", "kinds.classifier.label"),
        "rewards.fluent.model": ("tasks/shared/rewards.yaml", "kinds.fluency.model"),
        "rewards.liked.scorer.train.lr": ("tasks/shared/rewards.yaml", "training.lr"),
        "rewards.liked.scorer.batch_size": ("tasks/shared/rewards.yaml", "kinds.preference.batch_size"),
        "rewards.liked.scorer.human": ("tasks/shared/rewards.yaml", "kinds.preference.human"),
        "source.corpus.sha256": ("tasks/demo.yaml", "source.corpus.sha256"),
        "clean.labels.ratings.context": ("tasks/shared/clean.yaml", "label_texts.context"),
        "nothing.of.the.kind": ("tasks/demo.yaml", "nothing.of.the.kind"),
    }.items():
        file, found = places.place(key, "demo", own, defaults)
        assert (str(file), found) == expected
    error = places.located(ParameterError("train.optimizer.eps", "is -1"), "demo", ROOT)
    assert str(error) == "tasks/defaults.yaml: train.optimizer.eps is -1"
