"""The published tasks' parameters against a table: what the paper's code used, as it documents or computes it."""

from __future__ import annotations

from typing import Any

import pytest

from alol.config import params
from tests.closure import ROOT

ADAMW = {
    "train.optimizer.name": "adamw",
    "train.optimizer.lr": 2e-5,
    "train.optimizer.eps": 1e-8,
    "train.optimizer.betas": [0.9, 0.999],
    "train.optimizer.weight_decay": 0.01,
    "train.optimizer.clip_norm": 1.0,
    "train.optimizer.schedule": "linear",
    "train.optimizer.warmup": 0,
    "train.filter": "auto",
    "train.sampling": "auto",
    "policy.tuning": "full",
    "policy.max_prompt": 512,
    "generate.beams": 2,
    "generate.sample": False,
    "generate.repetition_penalty": 2.5,
    "value.head": "linear",
    "value.heads": 8,
    "value.dropout": 0.1,
    "value.batch_size": 32,
    "value.epochs": 5,
    "value.lr": 2e-5,
    "value.weight_decay": 0.0,
    "reward.shift": 0.0,
}
DIALOGUE = {
    **ADAMW,
    "policy.model": "microsoft/DialoGPT-medium",
    "policy.max_response": 128,
    "policy.end_of_text": True,
    "generate.max_new_tokens": 128,
    "generate.stop": [],
    "generate.stop_ids": [],
    "reference.train": True,
    "reference.epochs": 6.0,
    "reference.batch_size": 16,  # 8 x 2
    "reference.evaluations": 12,  # 2 an epoch
    "reference.optimizer.lr": 2e-5,
    "reference.optimizer.schedule": "linear",
    "reference.optimizer.warmup": 0,
    "train.train_on": "preferred",
    "train.epochs": 3.0,
    "train.updates": None,
    "train.batch_size": 16,
    "train.evaluations": 6,
    "rewards.fluency.model": "textattack/roberta-base-CoLA",
    "rewards.fluency.inputs": ["response"],
    "rewards.fluency.output": "softmax",
    "rewards.fluency.label": 1,
    "rewards.fluency.max_length": 512,
    "rewards.depth.model": "microsoft/DialogRPT-depth",
    "rewards.depth.output": "sigmoid",
    "rewards.tfidf.few": 5,
    "rewards.tfidf.divisor": 10,
}
REDDIT = {
    **DIALOGUE,
    "clean.options.sample": 102000,
    "clean.options.seed": 901,
    "clean.options.max_words": 100,
    "clean.options.max_tokens": 300,
    "clean.options.test": 1000,
    "clean.options.validation": 1000,
    "clean.options.separator": "<|endoftext|>",
    "rewards.depth.inputs": ["prompt", "response"],
    "rewards.updown.model": "microsoft/DialogRPT-updown",
    "rewards.updown.inputs": ["prompt", "response"],
    "rewards.updown.output": "sigmoid",
    "rewards.safe.kind": "toxichat",
    "rewards.safe.label": 0,
    "rewards.safe.max_length": 512,
    "rewards.tfidf.texts": "both",
    "reward.weights": {"fluency": 1.0, "depth": 1.0, "updown": 1.0, "safe": 1.0, "tfidf": 1.0},
    "train.success": "reward",
}
WOW = {
    **DIALOGUE,
    "clean.options.max_history": 400,
    "clean.options.separator": "<|endoftext|>",
    "clean.options.test": {"wow": None, "faithdial": "faithdial/data/test.json"},
    "rewards.depth.inputs": ["context.history", "response"],
    "rewards.faithdial.model": "McGill-NLP/roberta-large-faithcritic",
    "rewards.faithdial.inputs": ["context.knowledge", "response"],
    "rewards.faithdial.output": "softmax",
    "rewards.faithdial.label": 0,
    "rewards.faithdial.max_length": 512,
    "rewards.tfidf.texts": "wow",
    "reward.weights": {"fluency": 1.0, "faithdial": 1.0, "depth": 1.0, "tfidf": 1.0},
}
TASKS: dict[str, dict[str, Any]] = {
    "hha": {
        "policy.model": "huggyllama/llama-7b",
        "policy.adapter": "timdettmers/qlora-hh-rlhf-7b",
        "policy.tuning": "qlora",
        "policy.lora.r": 64,
        "policy.lora.alpha": 16,
        "policy.max_prompt": 640,
        "policy.max_response": 128,
        "reference.train": False,
        "generate.max_new_tokens": 128,
        "generate.beams": 1,
        "generate.sample": False,
        "generate.repetition_penalty": 1.0,
        "generate.stop_ids": [835],
        "generate.cut": ["\n Human:", "\nHuman:", "\n### Human"],
        "rewards.preferred.output": "sigmoid",
        "rewards.preferred.scorer.model": "OpenAssistant/oasst-rm-2.1-pythia-1.4b-epoch-2.5",
        "rewards.preferred.scorer.max_length": 1024,
        "test_rewards.preferred.scorer.model": "OpenAssistant/oasst-rm-2-pythia-6.9b-epoch-1",
        "value.batch_size": 16,
        "value.epochs": 10,
        "value.lr": 1e-5,
        "value.weight_decay": 0.0,
        "value.heads": 8,
        "train.train_on": "preferred",
        "train.filter": "auto",
        "train.sampling": "auto",
        "train.batch_size": 16,  # 4 x 4
        "train.updates": 9000,
        "train.epochs": None,
        "train.evaluations": 10,  # every 900
        "train.success": "reward",
        "train.optimizer.name": "paged_adamw_32bit",
        "train.optimizer.lr": 2e-4,
        "train.optimizer.betas": [0.9, 0.999],
        "train.optimizer.eps": 1e-6,
        "train.optimizer.weight_decay": 0.01,
        "train.optimizer.clip_norm": 0.3,
        "train.optimizer.schedule": "constant",
    },
    "comet": {
        **ADAMW,
        "clean.options.validation_rows": 10000,
        "clean.options.test_prompts": None,
        "clean.options.seed": 901,
        "clean.options.relations": ["HinderedBy", "xNeed", "xWant", "xIntent", "xReact", "xAttr", "xEffect"],
        "policy.max_response": 30,
        "policy.end_of_text": False,
        "generate.max_new_tokens": 30,
        "generate.stop_ids": [13],
        "reference.train": False,
        "train.train_on": "all",
        "train.epochs": 1.0,
        "train.batch_size": 16,
        "train.evaluations": 16,
        "train.success": "reward_p_valid_model",
        "reward.weights": {"p_valid_model": 1.0},
        "rewards.p_valid_model.low": 0.0,
        "rewards.p_valid_model.high": 1.0,
        "rewards.p_valid_model.column": "p_valid_model",
        "rewards.p_valid_model.scorer.kind": "critic",
        "rewards.p_valid_model.scorer.names.placeholders": ["PersonX", "PersonY"],
        "aggregate.gold": "best",
    },
    "reddit_pos": {**REDDIT, "clean.options.train": "positive"},
    "reddit_neg": {**REDDIT, "clean.options.train": "negative"},
    "wow": {
        **WOW,
        "clean.options.train": {"wow": "wow/train.json", "faithdial": None},
        "clean.options.validation": {"wow": "wow/valid_topic_split.json", "faithdial": None},
        "train.success": "reward_faithdial",
    },
    "faithdial": {
        **WOW,
        "clean.options.train": {"wow": None, "faithdial": "faithdial/data/train.json"},
        "clean.options.validation": {"wow": None, "faithdial": "faithdial/data/valid.json"},
        "train.success": "reward",
    },
    "faithdial_wow": {
        **WOW,
        "clean.options.train": {"wow": "wow/train.json", "faithdial": "faithdial/data/train.json"},
        "clean.options.validation": {"wow": "wow/valid_topic_split.json", "faithdial": "faithdial/data/valid.json"},
        "clean.options.shuffle": 901,
        "train.success": "reward_faithdial",
    },
}
ALGORITHMS = {
    "r_gold": {"floor": 0.1},
    "r_lol": {"clip": 0.9},
    "a_lol": {"clip": 0.9},
    "a_lol_seq": {"clip": 0.9},
    "a_lol_kl": {"kl_beta": 0.2},
    "dpo": {"beta": 0.1},
    "pro": {"sft_weight": 0.05},
}
RANGES = {"hha": (0, 1), "comet": (0, 1), "reddit_pos": (0, 5), "reddit_neg": (0, 5)}
RANGES |= dict.fromkeys(("wow", "faithdial", "faithdial_wow"), (0, 4))


def value(loaded: params.Params, key: str) -> Any:
    found: Any = loaded
    for part in key.split("."):
        found = found[part] if isinstance(found, dict) else getattr(found, part)
    return found


@pytest.mark.parametrize("task", TASKS)
def test_a_published_tasks_parameters_are_the_published_ones(task):
    loaded = params.load(task, "a_lol", ROOT)
    assert {key: value(loaded, key) for key in TASKS[task]} == TASKS[task]


@pytest.mark.parametrize("task", RANGES)
def test_rewards_have_the_published_range(task):
    from alol.rewards import bounds

    loaded = params.load(task, "a_lol", ROOT)
    assert bounds(loaded.rewards, loaded.reward.weights, loaded.reward.shift) == RANGES[task]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_the_algorithms_constants_are_the_published_ones(algorithm):
    assert params.load("hha", algorithm, ROOT).hyperparameters == ALGORITHMS[algorithm]


def test_ppo_has_the_published_constants():
    found = params.load("hha", "ppo", ROOT).hyperparameters
    expected = {
        "updates_per_rollout": 3, "temperature": 1.0, "top_p": 0.95, "epochs": 4, "lr_scale": 0.1, "clip": 0.2,
        "value_clip": 0.2, "value_weight": 0.1, "gamma": 1.0, "lam": 0.95, "kl_coef": 0.2, "kl_target": 6.0,
        "kl_horizon": 10000, "scale_scores": True,
    }  # fmt: skip
    assert {key: found[key] for key in expected} == expected
