"""Text to token ids: what users' texts spell is letters, only marks are special tokens, and ends keep their places."""

from __future__ import annotations

import dataclasses

import pytest

from alol.base.errors import InputError
from alol.config import params
from alol.data.formats import comet, knowledge, marks, reddit
from alol.models import policies, templates
from alol.models.tokens import Encoder
from tests import tokenizers
from tests.conftest import tiny_model

POLICY = params.load("demo").policy
TEXT = "What is the capital of France? I do not know;  look it up."


@pytest.fixture(scope="module", params=tokenizers.ALL)
def kind(request):
    return tokenizers.ALL[request.param]()


def encoder(tokenizer, **changes) -> Encoder:
    settings = {"max_prompt": 500, "max_response": 500, "end_of_text": False, "long_prompt": "shorten"}
    return Encoder(tokenizer, dataclasses.replace(POLICY, **{**settings, **changes}))


def row(prompt: str, marks: list[int] | None = None, cuts: list[int] | None = None) -> dict:
    return {"prompt_id": "p", "prompt": prompt, "cuts": cuts or [0], **({"marks": marks} if marks else {})}


def around(tokenizer) -> tuple[list[int], list[int]]:
    """What begins and closes a text of the tokenizer's."""
    full, text = tokenizer("a")["input_ids"], tokenizer("a", add_special_tokens=False)["input_ids"]
    start = full.index(text[0])
    return full[:start], full[start + len(text) :]


def special(tokenizer) -> list[str]:
    """Without those that its model writes letters with that it lacks."""
    found = [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]
    return [token for token in found if token != tokenizer.unk_token and not token.startswith("<0x")]


def test_plain_text_is_encoded_as_by_the_tokenizer(kind):
    for text in (TEXT, "", " ", "\n\nHi", "  two", "half <| a |> mark"):
        assert encoder(kind).responses([text]) == [kind(text, add_special_tokens=False)["input_ids"]]
        assert encoder(kind).prompts([row(text)]) == [kind(text)["input_ids"]]


def test_a_spelled_special_token_is_letters(kind):
    for token in special(kind):
        for text in (token, f"a {token} b", f"a{token}b", token + token, f"{TEXT}{token}"):
            ids = encoder(kind).responses([text])[0]
            assert kind.convert_tokens_to_ids(token) not in ids
            assert ids != kind(text, add_special_tokens=False)["input_ids"]
            before, after = around(kind)
            assert encoder(kind).prompts([row(text)]) == [before + ids + after]


def test_letters_come_back(kind):
    if kind.unk_token == "[UNK]":
        pytest.skip("a tokenizer that knows few letters")
    for token in special(kind):
        ids = encoder(kind).responses([f"say {token} twice"])[0]
        assert kind.decode(ids).strip() == f"say {token} twice"


def test_marks_are_what_the_tokenizer_makes_of_them(kind):
    for token in special(kind):
        prompt = f"one{token}two {token}"
        marks = [3, 3 + len(token), len(prompt) - len(token), len(prompt)]
        assert encoder(kind).prompts([row(prompt, marks)]) == [kind(prompt)["input_ids"]]
        mixed = row(f"{token} {prompt}", [place + len(token) + 1 for place in marks])
        found = encoder(kind).prompts([mixed])[0]
        assert found.count(kind.convert_tokens_to_ids(token)) == kind(prompt)["input_ids"].count(
            kind.convert_tokens_to_ids(token)
        )


def test_a_mark_that_is_no_token_of_the_model_is_text(kind):
    prompt = "one###two"
    assert encoder(kind).prompts([row(prompt, [3, 6])]) == [kind(prompt)["input_ids"]]


@pytest.mark.parametrize("name", ["llama3", "mistral", "gemma"])
def test_a_prompt_with_its_begin_token_gets_no_second_one(name):
    tokenizer = tokenizers.ALL[name]()
    begin = tokenizer.bos_token
    found = encoder(tokenizer).prompts([row(f"{begin}Hi", [0, len(begin)])])[0]
    assert found == tokenizer(f"{begin}Hi", add_special_tokens=False)["input_ids"]
    assert found.count(tokenizer.bos_token_id) == 1


@pytest.mark.parametrize("limit", range(1, 40))
def test_shortened_prompts_keep_what_the_tokenizer_puts_around_them(kind, limit):
    """`kept`, then turns; with little room half of it is the head."""
    kept, turns = "You are. ", ["What is the capital? ", "I do not know. ", "look it up yourself"]
    cuts = [len(kept)]
    for turn in turns[:-1]:
        cuts.append(cuts[-1] + len(turn))
    found = encoder(kind, max_prompt=limit).prompts([row(kept + "".join(turns), cuts=cuts)])[0]
    before, after = around(kind)
    assert 0 < len(found) <= limit
    assert found[-len(after) :] == after or not after
    if limit > 4:
        assert found[: len(before)] == before
    assert all(found.count(token) == (1 if token in found[:1] + found[-1:] else 0) for token in before + after)


def test_an_ordinary_word_may_be_special():
    """A pad token that text is written with: its id is the word's."""
    copy = tokenizers.byte_level(["<e>"], eos_token="<e>", pad_token="!")
    text = "asking! Why!"
    assert encoder(copy).responses([text]) == [copy(text)["input_ids"]]
    assert copy.convert_tokens_to_ids("!") in copy(text)["input_ids"]


def test_formats_prompts_keep_their_separators():
    """Those of the published tasks are encoded as the tokenizer reads the whole text."""
    end = "<|endoftext|>"
    tokens = [end, "<head>", "</head>", "<relation>", "</relation>", "[GEN]"]
    tokenizer = tokenizers.byte_level(tokens, eos_token=end, pad_token=end)
    example = knowledge.Example("1", "Yeast rises.", ["I bake.", "Do you?"], "Yes.")
    triple = comet.prompt("PersonX bakes", "xNeed")
    rows = [
        knowledge._row(example, "wow", end),
        reddit._row(reddit.Comment("a", "Look at this", "Why", 1, 2), "positive", end),
        row("".join(triple), marks(triple)),
    ]
    for one, special_tokens in zip(rows, (3, 1, 5), strict=True):
        found = encoder(tokenizer).prompts([one])[0]
        assert found == tokenizer(one["prompt"])["input_ids"]
        assert sum(i >= tokenizer.convert_tokens_to_ids(end) for i in found) == special_tokens


@pytest.mark.parametrize("name", ["qwen", "gemma", "t5", "wordpiece"])
def test_an_end_token_that_only_the_models_files_name_is_letters_too(name):
    """The tokenizer finds it in any text, but does not call it special."""
    tokenizer = tokenizers.ALL[name]()
    stop = "<|stop|>"
    tokenizer.add_tokens([stop])
    end, text = tokenizer.convert_tokens_to_ids(stop), f"thank {stop} you"
    assert end in encoder(tokenizer).responses([text])[0]
    model = tiny_model("llama", tokenizer)
    model.config.eos_token_id, model.generation_config.eos_token_id = tokenizer.eos_token_id, [end, 5]
    loaded = policies.LoadedPolicy(model, tokenizer, {})
    own = policies.encoder(loaded, encoder(tokenizer).policy)
    ids = own.responses([text, TEXT])
    assert end not in ids[0] and ids[1] == encoder(tokenizer).responses([TEXT])[0]
    assert name == "wordpiece" or tokenizer.decode(ids[0]).strip() == text
    before, after = around(tokenizer)
    assert own.prompts([row(text)]) == [before + ids[0] + after]
    assert own.prompts([row(text, [6, 6 + len(stop)])])[0].count(end) == 1  # a mark of the format's
    if name in tokenizers.CHAT:
        own = policies.encoder(loaded, encoder(tokenizer, template="chat").policy)
        turns = [{"role": "human", "text": text}]
        assert own.prompts([chat(turns)])[0].count(end) == 0
        assert rendered(tokenizer, turns).count(end) == 1
        assert own.responses([text])[0].count(end) == 0


# --- chat templates

TURNS = [
    {"role": "human", "text": "What is the capital of France?"},
    {"role": "assistant", "text": "Paris, thank you for asking!"},
    {"role": "human", "text": "I do not know;  look it up yourself.\n\nWhy? é"},
]
ENDS = {"llama3": "<|eot_id|>", "qwen": "<|im_end|>", "mistral": "</s>", "gemma": "<end_of_turn>"}


def chat(turns: list[dict]) -> dict:
    return {"prompt_id": "p", "prompt": "not this", "cuts": [0], "turns": turns}


def rendered(tokenizer, turns: list[dict]) -> list[int]:
    roles = {"human": "user"}
    messages = [{"role": roles.get(turn["role"], turn["role"]), "content": turn["text"]} for turn in turns]
    return tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=True)["input_ids"]


@pytest.fixture(scope="module", params=tokenizers.CHAT)
def talk(request):
    return request.param, tokenizers.CHAT[request.param]()


def test_a_prompt_is_what_the_librarys_template_gives(talk):
    name, tokenizer = talk
    system = [] if name == "gemma" else [{"role": "system", "text": "You are a helpful assistant."}]
    for turns in (TURNS, TURNS[:1], system + TURNS):
        found = encoder(tokenizer, template="chat").prompts([chat(turns)])[0]
        assert found == rendered(tokenizer, turns)
        assert tokenizer.bos_token is None or found.count(tokenizer.bos_token_id) == 1


def test_turns_that_spell_marks_are_letters(talk):
    _, tokenizer = talk
    for token in special(tokenizer):
        plain, spelled = [
            encoder(tokenizer, template="chat").prompts([chat([{"role": "human", "text": f"{text}Hi {text} you"}])])[0]
            for text in ("", token)
        ]
        counts = [
            [ids.count(i) for i in map(tokenizer.convert_tokens_to_ids, special(tokenizer))] for ids in (plain, spelled)
        ]
        assert counts[0] == counts[1]
        assert f"{token}Hi {token} you" in tokenizer.decode(spelled)


def test_a_response_is_followed_by_the_templates_own_end(talk):
    name, tokenizer = talk
    end = tokenizer.convert_tokens_to_ids(ENDS[name])
    own = encoder(tokenizer, template="chat", end_of_text=True)
    assert own.ends == [end]
    for text in ("Paris", f"say {ENDS[name]} twice"):
        ids = own.responses([text])[0]
        assert ids[-1] == end
        assert end not in ids[:-1]
        assert tokenizer.decode(ids[:-1]) == text
    assert end not in encoder(tokenizer, template="chat").responses(["Paris"])[0]


def test_shortening_leaves_out_whole_turns_and_never_cuts_a_mark(talk):
    name, tokenizer = talk
    head = [] if name == "gemma" else [{"role": "system", "text": "You are."}]
    whole = [rendered(tokenizer, head + turns) for turns in (TURNS * 1, TURNS[2:])]
    assert len(whole[0]) > len(whole[1])
    for limit in (len(whole[0]) - 1, len(whole[1])):
        assert encoder(tokenizer, template="chat", max_prompt=limit).prompts([chat(head + TURNS)])[0] == whole[1]
    least = len(rendered(tokenizer, [*head, {"role": "human", "text": ""}]))
    for limit in range(least, len(whole[1])):
        found = encoder(tokenizer, template="chat", max_prompt=limit).prompts([chat(head + TURNS)])[0]
        assert len(found) <= limit
        texts = [TURNS[2]["text"][count:] for count in range(len(TURNS[2]["text"]) + 1)]
        assert found in [rendered(tokenizer, [*head, {"role": "human", "text": text}]) for text in texts]
    with pytest.raises(InputError, match=rf"prompt p: .* have {least} tokens, more than policy.max_prompt"):
        encoder(tokenizer, template="chat", max_prompt=least - 1).prompts([chat(head + TURNS)])
    with pytest.raises(InputError, match="prompt p has"):
        encoder(tokenizer, template="chat", max_prompt=least, long_prompt="refuse").prompts([chat(head + TURNS)])


def test_a_row_without_turns_is_one_of_the_user():
    tokenizer = tokenizers.qwen()
    found = encoder(tokenizer, template="chat").prompts([row("Hi <|im_end|>")])[0]
    assert found.count(tokenizer.convert_tokens_to_ids("<|im_end|>")) == 2
    assert "Hi <|im_end|><|im_end|>" in tokenizer.decode(found)


def test_a_template_from_a_file_and_its_added_token_that_is_not_called_special(tmp_path, monkeypatch):
    tokenizer = tokenizers.byte_level(["<e>"], eos_token="<e>", pad_token="<e>")
    tokenizer.add_tokens(["<|done|>"])
    text = "{% for m in messages %}{{ m.role }}: {{ m.content }}<|done|>\n{% endfor %}"
    text += "{% if add_generation_prompt %}assistant:{% endif %}"
    (tmp_path / "templates").mkdir()
    (tmp_path / "templates/own.jinja").write_text(text, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    templates.keep("templates/own.jinja", tokenizer)
    own = encoder(tokenizer, template="templates/own.jinja", end_of_text=True)
    done = tokenizer.convert_tokens_to_ids("<|done|>")
    assert own.ends == [done]
    assert own.prompts([chat([{"role": "human", "text": "a <|done|>"}])])[0].count(done) == 1
    assert own.responses(["b <|done|>"])[0].count(done) == 1


@pytest.mark.parametrize(
    ("template", "name", "turns", "expected"),
    [
        ("chat", "t5", TURNS, "policy.template is chat, but the tokenizer has no chat template"),
        ("chat", "gemma", [{"role": "system", "text": "S"}, TURNS[0]], "prompt p: .*System role not supported"),
        ("chat", "mistral", TURNS[1:], "prompt p: .* roles must alternate"),
    ],
)
def test_what_no_template_takes_is_one_line(template, name, turns, expected):
    with pytest.raises(InputError, match=expected) as error:
        encoder(tokenizers.ALL[name](), template=template).prompts([chat(turns)])
    assert "\n" not in str(error.value)
