"""stages.check: mistakes that can be known before anything runs, each in one line."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from stages.check import main
from tests import small


@pytest.fixture
def check(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def run(**changes):
        small.write(tmp_path, **changes)
        result = CliRunner().invoke(main)
        return result.exit_code, result.stderr.splitlines()

    return run


def test_a_good_file_is_fine(check):
    assert check() == (0, [])


PYTHON = {"mine": {"kind": "python", "function": "custom.example.concise"}}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task": "nope"}, "unknown task 'nope'; known: demo"),
        ({"algorithm": "a_lul"}, "unknown algorithm 'a_lul'; known: a_lol, a_lol_kl, a_lol_ref_free, a_lol_seq, dpo"),
        ({"algorithms__a_lol": {"clop": 0.9, "clip": 0.9}}, "unknown key 'clop' in algorithms.a_lol; known: clip"),
        ({"algorithms__a_lol": {}}, "missing key 'clip' in algorithms.a_lol"),
        ({"algorithms__mine": {}}, "unknown algorithm 'mine' in algorithms"),
        (
            {"tasks__demo__rewards__x": {"kind": "magic"}},
            "'magic'; known: classifier, critic, depth, faithful, fluency, preference, python, stored, tfidf, toxichat",
        ),
        ({"judge__requests": 0}, "judge.requests is 0, but must be above 0"),
        ({"judge__nope": 1}, "unknown key 'nope' in judge"),
        ({"tasks__demo__train__lr": 1.0}, "unknown key 'lr' in tasks.demo.train"),
        ({"tasks__demo__reward__weights": {"helpful": 1.0, "concise": 1.0}}, "informative"),
        ({"tasks__demo__reward__weights__nope": 1.0}, "nope"),
        ({"tasks__demo__rewards__concise__function": "custom.example.nope"}, "custom.example has no function 'nope'"),
        ({"tasks__demo__rewards__concise__function": "tests.rewards.bad_rewards.wrong_signature"}, "wrong_signature"),
        (
            {"tasks__demo__source": {"log": {"kind": "path", "location": "/nowhere/x.zip"}}},
            "/nowhere/x.zip does not exist",
        ),
        ({"tasks__demo__source": {"log": {"kind": "path", "location": "$NO_SUCH_VAR/x"}}}, "NO_SUCH_VAR is not set"),
        ({"tasks__demo__source": {"log": {"kind": "hub", "location": "a/b"}}}, "needs the revision"),
        (
            {"tasks__demo__clean__format": "nope"},
            "unknown format 'nope'; known: comet, demo, hha,",
        ),
        ({"defaults__clean__formats__nope": {}}, "unknown format 'nope'; known: comet, demo, hha,"),
        ({"defaults__clean__formats__hha__sytem": ""}, "unknown key 'sytem' in defaults.clean.formats.hha; known: "),
        ({"defaults__clean__formats__hha": None}, "defaults.clean.formats.hha must be a table of keys"),
        ({"defaults__clean__formats": None}, "defaults.clean.formats must be a table of keys"),
        ({"tasks__demo__policy__model": "some/model"}, "a hub id needs a revision"),
        ({"tasks__demo__policy__model": ".."}, "'..' must be absolute or start with an environment variable"),
        ({"tasks__demo__policy__max_prompt": 120}, "more than the model's context of 128"),
        ({"tasks__demo__policy__adapter": "some/adapter"}, "needs a published model"),
        ({"tasks__demo__reference__train": False}, "set reference.train: true"),
        ({"tasks__demo__train__epochs": 1}, "tasks.demo.train: set exactly one of updates and epochs"),
        (
            {"tasks__demo__train__success": "reward_nope"},
            "train.success is 'reward_nope'; known: reward, reward_helpful",
        ),
        ({"tasks__demo__value__heads": 5}, "value.heads = 5 does not divide the model's width 32"),
        ({"tasks__demo__value__folds": 2}, "value.folds = 2, but must be at least 3"),
        ({"launch__processes": 9}, "launch.processes = 9 is more than train.batch_size"),
        (
            {"tasks__demo__test_rewards": {"helpfull": {}}},
            "unknown reward component in tasks.demo.test_rewards: 'helpfull'",
        ),
        (
            {"tasks__demo__test_rewards": {"concise": {"function": "custom.example.nope"}}},
            "test_rewards.concise",
        ),
        ({"tasks__other": {}}, "tasks.other lacks the sections"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_1(check, changes, message):
    code, lines = check(**changes)
    assert code == 1
    assert [line for line in lines if message in line], lines
    assert all(line.startswith("Error: ") for line in lines)
    assert len(lines) == 1, lines
