"""Rewards that are networks: pooling, truncation, order and padding, with tiny models of the real architectures."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2ForSequenceClassification,
    GPT2LMHeadModel,
    RobertaConfig,
    RobertaForSequenceClassification,
    XLMRobertaConfig,
)

from alol import rewards
from alol.base.errors import InputError
from alol.compute import packed_models
from alol.config import yaml_files
from alol.config.build import build
from alol.rewards import options, untrained
from alol.rewards.classifier import ClassifierNetwork, sigmoid
from alol.rewards.critic_model import CriticConfig
from alol.rewards.network import Encoded, batch_of, last_attended
from alol.rewards.preference import PreferenceNetwork, RewardModel, RewardModelConfig, dialogue
from tests.closure import ROOT
from tests.reward_project import load

TEXTS = ["a small text about cats", "another one about dogs and cats", "what do you think?", "I do not know"]
SIZES = {"num_hidden_layers": 2, "hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32}
PROMPTS = ["tell me about cats", "why?", "what do you think about dogs and cats and everything else?"]
RESPONSES = ["small cats", "I do not know, and nobody else does", ""]


def training() -> options.Training:
    """The defaults of tasks/shared/rewards.yaml, but for a model of one's own that is tiny."""
    defaults = yaml_files.read(ROOT / "tasks/shared/rewards.yaml")["training"]
    tiny = {"pooling": "last", "width": 16, "heads": 2, "vocabulary": 300, "batch_size": 4, "epochs": 1, "folds": 2}
    still = {"weight_decay": 0.0, "dropout": 0.0, "seed": 0}
    lora, measured = {"r": 2, "alpha": 4.0, "dropout": 0.0}, {"resamples": 50, "bins": 10, "words": 100}
    return build(options.Training, {**defaults, **tiny, **still, "lora": lora, "measured": measured}, "train")


def strong(model: torch.nn.Module) -> torch.nn.Module:
    """Weights large enough that the scores of different texts differ."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(8)
    return model.eval()


def bert(folder: Path, labels: int = 3, names: dict[int, str] | None = None) -> Path:
    tokenizer = untrained.classifier_tokenizer(TEXTS, training(), 40)
    torch.manual_seed(0)
    keys = {"id2label": names, "label2id": {v: k for k, v in names.items()}} if names else {"num_labels": labels}
    config = BertConfig(**SIZES, vocab_size=len(tokenizer), max_position_embeddings=40, pad_token_id=0, **keys)
    strong(BertForSequenceClassification(config)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def gpt2(folder: Path) -> Path:
    """As DialogRPT is published: one token is padding, separator and end of text, and there is a single logit."""
    marks = options.Preference(
        "preference", None, None, None, "text", "[H]", "[A]", "logit", 64, "fp32", 64, 8192, None, None, None
    )
    tokenizer = untrained.preference_tokenizer(TEXTS, training(), marks)
    tokenizer.pad_token = tokenizer.eos_token
    torch.manual_seed(1)
    end = tokenizer.eos_token_id
    config = GPT2Config(
        n_layer=2, n_embd=16, n_head=2, n_positions=32, vocab_size=len(tokenizer),
        num_labels=1, pad_token_id=end, eos_token_id=end, bos_token_id=end,
    )  # fmt: skip
    strong(GPT2ForSequenceClassification(config)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def scores(tmp_path: Path, spec: dict, prompts=PROMPTS, responses=RESPONSES, contexts=None) -> np.ndarray:
    given = load(tmp_path, {"it": {"low": None, "high": None, **spec}})
    components = rewards.load(given.rewards, tmp_path / "none", given.launch)
    return components.score(prompts, responses, contexts or [{} for _ in prompts])["it"]


def test_a_softmax_classifier_gives_the_labels_probability(tmp_path):
    folder = bert(tmp_path / "bert", names={0: "unsafe", 1: "safe", 2: "other"})
    parts = [scores(tmp_path, {"kind": "classifier", "model": str(folder), "label": i}) for i in range(3)]
    assert np.sum(parts, axis=0) == pytest.approx([1.0] * 3, abs=1e-6)
    named = scores(tmp_path, {"kind": "classifier", "model": str(folder), "label": "safe"})
    assert named.tolist() == parts[1].tolist()
    model = BertForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = untrained.PreTrainedTokenizerFast.from_pretrained(folder)
    with torch.no_grad():
        direct = model(**tokenizer(PROMPTS[:1], RESPONSES[:1], return_tensors="pt")).logits.softmax(-1)[0, 1]
    assert parts[1][0] == pytest.approx(float(direct), abs=1e-6)


def test_the_batch_and_the_order_do_not_matter(tmp_path):
    spec = {"kind": "classifier", "model": str(bert(tmp_path / "bert"))}
    prompts, responses = PROMPTS * 3, [text for text in RESPONSES for _ in range(3)]
    together = scores(tmp_path, spec, prompts, responses)
    alone = [scores(tmp_path, spec, [p], [r])[0] for p, r in zip(prompts, responses, strict=True)]
    assert together == pytest.approx(alone, abs=1e-5)
    assert scores(tmp_path, spec, prompts[::-1], responses[::-1])[::-1] == pytest.approx(together, abs=1e-5)


def test_a_decoder_classifier_reads_the_last_attended_token(tmp_path):
    """Where padding, separator and end of text are one token, a text that ends in it must be pooled there."""
    folder = gpt2(tmp_path / "gpt2")
    model = GPT2ForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = untrained.PreTrainedTokenizerFast.from_pretrained(folder)
    texts = ["cats<|endoftext|>dogs", "dogs<|endoftext|>", "what do you think?<|endoftext|>I do not know"]
    spec = {"kind": "classifier", "model": str(folder), "inputs": ["prompt"], "output": "logit"}
    end = "<|endoftext|>"
    marked = [{"prompt_marks": [text.index(end), text.index(end) + len(end)]} for text in texts]
    found = scores(tmp_path, spec, texts, RESPONSES, marked)
    for text, score in zip(texts, found, strict=True):
        ids = tokenizer(text, return_tensors="pt")["input_ids"]
        with torch.no_grad():
            direct = model.score(model.transformer(ids).last_hidden_state)[0, -1, 0]
        assert score == pytest.approx(float(direct), rel=1e-3, abs=1e-5)
    assert scores(tmp_path, {**spec, "output": "sigmoid"}, texts, RESPONSES, marked) == pytest.approx(
        sigmoid(found), abs=1e-6
    )


def test_no_text_is_too_long_or_too_short(tmp_path):
    long = "cats and dogs " * 500
    prompts, responses = [long, "", long, ""], [long, "", "", long]
    for folder in (bert(tmp_path / "bert", labels=1), gpt2(tmp_path / "gpt2")):
        spec = {"kind": "classifier", "model": str(folder), "output": "sigmoid", "max_length": 1000}
        assert np.isfinite(scores(tmp_path, spec, prompts, responses)).all()


def test_a_roberta_counts_its_positions_after_the_pad_id(tmp_path):
    tokenizer = untrained.classifier_tokenizer(TEXTS, training(), 40)
    config = RobertaConfig(
        **SIZES, vocab_size=len(tokenizer), max_position_embeddings=22, pad_token_id=0, num_labels=2, type_vocab_size=2
    )
    RobertaForSequenceClassification(config).save_pretrained(tmp_path / "roberta")
    tokenizer.save_pretrained(tmp_path / "roberta")
    found = scores(tmp_path, {"kind": "classifier", "model": str(tmp_path / "roberta")}, ["cats " * 90], ["dogs " * 90])
    assert 0 < found[0] < 1


def network(inputs: list[str], max_length: int) -> ClassifierNetwork:
    tokenizer = untrained.classifier_tokenizer(["abcdefghij"], training(), 40)
    config = BertConfig(**SIZES, vocab_size=len(tokenizer), max_position_embeddings=40, pad_token_id=0)
    given = options.Classifier(
        "classifier", None, None, None, "text", inputs, "softmax", 1, max_length, "fp32", 64, 8192, 0.0, 1.0, None
    )
    return ClassifierNetwork(BertForSequenceClassification(config), tokenizer, given, "rewards.it")


@pytest.mark.parametrize(
    ("first", "second", "kept"),
    [
        ("12345678", "ABCDEFGH", "[CLS]5678[SEP]ABCD[SEP]"),  # both long: half each
        ("12345678", "AB", "[CLS]345678[SEP]AB[SEP]"),  # the short one is kept whole
        ("12", "ABCDEFGH", "[CLS]12[SEP]ABCDEF[SEP]"),
        ("12", "AB", "[CLS]12[SEP]AB[SEP]"),
    ],
)
def test_the_first_text_is_cut_on_the_left_and_the_second_on_the_right(first, second, kept):
    it = network(["context.knowledge", "response"], 11)
    [encoded] = it.encode(["unused"], [second], [{"knowledge": first}])
    assert it.tokenizer.decode(encoded.ids).replace(" ", "") == kept
    tokens = it.tokenizer.convert_ids_to_tokens(encoded.ids.tolist())
    assert encoded.segments.tolist() == [int(i > tokens.index("[SEP]")) for i in range(len(tokens))]


def test_a_missing_key_of_the_context_is_named(tmp_path):
    spec = {"kind": "classifier", "model": str(bert(tmp_path / "bert")), "inputs": ["context.head", "response"]}
    with pytest.raises(InputError, match=r"rewards\.it\.model.*context\.head is missing; keys .*: tail"):
        scores(tmp_path, spec, ["p"], ["r"], [{"tail": "x"}])


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"label": 3}, "label is 3, but the model has the classes 0 to 2"),
        ({"label": "kind"}, "unknown label .*'kind'; known: LABEL_0"),
        ({"output": "sigmoid"}, "needs one logit, but the model has 3"),
        ({"model": "/absent/model"}, "rewards.it.model: /absent/model does not exist"),
    ],
)
def test_a_model_that_does_not_fit_is_explained(tmp_path, keys, message):
    folder = bert(tmp_path / "bert")
    with pytest.raises(InputError, match=message):
        scores(tmp_path, {"kind": "classifier", "model": str(folder), **keys})


def test_a_model_without_its_head_is_refused(tmp_path):
    folder = gpt2(tmp_path / "gpt2")
    GPT2LMHeadModel(GPT2Config.from_pretrained(folder)).save_pretrained(folder)
    with pytest.raises(InputError, match=r"it lacks the weights score\.weight"):
        scores(tmp_path, {"kind": "classifier", "model": str(folder), "output": "logit"})


SMALL = pytest.mark.parametrize("config", [
    BertConfig(**SIZES, vocab_size=60, num_labels=3, type_vocab_size=2, max_position_embeddings=48),
    RobertaConfig(**SIZES, vocab_size=60, num_labels=3, type_vocab_size=1, max_position_embeddings=48),
    XLMRobertaConfig(**SIZES, vocab_size=60, num_labels=2, type_vocab_size=1, max_position_embeddings=48),
    CriticConfig(**SIZES, vocab_size=60, num_labels=1, type_vocab_size=1, max_position_embeddings=48, head_width=8),
    GPT2Config(n_layer=2, n_embd=16, n_head=2, n_positions=48, vocab_size=60, num_labels=1),
], ids=lambda config: config.model_type)  # fmt: skip


def small(config):
    """A classifier with an attention that heeds which text a token is of, and rows of four lengths."""
    torch.manual_seed(3)
    it = network(["prompt", "response"], 40)
    it.model = strong(AutoModelForSequenceClassification.from_config(config))
    names = ["input_ids", "attention_mask"] + ["token_type_ids"] * (config.model_type == "bert")
    it.tokenizer = SimpleNamespace(model_input_names=names, pad_token_id=config.pad_token_id, eos_token_id=2)
    ids = np.random.default_rng(0).integers(4, 60, 40)
    return it, [Encoded(ids[:n].astype(np.int32), (ids[:n] > 30).astype(np.int32)) for n in (9, 1, 40, 3)]


@SMALL
@torch.no_grad()
def test_texts_without_padding_get_the_logits_of_padded_ones(config):
    it, rows = small(config)
    padded = it.padded_logits(batch_of(it, rows))
    assert it.model.config._attn_implementation == "sdpa"
    found = it.logits(rows)
    assert it.model.config._attn_implementation == packed_models.NAME
    torch.testing.assert_close(found, padded, rtol=1e-4, atol=2e-6)
    assert padded[:, 0].std() > 1e-3
    torch.testing.assert_close(it.padded_logits(batch_of(it, rows)), padded, rtol=1e-4, atol=2e-6)


@SMALL
def test_training_on_texts_without_padding_gives_the_gradients_of_padded_ones(config):
    it, rows = small(config)
    it.model.train()
    for module in it.model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0

    def gradients(logits):
        it.model.zero_grad()
        (logits * torch.arange(1.0, 1 + logits.numel()).view_as(logits)).sum().backward()
        return {name: p.grad.clone() for name, p in it.model.named_parameters() if p.grad is not None}

    padded = gradients(it.padded_logits(batch_of(it, rows)))
    found = gradients(it.logits(rows))
    assert found.keys() == padded.keys()
    for name, expected in padded.items():
        scale = expected.norm().clamp(min=0.1)  # that of a key bias is 0 but for rounding
        assert (found[name] - expected).norm() / scale < 1e-4, name


# --- the reward model over dialogue turns


def reward_model(folder: Path, pooling: str) -> Path:
    marks = options.Preference(
        "preference",
        None,
        None,
        None,
        "text",
        "<|prompter|>",
        "<|assistant|>",
        "logit",
        64,
        "fp32",
        64,
        8192,
        None,
        None,
        None,
    )
    tokenizer = untrained.preference_tokenizer(TEXTS, training(), marks)
    torch.manual_seed(2)
    config = RewardModelConfig(
        **SIZES, vocab_size=len(tokenizer), max_position_embeddings=64, pooling=pooling, eos_token_id=1, bos_token_id=1
    )
    strong(RewardModel(config)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("pooling", ["last", "mean"])
def test_a_reward_models_score_is_the_same_under_both_paddings(tmp_path, pooling):
    model = RewardModel.from_pretrained(reward_model(tmp_path / "rm", pooling)).eval()
    ids = torch.arange(4, 11)[None]
    nothing = torch.zeros(1, 3, dtype=torch.long)
    mask = torch.ones_like(ids)
    with torch.no_grad():
        plain = model(ids, mask)
        left = model(torch.cat([nothing, ids], 1), torch.cat([nothing, mask], 1))
        right = model(torch.cat([ids, nothing], 1), torch.cat([mask, nothing], 1))
        hidden = model.gpt_neox(ids).last_hidden_state[0]
        pooled = hidden[-1] if pooling == "last" else hidden.mean(0)
        direct = pooled @ model.out_proj.weight[0] + model.out_proj.bias
    rows = [Encoded(np.arange(4, end, dtype=np.int32), np.zeros(end - 4, np.int32)) for end in (11, 9, 20)]
    marks = options.Preference(
        "preference", None, None, None, "text", "[H]", "[A]", "logit", 64, "fp32", 64, 8192, None, None, None
    )
    it = PreferenceNetwork(model, SimpleNamespace(eos_token="</s>"), marks, "it")
    with torch.no_grad():
        unpadded = it.logits(rows)[:, 0]
        alone = [model(torch.from_numpy(row.ids)[None].long(), torch.ones(1, len(row.ids))) for row in rows]
    assert unpadded.tolist() == pytest.approx([float(one) for one in alone], rel=1e-4)
    assert unpadded[0].item() == pytest.approx(float(plain), rel=1e-4)
    assert left.tolist() == pytest.approx(plain.tolist(), rel=1e-4)
    assert right.tolist() == pytest.approx(plain.tolist(), rel=1e-4)
    assert plain.tolist() == pytest.approx(direct.tolist(), rel=1e-4)


def test_the_last_attended_position_is_found_on_either_side():
    mask = torch.tensor([[1, 1, 0, 0], [0, 0, 1, 1], [1, 1, 1, 1], [1, 0, 0, 0]])
    assert last_attended(mask).tolist() == [1, 3, 3, 0]


def test_a_reward_model_has_the_published_names(tmp_path):
    """Those of the OpenAssistant reward models, whose configuration may predate `pooling` and today's rotary keys."""
    from safetensors import safe_open

    folder = reward_model(tmp_path / "rm", "last")
    with safe_open(folder / "model.safetensors", "pt") as file:
        names = set(file.keys())
    assert {"out_proj.weight", "out_proj.bias", "gpt_neox.embed_in.weight"} <= names
    assert {name.split(".")[0] for name in names} == {"gpt_neox", "out_proj"}
    config = json.loads((folder / "config.json").read_text())
    assert (config["model_type"], config["pooling"]) == ("gpt_neox_reward_model", "last")
    spec = {"kind": "preference", "model": str(folder), "output": "logit"}
    before = scores(tmp_path, spec)
    for key in ("rope_parameters", "pooling", "dtype"):
        del config[key]
    config |= {"architectures": ["GPTNeoXRewardModel"], "torch_dtype": "float16"}
    config |= {"rotary_pct": 0.25, "rotary_emb_base": 10000}
    (folder / "config.json").write_text(json.dumps(config))
    assert scores(tmp_path, spec) == pytest.approx(before, abs=1e-6)


def test_a_dialogue_marks_every_turn_and_ends_it():
    marks = options.Preference(
        "preference", None, None, None, "text", "[H]", "[A]", "logit", 64, "fp32", 64, 8192, None, None, None
    )
    turns = [
        {"role": "human", "text": "hi"}, {"role": "assistant", "text": "hello"}, {"role": "human", "text": "why?"}
    ]  # fmt: skip
    text, places = dialogue(marks, "w", "$", "unused", "so", {"turns": turns})
    assert (text, places) == ("[H]hi$[A]hello$[H]why?$[A]so$", [0, 3, 5, 9, 14, 18, 22, 26, 28, 29])
    assert dialogue(marks, "w", "$", "ask", "so", {"turns": None}) == ("[H]ask$[A]so$", [0, 3, 6, 10, 12, 13])
    own = {"turns": None, "prompt_marks": [1, 2]}
    assert dialogue(marks, "w", "$", "ask", "so", own) == ("[H]ask$[A]so$", [0, 3, 4, 5, 6, 10, 12, 13])


def test_a_system_turn_is_the_first_paragraph_of_the_human_turn_after_it():
    marks = options.Preference(
        "preference", None, None, None, "text", "[H]", "[A]", "logit", 64, "fp32", 64, 8192, None, None, None
    )
    system, human, tool = (
        {"role": role, "text": text} for role, text in [("system", "Be."), ("human", "hi"), ("tool", "x")]
    )
    assert dialogue(marks, "w", "$", "", "so", {"turns": [system, human]})[0] == "[H]Be.\n\nhi$[A]so$"
    empty = {"role": "system", "text": ""}
    assert dialogue(marks, "w", "$", "", "so", {"turns": [empty, human]})[0] == "[H]hi$[A]so$"
    for turns in ([system], [human, system], [system, tool, human], [human, tool]):
        with pytest.raises(
            InputError, match=r"^w: a turn has the role '(system|tool)', which .*; template: chat takes"
        ):
            dialogue(marks, "w", "$", "", "", {"turns": turns})


def test_a_long_dialogue_keeps_its_end(tmp_path):
    folder = reward_model(tmp_path / "rm", "last")
    spec = {"kind": "preference", "model": str(folder), "output": "logit", "max_length": 9}
    turns = [{"role": "human", "text": "cats " * 50}], [{"role": "human", "text": "dogs and cats " + "cats " * 50}]
    found = scores(tmp_path, spec, [""] * 2, ["no", "no"], [{"turns": t} for t in turns])
    assert found[0] == pytest.approx(found[1], abs=1e-6)
    other = scores(tmp_path, spec, [""], ["yes"], [{"turns": turns[0]}])
    assert abs(other[0] - found[0]) > 1e-3


def test_a_sigmoid_output_is_that_of_the_logit(tmp_path):
    spec = {"kind": "preference", "model": str(reward_model(tmp_path / "rm", "mean"))}
    logits = scores(tmp_path, {**spec, "output": "logit"})
    assert scores(tmp_path, spec) == pytest.approx([1 / (1 + math.exp(-value)) for value in logits], abs=1e-6)


def test_padding_goes_to_the_longest_of_the_batch():
    it = network(["response"], 20)
    rows = it.encode(["", ""], ["ab", "abcdef"], [{}, {}])
    batch = batch_of(it, rows)
    width = max(len(row.ids) for row in rows)
    assert batch["input_ids"].shape == (2, width)
    assert batch["attention_mask"].sum(1).tolist() == [len(row.ids) for row in rows]
