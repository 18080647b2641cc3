"""Text to token ids: what users' texts spell is letters, only marks are special tokens, and ends keep their places."""

from __future__ import annotations

import dataclasses

import pytest

from alol.config import params
from alol.models.tokens import Encoder
from tests import tokenizers

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
