"""`stages.show`: the tokens of a row, which are trained on, and which end."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from alol.data import schema
from stages import show
from tests import small, tokenizers
from tests.conftest import tiny_model

ROW = {
    "prompt_id": "p7", "subset": "train", "prompt": "Hi", "cuts": [0], "context": {}, "rank": 0,
    "turns": [{"role": "human", "text": "Hi <|im_end|>"}], "response": "Yes.",
}  # fmt: skip


@pytest.fixture
def project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tokenizer = tokenizers.qwen()
    model = tiny_model("llama", tokenizer)
    model.generation_config.eos_token_id = [331, 330]
    model.save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    small.write(
        tmp_path, tasks__demo__policy__model=str(tmp_path / "base"), tasks__demo__policy__template="chat",
        tasks__demo__generate__stop_ids=[7],
    )  # fmt: skip
    schema.write(tmp_path / "data/clean/demo/train.parquet", schema.RESPONSES, [ROW])


def shown(*arguments: str):
    return CliRunner().invoke(show.main, ["--task", "demo", *arguments])


def test_every_token_is_shown_with_what_it_is_for(project):
    tokenizer = tokenizers.qwen()
    result = shown()
    assert result.exit_code == 0, result.output
    head, _, *tokens, ends = result.output.splitlines()
    ids = [int(line.split()[1]) for line in tokens]
    trained = tokenizer("Yes.")["input_ids"]
    assert (
        head == f"prompt p7, rank 0: {len(ids) - len(trained) - 1} tokens of the prompt, {len(trained) + 1} trained on"
    )
    expected = tokenizer.decode(ids)
    assert expected.endswith("<|im_start|>user\nHi <|im_end|><|im_end|>\n<|im_start|>assistant\nYes.<|im_end|>")
    assert [line.split()[2] for line in tokens[-len(trained) - 1 :]] == ["trained"] * len(trained) + ["ends"]
    assert all("trained" not in line and "ends" not in line for line in tokens[: -len(trained) - 1])
    assert sum("special" in line for line in tokens) == 6
    listed = {int(part.split()[0]) for part in ends.removeprefix("generation ends at: ").split(", ")}
    assert listed == {7, tokenizer.eos_token_id, 331, 330}


def test_a_row_that_is_not_there_is_one_line(project):
    result = shown("--row", "1")
    assert result.exit_code == 1
    assert "has 1 rows, counted from 0; there is no row 1" in result.output
