"""stages.evaluate_checkpoint: an adapter on the task's base, a complete model with its prompt, what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from transformers import PreTrainedTokenizerFast

from alol.base.errors import InputError
from alol.data import schema
from alol.evaluation import external_models
from alol.evaluation.external_models import Template
from alol.models import policies
from stages.evaluate_checkpoint import main
from tests import small
from tests.conftest import tiny_model

TURNS = [
    {"role": "human", "text": "Hi"},
    {"role": "assistant", "text": "Hello"},
    {"role": "human", "text": "Why?"},
]
PYTHIA = Template("", "\nHuman: ", "\nAssistant: ")


def invoke(*arguments: str):
    return CliRunner().invoke(main, arguments)


def refused(*arguments: str) -> str:
    result = invoke(*arguments)
    lines = [line for line in result.stderr.splitlines() if line.startswith("Error")]
    assert (result.exit_code, len(lines)) == (1, 1), result.output
    assert not Path("reports").exists() or "refused" not in [p.name for p in Path("reports/checkpoints/demo").iterdir()]
    return lines[0]


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    small.write(folder, tasks__demo__policy__tuning="lora", tasks__demo__policy__lora={"r": 4, "alpha": 8})
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        small.run([*small.BEFORE_TRAIN, *small.FROM_TRAIN])
        yield folder


def test_a_template_to_the_byte():
    row = {"prompt_id": "x", "turns": TURNS}
    found = external_models.prompts([row], PYTHIA)[0]
    assert found["prompt"] == "Human: Hi\nAssistant: Hello\nHuman: Why?\nAssistant:"
    shorter = [found["prompt"][: found["cuts"][0]] + found["prompt"][cut:] for cut in found["cuts"][1:]]
    assert shorter == ["\nAssistant: Hello\nHuman: Why?\nAssistant:", "\nHuman: Why?\nAssistant:"]
    with_system = external_models.prompts([row], Template("A chat.", "\nHuman: ", "\nAssistant: "))[0]
    assert with_system["prompt"][: with_system["cuts"][0]] == "A chat."


def test_the_pipelines_own_adapter_gets_the_pipelines_own_numbers(project):
    result = invoke("ours", "--adapter", str(project / "models/demo/a_lol"))
    assert result.exit_code == 0, result.output
    numbers, own = json.loads(Path("reports/checkpoints/demo/ours/summary.json").read_text()), small.summary()
    for values in own["policy"].values():
        del values["kl_per_token"], values["ope"]  # which the tokens of another model would not have
    for part in ("gold", "reference", "policy", "delta"):
        assert numbers[part] == own[part]
    rows = schema.rows(Path("reports/checkpoints/demo/ours/generations.parquet"))
    assert len(rows) == 12
    assert "reward_helpful" in rows[0]


def test_a_complete_model_with_its_own_prompt(project, tokenizer, tmp_path):
    tiny_model("llama", tokenizer).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    marks = ["--human", "\\nHuman: ", "--assistant", "\\nAssistant: ", "--max-prompt", "100", "--cut", "\\nHuman:"]
    result = invoke("whole", "--model", str(tmp_path), *marks)
    assert result.exit_code == 0, result.output
    numbers = json.loads(Path("reports/checkpoints/demo/whole/summary.json").read_text())
    assert set(numbers["policy"]["all"]) == set(small.summary()["policy"]["all"]) - {"kl_per_token", "ope"}
    rows = schema.rows(Path("reports/checkpoints/demo/whole/generations.parquet"))
    assert rows[0]["prompt"] == schema.rows(Path("data/clean/demo/test.parquet"))[0]["prompt"]


def test_what_is_refused(project, tokenizer, tmp_path):
    for name in ("", "../../../models", "a b"):  # it becomes a folder
        assert "must begin with a letter" in refused(name, "--adapter", "x")
    for name in ("a_lol", "reference", "gold"):
        assert "is that of a run" in refused(name, "--adapter", "x")
    assert "name an --adapter" in refused("refused")
    assert "needs both --human and --assistant" in refused("refused", "--model", "x", "--human", "H:")
    assert "does not exist" in refused("refused", "--model", str(tmp_path / "nowhere"))
    settings = policies.read_json(project / "models/demo/a_lol/policy.json")
    other = policies.LoadedPolicy(tiny_model("llama", tokenizer), tokenizer, {**settings, "base": None})
    policies.save(other, tmp_path / "other")
    adapter = str(project / "models/demo/a_lol")
    line = refused("refused", "--model", str(tmp_path / "other"), "--adapter", adapter)
    assert "does not fit the base model" in line
    PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer, pad_token="<pad>").save_pretrained(
        tmp_path / "other"
    )
    assert "no end-of-text token" in refused("refused", "--model", str(tmp_path / "other"))


def test_a_turn_for_which_the_template_has_no_mark_is_named():
    turns = [{"role": "human", "text": "Rain?"}, {"role": "tool", "text": "dry"}]
    with pytest.raises(InputError, match=r"^prompt test-0 has a turn of tool, for which the template has no mark$"):
        external_models.prompts([{"prompt_id": "test-0", "turns": turns}], PYTHIA)
