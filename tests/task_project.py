"""The published tasks on a small scale: raw files in their original formats, tiny models of their architectures."""

from __future__ import annotations

import csv
import importlib
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import torch
from click.testing import CliRunner
from transformers import (
    GPT2Config,
    GPT2ForSequenceClassification,
    GPT2LMHeadModel,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaForSequenceClassification,
)

from alol.rewards import untrained
from alol.rewards.critic_model import CriticConfig, CriticModel
from alol.rewards.toxichat import OffensiveModel
from benchmarks import project
from tests.data.test_reddit import COLUMNS
from tests.rewards.test_rewards_networks import strong, training
from tests.small import BEFORE_TRAIN, FROM_TRAIN

END = "<|endoftext|>"
WORDS = "bread cats dogs rain music rivers games books trains gardens".split()
SENTENCES = [f"{word} and {other} are what many people like" for word in WORDS for other in WORDS if word != other]
SIZES = {"num_hidden_layers": 1, "hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 16}


def sentence(i: int) -> str:
    return SENTENCES[i % len(SENTENCES)]


# --- models


def gpt2_tokenizer(folder: Path, parts: bool = False) -> PreTrainedTokenizerFast:
    """Byte-level BPE as GPT-2's: end of text begins and ends, and nothing pads. `parts`: vocab.json and merges.txt."""
    tokenizer = untrained._bpe([*SENTENCES, "<head> </head> <relation> </relation> [GEN] PersonX"], 400, [END])
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END, bos_token=END)
    fast.save_pretrained(folder)
    if parts:
        tokenizer.model.save(str(folder))
    return fast


def gpt2(folder: Path, cls: Any = GPT2LMHeadModel, **keys: Any) -> Path:
    tokenizer = gpt2_tokenizer(folder)
    end = tokenizer.eos_token_id
    ids = {"bos_token_id": end, "eos_token_id": end, "pad_token_id": end}
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=len(tokenizer), n_layer=1, n_embd=32, n_head=2, n_positions=700, **ids, **keys)
    strong(cls(config)).save_pretrained(folder)
    return folder


def roberta(
    folder: Path, cls: Any = RobertaForSequenceClassification, config: Any = RobertaConfig, **keys: Any
) -> Path:
    tokenizer = untrained.classifier_tokenizer(SENTENCES, training(), 40)
    tokenizer.model_input_names = ["input_ids", "attention_mask"]
    torch.manual_seed(1)
    sizes = {**SIZES, "max_position_embeddings": 64, "pad_token_id": 0, "type_vocab_size": 1}
    strong(cls(config(vocab_size=len(tokenizer), **sizes, **keys))).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


# --- raw files


def tar(path: Path, files: dict[str, bytes | Path]) -> Path:
    """A gzipped archive of named contents, and of what lies in folders."""
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            if isinstance(content, Path):
                archive.add(content, name)
                continue
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def atomic(folder: Path) -> tuple[Path, Path]:
    """The archive of symbolic knowledge distillation with a policy and its tokenizer, and the converted critic."""
    relations, lines, test = ("xNeed", "xWant", "xEffect", "oReact"), [], []
    for split, count in (("train", 60), ("val", 40), ("test", 12)):
        for i in range(count):
            tail, score = ("to " + sentence(i), 1.0 - i / count)
            triple = {"head": f"PersonX likes {WORDS[i % 7]} {split}", "relation": relations[i % 4], "tail": tail}
            recalls = {f"rec_0.{k}": score > k / 10 for k in range(5, 10)}
            lines.append(json.dumps({**triple, "split": split, **recalls, "p_valid_model": score}))
            if split == "test":
                test.append(f"{triple['head']}\t{triple['relation']}\tto {sentence(i)}\n")
    root = "symbolic_knowledge_distillation"
    downloaded = f"{root}/downloaded"
    policy = gpt2(folder / "comet-distill")
    for name in ("tokenizer.json", "tokenizer_config.json"):  # which the archive has in a folder of its own
        (policy / name).unlink()
    gpt2_tokenizer(folder / "comet-distill-tokenizer")
    files: dict[str, bytes | Path] = {
        f"{downloaded}/ATOMIC10X.jsonl": "\n".join(lines).encode(),
        f"{downloaded}/comet-distill": policy,
        f"{downloaded}/comet-distill-tokenizer": folder / "comet-distill-tokenizer",
        f"{root}/atomic2020/atomic2020_data-feb2021/test.tsv": "".join(test).encode(),
    }
    archive = tar(folder / "symbolic-knowledge-distillation.tar.gz", files)
    return archive, roberta(folder / "critic", CriticModel, CriticConfig, head_width=8, num_labels=1)


def comments(path: Path, sign: int) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        for i in range(40):
            row = dict.fromkeys(COLUMNS, "x") | {"id": f"t1_{i}", "score": sign * (70 + i), "parent_score": 5}
            writer.writerow(row | {"parent_text": f"why {sentence(i)}?", "text": f"because {sentence(3 * i)}"})
    return path


def wizard(folder: Path) -> Path:
    """wizard_of_wikipedia.tgz: the files at the archive's root."""
    dialogues = [
        {
            "chosen_topic": WORDS[i % 10],
            "wizard_eval": 5,
            "dialog": [
                {"speaker": "1_Apprentice", "text": f"I like {sentence(i)}", "retrieved_topics": []},
                {"speaker": "0_Wizard", "text": sentence(i), "checked_sentence": {"chosen_0": sentence(i + 1)}},
                {"speaker": "1_Apprentice", "text": "Really?"},
                {"speaker": "0_Wizard", "text": sentence(i + 2), "checked_sentence": {"partner_1": sentence(i + 3)}},
                {"speaker": "0_Wizard", "text": "Bye", "checked_sentence": {"no_passages_used": "no_passages_used"}},
            ],
        }
        for i in range(12)
    ]
    content = json.dumps(dialogues).encode()
    names = ("train", "valid_random_split", "valid_topic_split", "test_random_split", "test_topic_split")
    return tar(folder / "wizard_of_wikipedia.tgz", {f"{name}.json": content for name in names})


def faithdial(folder: Path) -> Path:
    """The hub data set's files."""
    for name, count in (("train", 40), ("valid", 10), ("test", 4)):
        dialogues = [
            {
                "dialog_idx": i,
                "utterances": [
                    {
                        "speaker": "Wizard", "knowledge": sentence(i + k),
                        "history": [f"I like {sentence(i)}"] * (2 * k + 1),
                        "response": sentence(i + k + 1), "original_response": None, "BEGIN": ["Entailment"], "VRM": [],
                    }
                    for k in range(2)
                ],
            }
            for i in range(count)
        ]  # fmt: skip
        (folder / "faithdial/data").mkdir(parents=True, exist_ok=True)
        (folder / f"faithdial/data/{name}.json").write_text(json.dumps(dialogues), encoding="utf-8")
    return folder / "faithdial"


# --- the project

TINY: dict[str, Any] = {
    "policy.max_prompt": 64,
    "policy.max_response": 12,
    "generate.max_new_tokens": 6,
    "reference.batch_size": 8,
    "reference.epochs": None,
    "reference.updates": 3,
    "reference.evaluations": 1,
    "value.epochs": 2,
    "value.folds": 3,
    "train.batch_size": 8,
    "train.epochs": None,
    "train.updates": 3,
    "train.evaluations": 1,
    "aggregate.bootstrap": 20,
    "aggregate.permutations": 50,
}


def path_source(location: Path) -> dict[str, Any]:
    return {"kind": "path", "location": str(location)}


def write(folder: Path, task: str) -> None:
    """A project with the task as published but for where its files are and how long it runs."""
    raw = project.parameters(task)
    raw["task"] = task
    project.change(raw["tasks"][task], TINY | _files(folder, task))
    project.write(folder, raw)


def _files(folder: Path, task: str) -> dict[str, Any]:
    """What differs from the published entry: sources, models, sample sizes."""
    place = folder / "origin"
    place.mkdir()
    if task == "comet":
        archive, critic = atomic(place)
        return {
            "source": {"archive": path_source(archive), "critic": path_source(critic)},
            "rewards.p_valid_model.checked": 0,  # the tiny critic knows nothing of the stored scores
            "clean.options.validation_rows": 30,
        }
    policy = gpt2(place / "policy")
    changes: dict[str, Any] = {
        "policy.model": str(policy),
        "policy.revision": None,
        "clean.options.tokenizer": str(policy),
        "clean.options.tokenizer_revision": None,
        "rewards.fluency.model": str(roberta(place / "cola", num_labels=2)),
        "rewards.depth.model": str(gpt2(place / "depth", GPT2ForSequenceClassification, num_labels=1)),
    }
    if task.startswith("reddit"):
        toxichat = gpt2(place / "toxichat", OffensiveModel)
        changes["source"] = {
            "positive": path_source(comments(place / "comments_positive.csv", 1)),
            "negative": path_source(comments(place / "comments_negative.csv", -1)),
            "toxichat": path_source(toxichat),
        }
        changes |= {"rewards.updown.model": changes["rewards.depth.model"]}
        changes |= {"clean.options.test": 3, "clean.options.validation": 6, "clean.options.sample": 36}
        return changes
    changes["source"] = {"wow": path_source(wizard(place)), "faithdial": path_source(faithdial(place))}
    changes["rewards.faithdial.model"] = str(roberta(place / "faithcritic", num_labels=2))
    return changes


def run(names: tuple[str, ...], task: str, algorithm: str) -> None:
    """Runs stages one after the other; each must succeed."""
    for name in names:
        command = importlib.import_module(f"stages.{name}").main
        arguments = ["--task", task] + (["--algorithm", algorithm] if name in FROM_TRAIN else [])
        result = CliRunner().invoke(command, arguments)
        assert result.exit_code == 0, f"{name}: {result.output} {result.exception!r}"


__all__ = ["BEFORE_TRAIN", "FROM_TRAIN", "run", "write"]
