"""Reward models that read chats: the template's own tokens and scores, and what spelled special tokens become."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    LlamaConfig,
    Qwen2Config,
)

from alol import rewards
from alol.base.errors import InputError, ParameterError
from alol.checks import reward_parameters
from alol.compute import packed_models
from alol.config import model_names
from alol.data import schema
from alol.rewards import chats, training, untrained
from alol.rewards.classifier import ClassifierNetwork
from alol.rewards.critic import CriticNetwork
from alol.rewards.options import parse
from alol.rewards.preference import PreferenceNetwork, RewardModel, RewardModelConfig
from alol.rewards.toxichat import OffensiveModel, OffensiveNetwork
from tests import tokenizers
from tests.reward_project import load, row, write_clean
from tests.rewards.test_rewards_networks import SIZES, scores, strong

HISTORY = [
    {"role": "human", "text": "What is the capital of France?"},
    {"role": "assistant", "text": "Paris, thank you for asking!"},
    {"role": "human", "text": "I do not know;  look it up yourself.\n\nWhy?"},
]
SYSTEM = {"role": "system", "text": "You are a helpful assistant."}
ANSWERS = ["Paris", "The capital of France is Paris, thank you for asking!", ""]
ROLES = {"human": "user"}
CONFIGS = {"llama3": LlamaConfig, "qwen": Qwen2Config, "mistral": LlamaConfig, "gemma": LlamaConfig}


def judge(folder: Path, name: str) -> Path:
    """A sequence classifier with one logit, as the published reward models of conversations."""
    tokenizer = tokenizers.ALL[name]()
    config = CONFIGS[name](
        **SIZES, num_key_value_heads=1, vocab_size=len(tokenizer), max_position_embeddings=300, num_labels=1,
        pad_token_id=tokenizer.pad_token_id, bos_token_id=None, eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    torch.manual_seed(5)
    strong(AutoModelForSequenceClassification.from_config(config)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def own_ids(tokenizer, turns: list[dict], response: str) -> list[int]:
    """What the library makes of a conversation."""
    turns = [*turns, {"role": "assistant", "text": response}]
    messages = [{"role": ROLES.get(turn["role"], turn["role"]), "content": turn["text"]} for turn in turns]
    return tokenizer.apply_chat_template(messages, tokenize=True)["input_ids"]


def spec(folder: Path | str, **keys) -> dict:
    return {"kind": "classifier", "model": str(folder), "output": "logit", "template": "chat", **keys}


def built(tmp_path: Path, table: dict):
    return parse(load(tmp_path, {"it": table}).rewards["it"], "rewards.it")


def encoder(tmp_path: Path, tokenizer, limit: int = 300, **keys) -> ClassifierNetwork:
    model = SimpleNamespace(config=SimpleNamespace(max_position_embeddings=300), named_modules=list)
    options = built(tmp_path, spec("none", max_length=limit, **keys))
    return ClassifierNetwork(model, tokenizer, options, "rewards.it.model")


def encoded(network, turns: list[dict] | None, response: str, prompt: str = "unused") -> list[int]:
    [found] = network.encode([prompt], [response], [{"turns": turns}])
    return found.ids.tolist()


# --- the conversation as a template writes it


@pytest.mark.parametrize("name", tokenizers.CHAT)
@pytest.mark.parametrize("padded", [False, True])
def test_scores_are_those_of_the_librarys_model_on_its_own_template(tmp_path, monkeypatch, name, padded):
    folder = judge(tmp_path / "judge", name)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    head = [] if name == "gemma" else [SYSTEM]
    histories = [HISTORY, HISTORY[:1], head + HISTORY]
    expected = []
    for turns, answer in zip(histories, ANSWERS, strict=True):
        ids = own_ids(tokenizer, turns, answer)
        assert tokenizer.bos_token is None or ids.count(tokenizer.bos_token_id) == 1
        with torch.no_grad():
            hidden = model.model(torch.tensor([ids])).last_hidden_state[0, -1]
        expected.append(model.score(hidden).item())
    if padded:
        monkeypatch.setattr(packed_models, "packable", lambda model: False)
    contexts = [{"turns": turns} for turns in histories]
    found = scores(tmp_path, spec(folder, low=None, high=None), ["unused"] * 3, ANSWERS, contexts)
    assert found == pytest.approx(expected, rel=1e-4, abs=1e-4)
    assert np.std(found) > 1e-2


def test_a_row_alone_scores_as_among_others_and_as_by_the_librarys_own_pooling(tmp_path):
    """Qwen's padding is another token than its ends, so that the library finds the last token too."""
    folder = judge(tmp_path / "judge", "qwen")
    contexts = [{"turns": HISTORY}, {"turns": HISTORY[:1]}, {"turns": [SYSTEM, *HISTORY]}]
    together = scores(tmp_path, spec(folder), ["unused"] * 3, ANSWERS, contexts)
    alone = [
        scores(tmp_path, spec(folder), ["unused"], [answer], [context])[0]
        for answer, context in zip(ANSWERS, contexts, strict=True)
    ]
    assert together == pytest.approx(alone, abs=1e-4)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    rows = [own_ids(tokenizer, c["turns"], answer) for answer, c in zip(ANSWERS, contexts, strict=True)]
    with torch.no_grad():
        batch = tokenizer.pad({"input_ids": rows}, return_tensors="pt")
        direct = model(**batch).logits[:, 0]
    assert together == pytest.approx(direct.tolist(), rel=1e-4, abs=1e-4)


@pytest.mark.parametrize("name", tokenizers.CHAT)
def test_a_conversation_has_the_tokens_of_the_librarys_template(tmp_path, name):
    tokenizer = tokenizers.CHAT[name]()
    network = encoder(tmp_path, tokenizer)
    for turns, answer in [(HISTORY, "Paris"), (HISTORY[:1], ""), (HISTORY, "  I do not know\n")]:
        assert encoded(network, turns, answer) == own_ids(tokenizer, turns, answer)
    alone = own_ids(tokenizer, [{"role": "human", "text": "Why?"}], "Paris")
    assert encoded(network, None, "Paris", prompt="Why?") == alone


def test_turns_of_systems_and_tools_go_through_a_template(tmp_path):
    tokenizer = tokenizers.qwen()
    turns = [SYSTEM, *HISTORY, {"role": "tool", "text": "the capital"}]
    assert encoded(encoder(tmp_path, tokenizer), turns, "so") == own_ids(tokenizer, turns, "so")


def test_a_long_conversation_loses_its_oldest_turns_then_letters_then_tokens(tmp_path):
    tokenizer = tokenizers.qwen()
    turns = [SYSTEM, *HISTORY]
    whole, newest = own_ids(tokenizer, turns, "Paris"), own_ids(tokenizer, [SYSTEM, HISTORY[2]], "Paris")
    assert len(whole) > len(newest)
    for limit in (len(whole) - 1, len(newest)):
        assert encoded(encoder(tmp_path, tokenizer, limit), turns, "Paris") == newest
    text = HISTORY[2]["text"]
    cut = [own_ids(tokenizer, [SYSTEM, {"role": "human", "text": text[i:]}], "Paris") for i in range(len(text) + 1)]
    assert encoded(encoder(tmp_path, tokenizer, len(newest) - 5), turns, "Paris") in cut
    assert encoded(encoder(tmp_path, tokenizer, len(cut[-1])), turns, "Paris") == cut[-1]
    for limit in (4, len(cut[-1]) - 1):
        assert encoded(encoder(tmp_path, tokenizer, limit), turns, "Paris") == cut[-1][-limit:]


def test_a_reward_model_of_kind_preference_takes_a_template_too(tmp_path):
    tokenizer = tokenizers.qwen()
    given = built(tmp_path, {"kind": "preference", "model": "none", "template": "chat", "max_length": 300})
    network = PreferenceNetwork(None, tokenizer, given, "rewards.it.model")
    turns = [SYSTEM, *HISTORY]
    assert encoded(network, turns, "Paris") == own_ids(tokenizer, turns, "Paris")


def test_both_kinds_score_a_chat_alike(tmp_path):
    folder = judge(tmp_path / "judge", "llama3")
    given = ["unused"] * 2, ANSWERS[:2], [{"turns": HISTORY}, {"turns": [SYSTEM, *HISTORY]}]
    expected = scores(tmp_path, spec(folder), *given)
    assert scores(tmp_path, spec(folder, kind="preference"), *given) == pytest.approx(expected, abs=1e-6)


def test_turns_that_a_template_does_not_take_are_one_line(tmp_path):
    network = encoder(tmp_path, tokenizers.gemma())
    with pytest.raises(
        InputError, match=r"^rewards\.it\.template, with the response 'Paris', does not take .*: .*System"
    ) as error:
        encoded(network, [SYSTEM, *HISTORY], "Paris")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        (
            "t5",
            None,
            "rewards.it.template is chat, but the tokenizer has no chat template; name a file templates/*.jinja",
        ),
        ("qwen", "{{ messages[0].content }}", "rewards.it.template leaves out what the assistant says"),
        ("qwen", "{% for %}", "rewards.it.template does not take these turns"),
    ],
)
def test_a_template_that_is_missing_or_wrong_is_refused_when_the_model_is_loaded(tmp_path, name, content, expected):
    tokenizer = tokenizers.ALL[name]()
    tokenizer.chat_template = content if content is not None else tokenizer.chat_template
    with pytest.raises(InputError) as error:
        encoder(tmp_path, tokenizer)
    assert str(error.value).startswith(expected)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        ({"template": "nowhere.jinja"}, "template is 'nowhere.jinja', but must be text, chat or a .jinja file in"),
        ({"template": "templates/no.jinja"}, "template is 'templates/no.jinja', which does not exist"),
        ({"template": ""}, "template"),
        ({"inputs": ["response"]}, "template is chat, which writes the inputs prompt, response, not response"),
        ({"model": None, "train": {"texts": "tone"}}, "template is chat, but train.init is scratch; start from"),
    ],
)
def test_what_can_be_known_of_a_template_is_said_before_anything_runs(tmp_path, table, expected):
    labels = {"tone": {"file": "x.csv", "response": "r", "label": "l", "classes": [[0], [1]]}}
    given = load(tmp_path, {"it": spec("hub/model", **table)}, clean={"labels": labels})
    [error] = reward_parameters.check(given)
    assert isinstance(error, ParameterError)
    assert str(error).startswith(f"rewards.it.{expected}")
    assert reward_parameters.check(load(tmp_path, {"it": spec("hub/model")})) == []


def test_a_template_from_a_file_is_kept_with_the_model_that_is_trained(tmp_path, monkeypatch):
    """By a judge that has none; it then scores as it was trained, whatever becomes of the file."""
    folder = judge(tmp_path / "judge", "qwen")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = None
    tokenizer.save_pretrained(folder)
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    monkeypatch.chdir(tmp_path)
    own = Path("templates/own.jinja")
    own.parent.mkdir()
    own.write_text(tokenizers.QWEN, encoding="utf-8")
    clean = write_clean(tmp_path / "clean")
    with schema.writing(clean / "labels/tone.parquet", schema.LABELLED) as writer:
        writer.write(
            {"prompt": f"Why {i}?", "response": "Paris" if i % 2 else "no", "context": {}, "label": i % 2}
            for i in range(20)
        )
    labels = {"tone": {"file": "x.csv", "response": "r", "label": "l", "classes": [[0], [1]]}}
    train = {"texts": "tone", "init": str(folder), "epochs": 1}
    table = spec("", model=None, template=str(own), low=None, high=None, train=train)
    given = load(tmp_path, {"it": table}, clean={"labels": labels})
    assert reward_parameters.check(given) == []
    assert [own, folder] == list(model_names.named({"a": table["template"], "b": str(folder)}))
    training.train(given.rewards, clean, tmp_path / "models", given.launch)
    own.unlink()
    made = rewards.load(given.rewards, tmp_path / "models", given.launch)
    found = made.score(["unused"], ["Paris"], [{"turns": HISTORY}])["it"]
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "models/it/full").eval()
    kept = AutoTokenizer.from_pretrained(tmp_path / "models/it/full")
    with torch.no_grad():
        direct = model(torch.tensor([own_ids(kept, HISTORY, "Paris")])).logits
    assert found == pytest.approx(direct[0].tolist(), rel=1e-4)


# --- special tokens that texts spell


def special(tokenizer) -> list[str]:
    found = [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]
    return [token for token in found if token != tokenizer.unk_token and not token.startswith("<0x")]


def counts(tokenizer, ids: list[int]) -> list[int]:
    return [ids.count(tokenizer.convert_tokens_to_ids(token)) for token in special(tokenizer)]


def networks(tmp_path: Path, tokenizer) -> dict[str, object]:
    """Each kind of network that reads texts, and a classifier with a template."""
    where, small = "rewards.it.model", {**SIZES, "vocab_size": len(tokenizer)}
    bert = BertForSequenceClassification(BertConfig(**small, max_position_embeddings=400))
    gpt2 = OffensiveModel(GPT2Config(n_layer=1, n_embd=8, n_head=1, n_positions=400, vocab_size=len(tokenizer)))
    plain = built(tmp_path, {"kind": "classifier", "model": "m"})
    found = {
        "classifier": ClassifierNetwork(bert, tokenizer, plain, where),
        "critic": CriticNetwork(bert, tokenizer, built(tmp_path, {"kind": "critic", "model": "m"}), where),
        "preference": PreferenceNetwork(
            RewardModel(RewardModelConfig(**small)), tokenizer,
            built(tmp_path, {"kind": "preference", "model": "m", "human": "[H]", "assistant": "[A]"}), where,
        ),
        "toxichat": OffensiveNetwork(gpt2, tokenizer, built(tmp_path, {"kind": "toxichat", "model": "m"}), where),
    }  # fmt: skip
    if tokenizer.chat_template:
        found["chat"] = encoder(tmp_path, tokenizer, 400)
    return found


@pytest.mark.parametrize("name", tokenizers.ALL)
def test_special_tokens_that_a_text_spells_are_letters_to_every_kind(tmp_path, name):
    tokenizer = tokenizers.ALL[name]()
    for kind, network in networks(tmp_path, tokenizer).items():

        def ids(text: str, network=network) -> list[int]:
            turns = [{"role": "human", "text": f"What{text} is"}]
            context = {"head": f"the{text} capital", "relation": "xNeed", "turns": turns}
            [found] = network.encode([f"What{text} is"], [f"Paris{text} I"], [context])
            return found.ids.tolist()

        plain = ids("")
        for token in special(tokenizer):
            for spelled in (token, f" {token}"):
                assert counts(tokenizer, ids(spelled)) == counts(tokenizer, plain), (kind, token)
            assert ids(f" {token}") != plain


@pytest.mark.parametrize("name", tokenizers.ALL)
def test_texts_that_spell_none_have_the_tokens_that_the_tokenizer_gives_them(tmp_path, name):
    tokenizer = tokenizers.ALL[name]()
    prompt, response = "What is the capital of France?", "Paris, thank you;  for asking!\n\nWhy"
    end, turns = tokenizer.eos_token, [{"role": "human", "text": prompt}]
    found = networks(tmp_path, tokenizer)

    def plain(text: str) -> list[int]:
        return tokenizer(text, add_special_tokens=False)["input_ids"]

    assert encoded(found["classifier"], turns, response, prompt) == tokenizer(prompt, response)["input_ids"]
    told = f"[H]{prompt}{end}[A]{response}{end}"
    assert encoded(found["preference"], turns, response, prompt) == plain(told)
    expected = [*plain(prompt), tokenizer.eos_token_id, *plain(response), tokenizer.eos_token_id]
    assert encoded(found["toxichat"], turns, response, prompt) == expected


def test_the_marks_of_a_rows_format_are_special_tokens(tmp_path):
    """In a prompt, and in a text of the context that is the end of one; the same letters elsewhere are not."""
    end = "<|endoftext|>"
    tokenizer = tokenizers.byte_level([end], eos_token=end, pad_token=end)
    prompt, history = f"Know{end}Why?{end}Who {end} so?{end}", f"Why?{end}Who {end} so?{end}"
    places = [4, 4 + len(end), 8 + len(end), 8 + 2 * len(end), len(prompt) - len(end), len(prompt)]
    assert [prompt[a:b] for a, b in zip(places[::2], places[1::2], strict=True)] == [end] * 3
    context = {"history": history, "prompt_marks": places, "turns": None}
    found = networks(tmp_path, tokenizer)
    number = tokenizer.convert_tokens_to_ids(end)
    expected = {"classifier": 3, "preference": 3 + 2, "toxichat": 3 + 1}
    for kind, count in expected.items():
        [one] = found[kind].encode([prompt], [f"No{end}."], [context])
        assert one.ids.tolist().count(number) == count, kind
    given = built(tmp_path, {"kind": "classifier", "model": "m", "inputs": ["context.history", "response"]})
    network = ClassifierNetwork(found["classifier"].model, tokenizer, given, "it")
    [one] = network.encode([prompt], [f"No{end}."], [context])
    assert one.ids.tolist().count(number) == 2
    [one] = found["toxichat"].encode(["Why?" + end], ["No" + end], [{}])  # which no format marks
    assert one.ids.tolist().count(number) == 2
    assert "".join(tokenizer.convert_ids_to_tokens(one.ids.tolist())) == f"Why?{end}{end}No{end}{end}"
    assert chats.marks("response", prompt, prompt, context) == []
    assert chats.marks("context.head", "Know", prompt, context) == []


def test_role_marks_that_a_text_spells_are_letters(tmp_path):
    """Those of a reward model that is trained here from nothing."""
    train = {"texts": "pairs", "vocabulary": 300}
    given = built(tmp_path, {"kind": "preference", "train": train})
    tokenizer = untrained.preference_tokenizer(["a small text"], given.train, given)
    network = PreferenceNetwork(None, tokenizer, given, "rewards.it")
    marks = tokenizer.convert_tokens_to_ids(["<|prompter|>", "<|assistant|>", "<|endoftext|>"])
    ids = encoded(network, [{"role": "human", "text": "<|prompter|>a<|endoftext|>"}], "b<|assistant|>")
    assert [ids.count(mark) for mark in marks] == [1, 1, 2]
    assert "<|prompter|>a<|endoftext|>" in tokenizer.decode(ids)


def test_rewards_get_the_marks_of_rows_that_have_some():
    plain, marked = row("p", "r", kind="x"), {**row("p", "r"), "marks": [0, 1]}
    turns = [{"role": "human", "text": "p"}]
    assert schema.contexts([plain, marked, {**plain, "marks": None}]) == [
        {"kind": "x", "turns": turns, "subset": "test"},
        {"turns": turns, "subset": "test", "prompt_marks": [0, 1]},
        {"kind": "x", "turns": turns, "subset": "test"},
    ]
