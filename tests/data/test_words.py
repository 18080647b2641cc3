"""Words of scripts with and without blanks, and what is counted by them."""

from __future__ import annotations

import re

import pytest

from alol.base.files import write_json
from alol.config import params
from alol.data.words import content, split
from alol.evaluation import metrics
from alol.rewards import tfidf
from alol.rewards.options import Tfidf
from custom.example import concise

CHINESE, JAPANESE, THAI = "我很喜欢编程,你好。", "私はコンピューターが好きです。人々", "ภาษาไทยที่ดี"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (CHINESE, "我 很 喜 欢 编 程 你 好"),
        (JAPANESE, "私 は コンピューター が 好 き で す 人 々"),
        (THAI, "ภ า ษ า ไ ท ย ที่ ดี"),
        ("ພາສາລາວ", "ພ າ ສ າ ລ າ ວ"),
        ("မြန်မာ", "မြ န် မာ"),
        ("བོད་སྐད་ཡིན།", "བོད སྐད ཡིན"),
        ("我用Python3.12写,don't stop!", "我 用 Python3.12 写 don't stop!"),
        ("He said: 你好 , 。 (twice)!", "He said: 你 好 , 。 (twice)!"),
    ],
)
def test_scripts_without_blanks_are_taken_apart(text, words):
    assert split(text) == words.split()
    assert "".join(content(text))


SPACED = [
    "",
    " , ",
    "Don't stop — it's 3.14 €, e.g. naïve_x\u2028y\x1cz.",
    "Это предложение, и ещё одно!",
    "한국어 문장은 띄어 씁니다.",
    "שלום עולם, مرحبا بالعالم ؟",
    "हिन्दी में वाक्य है।",
    "😀 👨‍👩‍👧 ok",
]


@pytest.mark.parametrize("text", SPACED)
def test_scripts_with_blanks_have_the_words_they_had(text):
    assert split(text) == text.split()
    assert content(text) == re.findall(r"\b\w\w+\b", text.lower())


@pytest.mark.parametrize("text", [CHINESE, JAPANESE, THAI])
def test_measures_tell_texts_of_such_scripts_apart(text):
    changed = text[: len(text) // 2]
    same, other, none = metrics.meteor_stem([text, changed, "?"], [text] * 3)
    assert same > 0.99 > other > none == 0.0
    assert metrics.distinct([text, text], 3) == 0.5


def test_tfidf_weighs_words_of_such_scripts(tmp_path):
    few, launch = (
        Tfidf(kind="tfidf", texts=None, few=1, divisor=10, low=0.0, high=1.0),
        params.load("demo").launch,
    )
    write_json(tmp_path / tfidf.STATE, tfidf.fit([CHINESE, "我很好", "我很喜欢你"]))
    scores = tfidf.TfidfReward("rewards.x", few, tmp_path, launch).score(
        [""] * 3, ["我", CHINESE, "猫"], [{}] * 3, "source"
    )
    assert scores.tolist() == pytest.approx([1.0, 0.3475, 0.0], abs=1e-4)


def test_a_long_answer_without_blanks_is_not_concise():
    assert concise([""] * 3, ["好" * 20, "好" * 45, "好" * 30], [{}] * 3) == [0.0, -1.0, -0.4]
