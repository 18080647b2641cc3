"""python -m stages.new: every preset is a task that its check accepts and whose records clean reads."""

from __future__ import annotations

import gzip
import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result

from alol.checks import parameters
from alol.config import params, yaml_files
from alol.data import schema
from stages import clean, new
from tests.closure import ROOT

COMPLETIONS = [
    {"response": f"r{i}", "overall_score": i, "annotations": {"honesty": {"Rating": str(i)}}} for i in (1, 2)
]
PAIR = {"chosen": "\n\nHuman: q{}\n\nAssistant: a", "rejected": "\n\nHuman: q{}\n\nAssistant: b"}
MESSAGES = [{"role": "user", "content": "q{}"}, {"role": "assistant", "content": "a"}]
TURNS = [{"from": "human", "value": "q{}"}, {"from": "gpt", "value": "a"}]
RECORDS: dict[str, tuple[list[str], Any]] = {  # preset -> files, a record of theirs
    "hh_rlhf": (["chats/helpful-base/train.jsonl.gz", "chats/helpful-base/test.jsonl.gz"], PAIR),
    "ultrafeedback": (["chats/evol_instruct.jsonl"], {"instruction": "q{}", "completions": COMPLETIONS}),
    "ultrafeedback_binarized": (
        [f"chats/data/{split}_prefs-00000-of-00001.parquet" for split in ("train", "test")],
        {"prompt": "q{}", "chosen": MESSAGES, "rejected": [MESSAGES[0], {"role": "assistant", "content": "b"}]},
    ),
    "helpsteer": (
        ["chats/train.jsonl.gz", "chats/validation.jsonl.gz"],
        {"prompt": "q{}", "response": "a{}", "helpfulness": "PARITY", "verbosity": 2},
    ),
    "nectar": (
        ["chats/rlaif.parquet"],
        {"prompt": "\n\nHuman: q{}\n\nAssistant: ", "answers": [{"answer": f"r{i}", "rank": float(i)} for i in (2, 1)]},
    ),
    "sharegpt": (["chats/ShareGPT_V3_unfiltered_cleaned_split.json"], {"id": "t{}", "conversations": TURNS}),
    "trl_messages": (["chats/mine.jsonl"], {"messages": MESSAGES}),
    "trl_prompt_completion": (["chats/mine.jsonl"], {"prompt": "q{}", "completion": "a"}),
    "trl_preference": (["chats/mine.jsonl"], {"prompt": "q{}", "chosen": "a", "rejected": "b"}),
    "trl_unpaired": (["chats/mine.jsonl"], {"prompt": "q{}", "completion": "a", "label": "BOOL"}),
}
COUNT = 10


@pytest.fixture
def folder(tmp_path, monkeypatch):
    shutil.copytree(ROOT / "tasks", tmp_path / "tasks")
    shutil.copytree(ROOT / "custom", tmp_path / "custom")
    shutil.copy(ROOT / "params.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def create(*arguments: str) -> Result:
    return CliRunner().invoke(new.main, arguments)


def write(path: Path, record: Any) -> None:
    text = json.dumps(record)
    filled = (text.replace("{}", str(i)).replace('"PARITY"', str(i % 2 * 3)) for i in range(COUNT))
    rows = [json.loads(one.replace('"BOOL"', ("false", "true")[i % 2])) for i, one in enumerate(filled)]
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows))
    else:
        content = "".join(json.dumps(row) + "\n" for row in rows).encode()
        path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


def test_every_preset_is_tried():
    assert sorted(RECORDS) == yaml_files.preset_names(ROOT)
    assert not set(RECORDS) & set(yaml_files.task_names(ROOT))


@pytest.mark.parametrize("preset", RECORDS)
def test_a_preset_becomes_a_task_that_is_checked_and_read(folder, preset, monkeypatch):
    result = create("mine", "--preset", preset)
    assert result.exit_code == 0, result.output
    assert Path("tasks/mine.yaml").read_bytes() == Path(f"tasks/presets/{preset}.yaml").read_bytes()
    monkeypatch.setenv("CHATS", str(folder / "data"))
    files, record = RECORDS[preset]
    for name in files:
        write(folder / "data/raw/mine" / name, record)
    assert parameters.problems("mine") == []
    result = CliRunner().invoke(clean.main, ["--task", "mine"])
    assert result.exit_code == 0, result.output
    rows = {split: schema.rows(Path(f"data/clean/mine/{split}.parquet")) for split in schema.SPLITS}
    prompts = [row["prompt"] for found in rows.values() for row in found if row["rank"] == 0]
    assert len(prompts) == COUNT * len(files)
    assert all(row["turns"][-1]["role"] == "human" for row in rows["train"])
    if params.load("mine").clean.labels:  # folds compare the prompts
        labelled = schema.rows(Path("data/clean/mine/labels/ratings.parquet"))
        assert {row["prompt"] for row in labelled} >= {row["prompt"].strip() for row in rows["train"]}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["mine", "--preset", "nope"], "unknown preset 'nope'; known: helpsteer, hh_rlhf, nectar"),
        (["demo", "--preset", "nectar"], "tasks/demo.yaml is there already; choose another name, or delete it"),
        (["../mine", "--preset", "nectar"], "the task name '../mine' must begin with a letter"),
        (["mine", "--preset", "../demo"], "unknown preset '../demo'"),
        (["defaults", "--preset", "nectar"], "tasks/defaults.yaml is there already"),
    ],
)
def test_a_mistake_is_one_line_and_writes_nothing(folder, arguments, message):
    before = sorted(Path("tasks").rglob("*"))
    result = create(*arguments)
    assert result.exit_code == 1
    assert result.stderr.startswith(f"Error: {message}")
    assert len(result.stderr.splitlines()) == 1
    assert sorted(Path("tasks").rglob("*")) == before
