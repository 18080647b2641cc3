"""Which runs a sweep has: the table, its settings, and what is refused before anything runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from alol.base.errors import InputError
from alol.config import params, yaml_files
from alol.evaluation import results, revisions
from alol.sweeps import tables
from tests import small


@pytest.fixture
def project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    small.write(tmp_path)
    return tmp_path


def test_all_algorithms_of_a_seed_come_before_the_next_seed(project):
    runs = tables.planned([{"algorithms": ["nll", "a_lol"], "seeds": [3, 1]}])
    assert [(run.params.algorithm, run.params.seed) for run in runs] == [
        ("nll", 3), ("a_lol", 3), ("nll", 1), ("a_lol", 1),
    ]  # fmt: skip
    assert {run.params.task for run in runs} == {"demo"}
    assert runs[0].path == Path("results/demo") / f"nll-3-{results.digest(runs[0].params)[:8]}.json"


@pytest.mark.parametrize(("task", "algorithm"), [("chitchat", "wbc"), ("comet_135m", "a_lol"), ("hha_135m", "nll")])
def test_a_published_run_is_known_by_the_parameters_of_today(task, algorithm):
    """Keys that came later have no part in its digest, as long as they say what was fixed before."""
    assert results.finished(params.load(task, algorithm, small.ROOT), small.ROOT)


def test_a_column_that_is_left_out_is_what_params_yaml_says(project):
    (run,) = tables.planned([{}])
    assert (run.params.task, run.params.algorithm, run.params.seed) == ("demo", "a_lol", 1)
    assert run.params == params.load()


def test_a_setting_of_another_algorithm_makes_no_other_run(project):
    settings = tables.alternatives(["algorithms.a_lol_kl.kl_beta=0.1,0.5"])
    runs = tables.planned([{"algorithms": ["nll", "a_lol_kl"], "settings": settings}])
    assert [(run.params.algorithm, run.params.hyperparameters) for run in runs] == [
        ("nll", {}), ("a_lol_kl", {"kl_beta": 0.1}), ("a_lol_kl", {"kl_beta": 0.5}),
    ]  # fmt: skip


def test_settings_are_all_combinations_of_values_written_as_in_yaml():
    found = tables.alternatives(["train.epochs=1,0.5", "tasks/x.yaml:train.optimizer.betas=[0.9, 0.95]", "a=null"])
    assert found == [
        {"train.epochs": 1, "tasks/x.yaml:train.optimizer.betas": [0.9, 0.95], "a": None},
        {"train.epochs": 0.5, "tasks/x.yaml:train.optimizer.betas": [0.9, 0.95], "a": None},
    ]
    assert tables.alternatives([]) == [{}]


def test_a_key_alone_stands_in_the_task_or_in_params_yaml(project):
    changes = {"train.filter": "positive", "algorithms.a_lol.clip": 0.5, "tasks/defaults.yaml:value.dropout": 0.25}
    (run,) = tables.planned([{"settings": [changes]}])
    assert run.params.train.filter == "positive"
    assert run.params.hyperparameters == {"clip": 0.5}
    assert run.params.value.dropout == 0.25
    assert run.label == (
        "demo a_lol seed 1 train.filter=positive algorithms.a_lol.clip=0.5 tasks/defaults.yaml:value.dropout=0.25"
    )
    target = project / "copy"
    target.mkdir()
    run.write(project, target)
    assert params.load(root=target) == run.params
    unchanged = yaml_files.REWARDS
    assert (target / unchanged).read_bytes() == (project / unchanged).read_bytes()
    assert params.load(root=project) != run.params  # the project's own files are as they were


def test_runs_share_the_stages_before_training_unless_these_read_what_differs(project):
    settings = [{}, {"train.epochs": None, "train.updates": 9}, {"reference.seed": 8}]
    runs = tables.planned([{"algorithms": ["nll", "a_lol"], "seeds": [1, 2], "settings": settings}])
    shared = [same for _, same in tables.by_shared(runs)]
    assert [len(same) for same in shared] == [8, 4]
    assert {run.params.reference.seed for run in shared[1]} == {8}


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"algorithms": ["nope"]}, "demo nope : params.yaml: algorithm is 'nope', which has no entry"),
        ({"tasks": ["nope"]}, "unknown task 'nope'; known: demo"),
        ({"seeds": [-1]}, "seed is -1, but must be at least 0"),
        ({"settings": [{"train.nope": 1}]}, "demo a_lol train.nope=1: tasks/demo.yaml: train.nope is unknown"),
        ({"settings": [{"task": "demo"}]}, "settings may not name task: it is the column tasks"),
        ({"settings": [{"params.yaml:seed": 2}]}, "settings may not name seed: it is the column seeds"),
        ({"settings": [{"launch.micro_batch": 2}]}, "settings may not name launch: no run learns otherwise by it"),
        ({"settings": [{"custom/x.yaml:a": 2}]}, "custom/x.yaml is no parameter file; name params.yaml or a file of"),
        ({"settings": [{"train.batch_size.x": 2}]}, "tasks/demo.yaml: train.batch_size.x: batch_size is 8, no table"),
        (
            {"algorithms": ["dpo"], "settings": [{"train.filter": "positive"}]},
            "dpo train.filter=positive: tasks/demo.yaml: train.filter is positive, but the algorithm learns from all",
        ),
    ],
)
def test_what_no_run_can_have_is_refused_before_any(project, table, message):
    with pytest.raises(InputError) as error:
        tables.planned([table])
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_file_has_one_table_or_several(project):
    file = project / "table.yaml"
    file.write_text("algorithms: [nll]\nseeds: [1, 2]\nsettings:\n- {}\n- train.filter: positive\n")
    (table,) = tables.read(file)
    assert len(tables.planned([table])) == 4
    file.write_text("tables:\n- {algorithms: [nll]}\n- {algorithms: [nll, a_lol]}\n")
    assert [run.params.algorithm for run in tables.planned(tables.read(file))] == ["nll", "a_lol"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("algorithm: [nll]", "the key algorithm is unknown; known keys: tasks, algorithms, seeds, settings"),
        ("algorithms: nll", "algorithms is 'nll', but must be a list"),
        ("settings: [train.filter]", "settings has 'train.filter', but must be a list of tables"),
        ("tables: 3", "tables must be a list of tables"),
        ("tables: [3]", "3 is no table"),
    ],
)
def test_a_file_of_another_shape_is_refused(tmp_path, text, message):
    (tmp_path / "table.yaml").write_text(text)
    with pytest.raises(InputError, match=r"table\.yaml: ") as error:
        tables.read(tmp_path / "table.yaml")
    assert message in str(error.value)


@pytest.mark.parametrize("text", ["train.epochs", "=3", "train.epochs=[1"])
def test_an_assignment_that_is_none_is_refused(text):
    with pytest.raises(InputError, match="--set"):
        tables.alternatives([text])


def test_the_parameters_that_a_result_keeps_give_the_same_settings(project):
    import json

    (run,) = tables.planned([{"settings": [{"train.optimizer.lr": 1e-5}]}])
    kept = {key: value for key, value in vars(run.params).items() if key not in revisions.IGNORED}
    stored = json.loads(json.dumps(params.plain(kept)))
    assert revisions.settings_of(stored, "a_lol") == revisions.settings(run.params)
