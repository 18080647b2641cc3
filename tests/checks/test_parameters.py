"""stages.check: mistakes that can be known before anything runs, each in one line."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner
from ruamel.yaml import YAML

from stages.check import main
from tests import small


@pytest.fixture
def check(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str, **changes):
        small.write(tmp_path, **changes)
        result = CliRunner().invoke(main, arguments)
        return result.exit_code, result.stderr.splitlines()

    return run


def refused(code: int, lines: list[str], message: str) -> None:
    """Exit code 1 and one line, which has the message."""
    assert code == 1, lines
    assert len(lines) == 1, lines
    assert lines[0].startswith("Error: ")
    assert message in lines[0]


def test_a_good_project_is_fine(check):
    assert check() == (0, [])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task": "nope"}, "unknown task 'nope'; known: demo"),
        (
            {"algorithm": "a_lul"},
            "algorithm is 'a_lul', which has no entry in `algorithms`; known: a_lol, a_lol_kl",
        ),
        (
            {"algorithms__a_lol": {"clop": 0.9, "clip": 0.9}},
            "algorithms.a_lol.clop is unknown; known keys of algorithms.",
        ),
        ({"algorithms__a_lol": {}}, "algorithms.a_lol.clip is missing"),
        ({"algorithms__a_lol": None}, "algorithms.a_lol is None, but must be a table of keys"),
        ({"algorithms__mine": {}}, "algorithms.mine is no algorithm"),
        (
            {"tasks__demo__rewards__x": {"kind": "magic"}},
            "'magic', which is no reward kind; known: classifier, critic, depth, faithful, fluency, likelihood, ",
        ),
        ({"judge__requests": 0}, "params.yaml: judge.requests is 0, but must be from 1 to 1,024"),
        ({"judge__timeout": 1e308}, "judge.timeout is 1e+308, but must be above 0 and at most 86,400"),
        ({"judge__url": "api.openai.com"}, "judge.url is 'api.openai.com', but must begin with http:// or https://"),
        (
            {"defaults__rewards__kinds__mine": {"kind": "nosuch"}},
            "tasks/shared/rewards.yaml: kinds.mine.kind is 'nosuch'",
        ),
        (
            {"defaults__rewards__kinds__python__low": "zero"},
            "rewards.yaml: kinds.python.low is 'zero', but must be a numb",
        ),
        (
            {"algorithm": "dpo", "tasks__demo__train__filter": "positive"},
            "tasks/demo.yaml: train.filter is positive, but the algorithm learns from all responses to a prompt",
        ),
        (
            {"algorithm": "ppo", "defaults__train__sampling": "priority"},
            "tasks/defaults.yaml: train.sampling is priority, but the algorithm answers prompts itself",
        ),
        (
            {"algorithm": "nll", "defaults__train__sampling": "priority"},
            "train.sampling is priority, but the algorithm has no number of its own to draw by; set train.filter",
        ),
        ({"defaults__train__filter": "none"}, "train.filter is none, but the algorithm draws by the advantage"),
        ({"tasks__demo__train__updates": None}, "tasks/demo.yaml: train sets neither of updates and epochs; set one"),
        (
            {"tasks__demo__source": {"log": {"kind": "url", "location": "ftp://x.org/y"}}},
            "tasks/demo.yaml: source.log.location is ftp://x.org/y, but must be an http:// or https:// URL",
        ),
        (
            {"tasks__demo__source": {"log": {"kind": "url", "location": "http://x.org/y", "sha256": "abc"}}},
            "tasks/demo.yaml: source.log.sha256 is 'abc', but must be 64 hexadecimal digits",
        ),
        ({"tasks__demo__clean__labels__ratings__classes": []}, "clean.labels.ratings.classes must be a list of label"),
        ({"tasks__demo__policy__model": "/nowhere/m"}, "policy.model is '/nowhere/m', but /nowhere/m does not exist"),
        ({"judge__nope": 1}, "judge.nope is unknown"),
        ({"tasks__demo__train__lr": 1.0}, "tasks/demo.yaml: train.lr is unknown"),
        ({"tasks__demo__reward__weights": {"helpful": 1.0, "concise": 1.0}}, "informative"),
        ({"tasks__demo__reward__weights__nope": 1.0}, "reward.weights.nope is of no component"),
        ({"tasks__demo__rewards__concise__function": "custom.example.nope"}, "custom.example has no function 'nope'"),
        ({"tasks__demo__rewards__concise__function": "custom.bad_rewards.wrong_signature"}, "wrong_signature"),
        (
            {"tasks__demo__source": {"log": {"kind": "path", "location": "/nowhere/x.zip"}}},
            "tasks/demo.yaml: source.log.location is /nowhere/x.zip: /nowhere/x.zip does not exist",
        ),
        ({"tasks__demo__source": {"log": {"kind": "path", "location": "$NO_SUCH_VAR/x"}}}, "NO_SUCH_VAR is not set"),
        ({"tasks__demo__source": {"log": {"kind": "hub", "location": "a/b"}}}, "needs the revision"),
        (
            {"tasks__demo__clean__format": "nope"},
            "clean.format is 'nope', which is no format; known: chat, comet, demo, hha,",
        ),
        (
            {"defaults__clean__formats__nope": {}},
            "tasks/shared/clean.yaml: formats.nope is no format; known: chat, comet, demo, hha,",
        ),
        (
            {"defaults__clean__formats__hha__sytem": ""},
            "tasks/shared/clean.yaml: formats.hha.sytem is unknown; known",
        ),
        (
            {"defaults__clean__formats__hha": None},
            "tasks/shared/clean.yaml: formats.hha is None, but must be a table of keys",
        ),
        (
            {"defaults__clean__formats__comet__seed": -1},
            "tasks/shared/clean.yaml: formats.comet.seed is -1, but must be at least 0",
        ),
        ({"tasks__demo__policy__model": "some/model"}, "a hub id needs a revision"),
        ({"tasks__demo__policy__model": ".."}, "'..', but must be absolute or start with an environment variable"),
        ({"tasks__demo__policy__max_prompt": 120}, "more than the model's context of 128"),
        ({"tasks__demo__policy__adapter": "some/adapter"}, "needs a published model"),
        ({"tasks__demo__policy__scratch__width": 30}, "policy.scratch.width is 30, no multiple of heads = 4"),
        (
            {"tasks__demo__policy__scratch": {"architecture": "llama", "context": 128, "width": 36, "heads": 4}},
            "rotary positions need an even number",
        ),
        ({"tasks__demo__reference__train": False}, "reference.train is false, but policy.model is scratch"),
        ({"tasks__demo__train__epochs": 1}, "tasks/demo.yaml: train sets both of updates and epochs; set one of them"),
        (
            {"tasks__demo__train__success": "reward_nope"},
            "train.success is 'reward_nope'; known: reward, reward_helpful",
        ),
        ({"tasks__demo__value__heads": 5}, "value.heads is 5, which does not divide the model's width 32"),
        (
            {"tasks__demo__test_rewards": {"helpfull": {}}},
            "tasks/demo.yaml: test_rewards.helpfull is no reward component; known: concise, helpful, informative",
        ),
        (
            {"tasks__demo__test_rewards": {"concise": {"function": "custom.example.nope"}}},
            "test_rewards.concise.function",
        ),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_1(check, changes, message):
    refused(*check(**changes), message)


# What runs for hours and comes to nothing, or ends in a traceback, when nobody asks before.
SENSELESS = [
    ({"algorithms__a_lol__clip": -0.9}, "params.yaml: algorithms.a_lol.clip is -0.9, but must be at least 0"),
    ({"algorithms__ppo__gamma": 1.5}, "params.yaml: algorithms.ppo.gamma is 1.5, but must be from 0 to 1"),
    ({"algorithms__dpo__beta": "0.1"}, "algorithms.dpo.beta is '0.1', but must be a number"),
    ({"generate__top_p": 2}, "generate.top_p is 2, but must be above 0 and at most 1"),
    ({"generate__stop": [""]}, "generate.stop[0] is '', but must not be empty"),
    ({"generate__cut": ["x", ""]}, "generate.cut[1] is '', but must not be empty"),
    ({"generate__stop_ids": [-1]}, "generate.stop_ids[0] is -1, but must be at least 0"),
    ({"generate__max_new_tokens": 0}, "generate.max_new_tokens is 0, but must be from 1 to 1,000,000"),
    ({"generate__temperature": 0}, "generate.temperature is 0, but must be above 0"),
    ({"generate__beams": -2}, "generate.beams is -2, but must be from 1 to 1,000"),
    ({"policy__max_response": 0}, "policy.max_response is 0, but must be from 1 to 1,000,000"),
    ({"policy__max_prompt": -64}, "policy.max_prompt is -64, but must be from 1 to 1,000,000"),
    ({"policy__dropout": 1.0}, "policy.dropout is 1.0, but must be at least 0 and below 1"),
    ({"policy__lora__r": 0}, "policy.lora.r is 0, but must be from 1 to 65,536"),
    ({"policy__scratch__vocabulary": 10}, "policy.scratch.vocabulary is 10, but must be from 258 to 10,000,000"),
    ({"policy__scratch__heads": 0}, "policy.scratch.heads is 0, but must be from 1 to 65,536"),
    ({"policy__scratch__layers": 0}, "policy.scratch.layers is 0, but must be from 1 to 1,000"),
    ({"policy__scratch__init_scale": 0}, "policy.scratch.init_scale is 0, but must be above 0"),
    ({"launch__micro_batch": 0}, "params.yaml: launch.micro_batch is 0, but must be at least 1"),
    (
        {"launch__shard": True, "policy__tuning": "qlora", "policy__scratch__width": 64},
        "params.yaml: launch.shard is true, but policy.tuning is qlora, whose 4-bit base cannot be split",
    ),
    (
        {"launch__shard": True, "train__optimizer__name": "paged_adamw_32bit"},
        "params.yaml: launch.shard is true, but train.optimizer.name is paged_adamw_32bit; use adamw",
    ),
    ({"launch__processes": 0}, "params.yaml: launch.processes is 0, but must be from 1 to 1,024"),
    ({"launch__actors": 0}, "params.yaml: launch.actors is 0, but must be from 1 to 100,000"),
    (
        {"launch__cluster": "there"},
        "params.yaml: launch.cluster is 'there', but must be null, auto, local, or the host:",
    ),
    ({"aggregate__samples": -5}, "aggregate.samples is -5, but must be from 0 to 10,000"),
    ({"aggregate__bootstrap": 0}, "aggregate.bootstrap is 0, but must be from 10 to 10,000,000"),
    ({"aggregate__bootstrap": -5}, "aggregate.bootstrap is -5, but must be from 10 to 10,000,000"),
    ({"train__optimizer__warmup": 8}, "train.optimizer.warmup is 8, but must be below the run's 8 updates"),
    ({"reference__optimizer__warmup": 9}, "reference.optimizer.warmup is 9, but must be below the run's 8 updates"),
    ({"train__optimizer__lr": -1}, "train.optimizer.lr is -1, but must be above 0"),
    ({"train__optimizer__lr": float("nan")}, "train.optimizer.lr is nan, but must be a finite number"),
    ({"train__optimizer__betas": [0.9]}, "train.optimizer.betas is [0.9], but must be a list of 2"),
    ({"train__optimizer__betas": [0.9, 1.0]}, "train.optimizer.betas[1] is 1.0, but must be at least 0 and below 1"),
    ({"train__optimizer__weight_decay": -1}, "train.optimizer.weight_decay is -1, but must be at least 0"),
    ({"train__updates": None, "train__epochs": float("inf")}, "train.epochs is inf, but must be a finite number"),
    ({"train__updates": None, "train__epochs": float("nan")}, "train.epochs is nan, but must be a finite number"),
    ({"train__updates": None, "train__epochs": 0}, "train.epochs is 0, but must be above 0 and at most 100,000"),
    ({"train__evaluations": 0}, "train.evaluations is 0, but must be from 1 to 100,000"),
    ({"train__batch_size": 0}, "train.batch_size is 0, but must be at least 1"),
    ({"reference__seed": -1}, "reference.seed is -1, but must be at least 0"),
    ({"value__folds": 2}, "value.folds is 2, but must be from 3 to 1,000"),
    ({"value__lr": 0}, "value.lr is 0, but must be above 0"),
    ({"train__epochs": None, "train__updates": 10**9}, "train.updates is 1000000000, but must be from 1 to 10,000,000"),
    ({"policy__lora__targets": []}, "policy.lora.targets is [], but must not be empty"),
    ({"clean__limit": 0}, "clean.limit is 0, but must be at least 1"),
    ({"rewards__helpful__train__folds": 1}, "rewards.helpful.train.folds is 1, but must be from 2 to 1,000"),
    ({"rewards__helpful__train__holdout": 0}, "rewards.helpful.train.holdout is 0, but must be above 0 and below 1"),
    ({"rewards__helpful__train__lr": float("inf")}, "rewards.helpful.train.lr is inf, but must be a finite number"),
    ({"rewards__helpful__low": float("-inf")}, "rewards.helpful.low is -inf, but must be a finite number"),
    ({"rewards__helpful__low": 1.0}, "rewards.helpful.low is 1, which is not below rewards.helpful.high, 1"),
    ({"reward__shift": float("nan")}, "reward.shift is nan, but must be a finite number"),
    ({"reward__weights__helpful": float("inf")}, "reward.weights.helpful is inf, but must be a finite number"),
    ({"source__corpus__options__responses": 9}, "source.corpus.options.responses is 9, but must be from 1 to 8"),
    ({"source__corpus__options__label_noise": 0.7}, "label_noise is 0.7, but must be from 0 to 0.5"),
    (
        {"seed": 12345678901234567890123},
        "params.yaml: seed is an integer of 23 digits, but must be at most 2,147,483,647",
    ),
    ({"seed": -1}, "params.yaml: seed is -1, but must be at least 0"),
    ({"seed": True}, "params.yaml: seed is True, but must be an integer"),
    ({"algorithm": ["a_lol", "nll"]}, "params.yaml: algorithm is ['a_lol', 'nll'], but must be a text"),
]


@pytest.mark.parametrize(("changes", "message"), SENSELESS, ids=[message for _, message in SENSELESS])
def test_a_senseless_number_is_named_before_anything_runs(check, changes, message):
    ours = ("algorithm", "launch", "seed", "judge")
    changes = {key if key.startswith(ours) else f"tasks__demo__{key}": value for key, value in changes.items()}
    refused(*check(**changes), message)


def test_a_wrong_default_is_named_with_the_file_it_stands_in(check):
    line = "tasks/shared/rewards.yaml: training.dropout is 2, but must be at least 0 and below 1"
    refused(*check(defaults__rewards__training__dropout=2), line)


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        (
            "tasks/defaults.yaml",
            "clean:",
            "clea:",
            "tasks/defaults.yaml: the section clea is unknown; known: aggregate, clean, ",
        ),
        (
            "tasks/defaults.yaml",
            "clean:.*?\n(?=\\w)",
            "clean: []\n",
            "tasks/defaults.yaml: clean is [], but must be a ta",
        ),
        (
            "tasks/defaults.yaml",
            "clean:.*?\n(?=\\w)",
            "clean:\n",
            "tasks/defaults.yaml: clean is None, but must be a ta",
        ),
        ("tasks/defaults.yaml", "clean:", "rewards: {}\nclean:", "rewards belongs into tasks/shared/rewards.yaml"),
        (
            "tasks/defaults.yaml",
            "clean:",
            "clean:\n  formats: {}",
            "clean.formats belongs into tasks/shared/clean.yaml",
        ),
        ("tasks/shared/clean.yaml", "formats:", "formatsx:", "tasks/shared/clean.yaml: formatsx is unknown"),
        ("tasks/shared/rewards.yaml", "  holdout: 0.1\n", "", "tasks/shared/rewards.yaml: training.holdout is missing"),
    ],
)
def test_a_shared_file_out_of_shape_is_one_line(check, file, old, new, message):
    assert check() == (0, [])
    text = Path(file).read_text()
    broken, count = re.subn(old, new, text, count=1, flags=re.DOTALL)
    assert count == 1
    Path(file).write_text(broken)
    result = CliRunner().invoke(main)
    refused(result.exit_code, result.stderr.splitlines(), message)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("subprocess.call", "name a function of custom/"),
        ("builtins.exec", "name a function of custom/"),
        ("tests.small.summary", "name a function of custom/"),
        ("custom", "name a function of custom/"),
        ("custom.mine.call", "importing custom.mine failed"),
        ("custom.bad_rewards.coroutine", "does not return a list"),
        ("custom.bad_rewards.generator", "does not return a list"),
        ("custom.bad_exit.reward", "importing custom.bad_exit failed: SystemExit: 0"),
        (None, "name a function of custom/"),
    ],
)
def test_reward_functions_lie_in_custom(check, function, message):
    refused(*check(tasks__demo__rewards__concise__function=function), message)


def test_a_function_that_a_module_of_custom_only_imports_is_not_tracked(check, monkeypatch):
    from custom import example

    monkeypatch.setattr(example, "call", subprocess.call, raising=False)
    line = "rewards.concise.function is custom.example.call, which is a function of subprocess; write one in custom/"
    refused(*check(tasks__demo__rewards__concise__function="custom.example.call"), line)


@pytest.mark.parametrize("name", ["v1.1", "my task", "it's", "x;y", "", "-x", "2024", "$(touch x)", "../demo"])
def test_a_name_that_no_task_can_have_is_refused(check, name):
    rule = f"the task name {name!r} must begin with a letter and go on with letters, digits, _ and -"
    refused(*check(task=name), rule)
    refused(*check("--task", name), rule)


@pytest.mark.parametrize(("text", "value"), [("2024", 2024), ("1e5", 100000.0), ("null", None), ("true", True)])
def test_a_name_that_yaml_takes_for_something_else_is_named(check, text, value):
    assert check() == (0, [])
    path = Path("params.yaml")
    path.write_text(path.read_text().replace("task: demo", f"task: {text}"))
    result = CliRunner().invoke(main)
    refused(
        result.exit_code, result.stderr.splitlines(), f"params.yaml: task: the task name {value!r} is no text in YAML"
    )


@pytest.mark.parametrize("section", ["rewards", "source"])
@pytest.mark.parametrize("name", ["ein wort/ä", "2024", 2024, None, 1e5, "a.b", ""])
def test_components_and_sources_have_names(check, section, name):
    table = {name: {"kind": "tfidf"} if section == "rewards" else {"kind": "url", "location": "http://x.org/y"}}
    word = "component" if section == "rewards" else "name"
    refused(*check(**{f"tasks__demo__{section}": table}), f"tasks/demo.yaml: {section} is wrong: the {word} {name!r}")


def test_a_component_cannot_have_the_name_of_an_intervals_end(check):
    changes = {"rewards__low": {"kind": "tfidf"}, "reward__weights__low": 1.0}
    line = "rewards.low is no name for a component: reward_low is the lower end of the reward's interval"
    refused(*check(**{f"tasks__demo__{key}": value for key, value in changes.items()}), line)


def test_a_task_that_is_not_set_can_be_checked(check):
    small.write(Path())
    table = YAML(typ="safe").load(Path("tasks/demo.yaml"))
    table["source"] = {"log": {"kind": "path", "location": "$NO_SUCH_VAR/x"}}
    table["rewards"]["concise"]["function"] = "custom.mine.nothing"
    YAML().dump(table, Path("tasks/answers.yaml"))
    result = CliRunner().invoke(main, ["--task", "answers"])
    first, second = result.stderr.splitlines()
    assert result.exit_code == 1
    assert "tasks/answers.yaml: source.log.location is $NO_SUCH_VAR/x" in first
    assert "tasks/answers.yaml: rewards.concise.function is custom.mine.nothing" in second
    assert CliRunner().invoke(main).exit_code == 0
    result = CliRunner().invoke(main, ["--all"])
    assert result.exit_code == 1
    lines = result.stderr.splitlines()
    assert [line.split(":")[0] for line in lines] == ["Warning", "Error"]  # its source may lie on another machine
    Path("tasks/my task.yaml").write_text("{}")
    assert "Error: tasks/my task.yaml: the task name 'my task' must begin" in CliRunner().invoke(main, ["--all"]).stderr


def test_all_and_a_task_exclude_each_other(check):
    code, lines = check("--all", "--task", "demo")
    assert code == 2
    assert lines[-1] == "Error: --all and --task exclude each other"


def test_files_that_experiments_would_lack_are_warned_of(check, tmp_path):
    def git(*arguments: str) -> None:
        subprocess.run(["git", *arguments], cwd=tmp_path, check=True, capture_output=True)

    small.write(tmp_path)
    (tmp_path / "custom").mkdir()
    (tmp_path / "templates").mkdir()
    git("init", "--quiet")
    git("add", "--all")
    assert check() == (0, [])
    for name in ("custom/mine.py", "tasks/answers.yaml", "custom/note.txt", "templates/mine.jinja"):
        (tmp_path / name).write_text("{}")
    result = CliRunner().invoke(main)
    assert result.exit_code == 0
    (line,) = result.stderr.splitlines()
    assert line.startswith(
        "Warning: Git does not track custom/mine.py, tasks/answers.yaml, templates/mine.jinja, so queued and temporary"
    )
