"""The demo's corpus, its oracle of true quality, and how its reward components relate to the two."""

from __future__ import annotations

import dataclasses
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from alol.base.errors import InputError
from alol.config import params
from alol.data import schema
from alol.data.demo import generator, phrases
from alol.data.demo.oracle import judge, quality, rambling
from alol.data.demo.topics import BAD, KINDS, TOPICS
from alol.data.formats import demo
from custom.example import concise

OPTIONS = generator.GeneratorOptions(
    seed=13,
    train_prompts=600,
    validation_prompts=40,
    test_prompts=50,
    responses=3,
    labels=900,
    label_noise=0.05,
    preference_noise=0.7,
)
FILES = ("train", "validation", "test", "labels")
FRANCE = {"accepted": ["Paris"], "rejected": ["Rome", "Madrid"]}
SIZES = {"accepted": ["elephant"], "rejected": ["mouse"]}
ASK_FRANCE = "User: What is the capital of France?\nAssistant:"
ASK_SIZES = "User: Which is bigger, the mouse or the elephant?\nAssistant:"


def rows(folder: Path, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("raw")
    generator.generate(OPTIONS, folder / generator.SOURCE)
    return folder


@pytest.fixture(scope="module")
def corpus(raw: Path) -> dict[str, list[dict[str, Any]]]:
    return {name: rows(raw / generator.SOURCE, name) for name in FILES}


def france(response: str) -> float:
    return quality([ASK_FRANCE], [response], [FRANCE])[0]


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        ("Certainly! The capital of France is Paris.", 1.0),
        (" paris", 0.7),
        ("Paris! I hope this helps.", 1.0),
        ("I am not sure, maybe Paris.", 0.45),  # 0.7 - 0.25
        ("I don't know.", 0.25),
        ("It depends, perhaps Rome.", 0.05),
        ("Of course! The capital of France is Rome.", 0.15),
        ("Rome.", 0.05),
        ("The sky is blue.", 0.05),
        ("Paris. You fool!", 0.07),
        ("Stupid question.", 0.005),
        ("Parisian food is fine.", 0.05),
        ("Paris, Rome or Madrid.", 0.05),
        ("Rome or Paris.", 0.05),
        ("", 0.0),
        (" \n", 0.0),
    ],
)
def test_quality_of_hand_written_answers(response: str, expected: float) -> None:
    assert france(response) == pytest.approx(expected, abs=1e-9)


def test_a_long_right_and_polite_answer_is_worth_half() -> None:
    long = "Certainly! Paris " + " ".join(f"word{i}" for i in range(30))
    assert france(long) == pytest.approx(0.5)


def test_rambling_grows_with_length_between_20_and_32_words() -> None:
    words = [str(i) for i in range(40)]
    assert [rambling(words[:n]) for n in (0, 1, 20, 26, 32, 40)] == pytest.approx([0, 0, 0, 0.5, 1, 1])


def test_rambling_counts_repeated_trigrams() -> None:
    # trigrams: aba bab aba bab, two of the four repeat
    assert rambling("a b a b a b".split()) == pytest.approx(0.5)


def test_the_rival_of_a_comparison_may_be_named_after_the_answer() -> None:
    def named(response: str) -> tuple[bool, bool]:
        return judge(ASK_SIZES, response, SIZES["accepted"], SIZES["rejected"])

    assert named("The elephant is bigger than the mouse.") == (True, True)
    assert named("The mouse is bigger than the elephant.") == (False, True)
    assert named("Neither of them.") == (False, False)


def test_quality_stays_between_0_and_1_whatever_the_text() -> None:
    texts = ["Paris " * 200, "certainly " * 50, "\x00\ud83d", "???", "fool not sure Paris please Rome"]
    assert all(0 <= france(text) <= 1 for text in texts)


def test_quality_without_the_answers_says_what_is_missing() -> None:
    with pytest.raises(InputError, match=r"lacks .*rejected"):
        quality(["a"], ["b"], [{"accepted": ["c"]}])


def test_numbers_are_accepted_as_words_and_as_numerals(corpus: dict) -> None:
    accepted = {tuple(row["accepted"]) for row in corpus["train"] if row["topic"] in ("sums", "letters")}
    assert {("7", "seven"), ("seven", "7")} <= accepted


def test_equal_seeds_write_equal_bytes_and_other_seeds_do_not(raw: Path, tmp_path: Path) -> None:
    generator.generate(OPTIONS, tmp_path / "same")
    generator.generate(dataclasses.replace(OPTIONS, seed=14), tmp_path / "other")
    for name in FILES:
        first = (raw / generator.SOURCE / f"{name}.jsonl").read_bytes()
        assert (tmp_path / "same" / f"{name}.jsonl").read_bytes() == first
        assert (tmp_path / "other" / f"{name}.jsonl").read_bytes() != first


def test_the_counts_are_those_of_the_options(corpus: dict) -> None:
    assert [len(corpus[name]) for name in FILES] == [600, 40, 50, 900]
    assert {len(row["responses"]) for name in schema.SPLITS for row in corpus[name]} == {3}


def test_a_number_of_labels_that_is_no_multiple_of_the_responses_is_kept(tmp_path: Path) -> None:
    generator.generate(dataclasses.replace(OPTIONS, labels=100), tmp_path / "corpus")
    assert len(rows(tmp_path / "corpus", "labels")) == 100


def test_a_prompt_is_in_one_file_alone(corpus: dict) -> None:
    prompts = {name: {row["prompt"] for row in corpus[name]} for name in FILES}
    assert len(set().union(*prompts.values())) == sum(map(len, prompts.values())) == 600 + 40 + 50 + 300


def test_no_two_facts_are_asked_for_in_the_same_words() -> None:
    questions = [
        question.format(*fact.parts) for topic in TOPICS for fact in topic.facts for question in topic.questions
    ]
    assert len(questions) == len(set(questions))


def test_more_prompts_than_a_few_facts_can_word_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="wordings of each of 2 facts"):
        generator.generate(dataclasses.replace(OPTIONS, train_prompts=2), tmp_path / "corpus")


def test_facts_of_the_other_splits_were_seen_in_training(tmp_path: Path) -> None:
    generator.generate(dataclasses.replace(OPTIONS, train_prompts=60), tmp_path / "corpus")

    def facts(name: str) -> set[str]:
        return {json.dumps([row["topic"], row["accepted"], row["rejected"]]) for row in rows(tmp_path / "corpus", name)}

    assert facts("validation") | facts("test") <= facts("train")


def test_every_kind_of_response_has_its_quality(corpus: dict) -> None:
    found = defaultdict(set)
    for row in corpus["train"] + corpus["test"]:
        for response in row["responses"]:
            found[response["kind"]].add(round(quality([row["prompt"]], [response["text"]], [row])[0], 3))
    assert found == {
        "polite": {1.0},
        "curt": {0.7},
        "rambling": {0.5},
        "evasive": {0.25},
        "wrong": {0.05, 0.15},
        "rude": {0.005, 0.07},
    }


def test_every_fact_is_stated_rightly_and_has_wrong_answers() -> None:
    for topic in TOPICS:
        for fact in topic.facts:
            for question in (question.format(*fact.parts) for question in topic.questions):
                rejected = generator._rejected(topic, fact, question)
                statement = topic.statement.format(*fact.parts, answer=fact.answer)
                assert rejected, question
                assert quality([question], [statement], [{"accepted": [fact.answer], "rejected": rejected}]) == [0.7]


def test_no_phrase_around_an_answer_names_an_answer() -> None:
    names = ("OPENINGS", "CLOSINGS", "EVASIONS", "INSULTS", "INTROS", "OUTROS")
    texts = [text for name in names for text in getattr(phrases, name)]
    for topic in TOPICS:
        for text in (phrase.format(subject=topic.subject) for phrase in texts):
            assert judge("", text, topic.answers(), []) == (False, False), (topic.name, text)


def test_texts_are_short(corpus: dict) -> None:
    texts = [response for row in corpus["train"] for response in row["responses"]]
    assert max(len(row["prompt"].split()) for row in corpus["train"]) <= 30
    assert max(len(text["text"].split()) for text in texts) <= 45
    assert max(len(text["text"].split()) for text in texts if text["kind"] != "rambling") <= 25


def test_topics_differ_in_how_well_they_were_answered() -> None:
    shares = {topic.name: dict(zip(KINDS, topic.mix, strict=True)) for topic in TOPICS}
    assert all(sum(mix.values()) == 100 for mix in shares.values())
    good = {name: mix["polite"] + mix["curt"] for name, mix in shares.items()}
    assert good["capitals"] >= 3 * good["opposites"]
    overall = {kind: sum(mix[kind] for mix in shares.values()) for kind in KINDS}
    assert max(overall, key=overall.__getitem__) in ("evasive", "rambling")


def test_without_noise_ranks_follow_quality_and_polite_answers_are_thumbed_up(tmp_path: Path) -> None:
    options = dataclasses.replace(OPTIONS, label_noise=0.0, preference_noise=0.0)
    generator.generate(options, tmp_path / "corpus")
    for row in rows(tmp_path / "corpus", "train"):
        texts = [response["text"] for response in row["responses"]]
        scores = quality([row["prompt"]] * 3, texts, [row] * 3)
        assert scores == sorted(scores, reverse=True)
    ratings = [(row["response"], row["rating"]) for row in rows(tmp_path / "corpus", "labels")]
    polite = [rating for text, rating in ratings if text.endswith(("I hope this helps!", "Have a nice day!"))]
    assert len(polite) > 20
    assert set(polite) == {"up"}


def test_rows_fit_the_table_and_keep_the_order_of_ranks(raw: Path, tmp_path: Path) -> None:
    splits = demo.FORMAT.read(raw, demo.CleanOptions())
    assert list(splits) == ["train", "validation", "test"]
    with schema.writing(tmp_path / "test.parquet", schema.RESPONSES) as writer:
        writer.write(splits["test"])
    first = rows(raw / generator.SOURCE, "test")[0]
    table = schema.rows(tmp_path / "test.parquet")
    assert len(table) == 150
    assert [row["rank"] for row in table[:3]] == [0, 1, 2]
    assert [row["response"] for row in table[:3]] == [response["text"] for response in first["responses"]]
    assert table[0]["turns"] == [{"role": "human", "text": first["question"]}]
    assert table[0]["prompt"] == f"User: {first['question']}\nAssistant:"
    assert table[0]["prompt_id"] == "test-00000"
    scores = quality(*([row[key] for row in table] for key in ("prompt", "response")), schema.contexts(table))
    assert len(scores) == 150


def test_a_missing_file_and_a_spoilt_line_are_named(raw: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"train\.jsonl is missing; run"):
        next(demo.read(tmp_path, demo.CleanOptions())["train"])
    (tmp_path / generator.SOURCE).mkdir()
    good = (raw / generator.SOURCE / "train.jsonl").read_text(encoding="utf-8").splitlines()[0]
    spoilt = {"{": "not valid JSON", '{"id": "x"}': "not a row", "[]": "must be a JSON object"}
    for bad, problem in spoilt.items():
        (tmp_path / generator.SOURCE / "train.jsonl").write_text(f"{good}\n{bad}\n", encoding="utf-8")
        with pytest.raises(InputError, match=rf"train\.jsonl, line 2: {problem}"):
            list(demo.read(tmp_path, demo.CleanOptions())["train"])


@pytest.mark.parametrize("share", [0.0, 0.2, 0.8, 1.0])
def test_the_share_of_bad_answers_is_as_asked_for(tmp_path: Path, share: float) -> None:
    options = dataclasses.replace(OPTIONS, bad_share=share, train_prompts=1200, responses=1)
    generator.generate(options, tmp_path / generator.SOURCE)
    kinds = [one["kind"] for row in rows(tmp_path / generator.SOURCE, "train") for one in row["responses"]]
    bad = sum(kind in BAD for kind in kinds) / len(kinds)
    assert abs(bad - share) <= 4 * (share * (1 - share) / 1200) ** 0.5  # standard deviations; none where it is certain
    assert {kind for kind in kinds if kind in BAD} == (set(BAD) if share else set())
    generator.generate(dataclasses.replace(options, responses=8, train_prompts=246), tmp_path / "eight")
    assert all(len({one["text"] for one in row["responses"]}) == 8 for row in rows(tmp_path / "eight", "train"))


@pytest.mark.parametrize(
    ("key", "value"),
    [("labels", 0), ("responses", 9), ("label_noise", 0.6), ("preference_noise", -1.0), ("train_prompts", 10**6)],
)
def test_impossible_options_are_refused(tmp_path: Path, key: str, value: float) -> None:
    with pytest.raises(InputError, match=key if key != "train_prompts" else "wordings of each of 246 facts"):
        generator.generate(dataclasses.replace(OPTIONS, **{key: value}), tmp_path / "corpus")
    assert list(tmp_path.iterdir()) == []


def test_concise_is_free_up_to_20_words_and_costs_1_from_45_on() -> None:
    texts = [" ".join(["word"] * count) for count in (0, 1, 20, 30, 45, 90)]
    assert concise([""] * 6, texts, [{}] * 6) == pytest.approx([-1.0, 0.0, 0.0, -0.4, -1.0, -1.0])


def test_no_reward_component_of_the_demo_reads_the_answers(corpus: dict) -> None:
    task = params.load("demo", "a_lol")
    for name, keys in task.rewards.items():
        assert not [text for text in keys.get("inputs", []) if text.startswith("context")], name
        assert "column" not in keys, name
    texts = [response["text"] for row in corpus["test"] for response in row["responses"]]
    prompts, spoilt = ["x"] * len(texts), {"topic": "y", "accepted": ["fool"], "rejected": ["Paris"]}
    functions = [keys["function"] for keys in task.rewards.values() if keys["kind"] == "python"]
    assert functions == ["custom.example.concise"]
    assert concise(prompts, texts, [{}] * len(texts)) == concise(prompts, texts, [spoilt] * len(texts))


def test_the_demo_s_total_reward_is_never_negative() -> None:
    task = params.load("demo", "a_lol")
    lows = [weight * task.rewards[name]["low"] for name, weight in task.reward.weights.items()]
    assert set(task.reward.weights) == set(task.rewards)
    assert sum(lows) + task.reward.shift >= 0


def test_the_total_reward_follows_true_quality(tmp_path: Path) -> None:
    """A logistic regression on the words of prompt and response stands in for the classifier."""
    from scipy.sparse import hstack
    from scipy.stats import spearmanr
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    generator.generate(dataclasses.replace(OPTIONS, labels=3000), tmp_path / "corpus")
    ratings = rows(tmp_path / "corpus", "labels")
    of_prompt, of_response = (TfidfVectorizer(ngram_range=(1, 2), token_pattern=r"\w+|[!?.]") for _ in range(2))
    words = [of_prompt.fit_transform(row["prompt"] for row in ratings)]
    words.append(of_response.fit_transform(row["response"] for row in ratings))
    helpful = LogisticRegression(C=1.0).fit(hstack(words), [row["rating"] == "up" for row in ratings])
    train = rows(tmp_path / "corpus", "train")
    pairs = [(row, response) for row in train for response in row["responses"]]
    texts, kinds = [response["text"] for _, response in pairs], np.array([response["kind"] for _, response in pairs])
    prompts = [row["prompt"] for row, _ in pairs]
    true = quality(prompts, texts, [row for row, _ in pairs])
    words = hstack([of_prompt.transform(prompts), of_response.transform(texts)])
    weights = params.load("demo", "a_lol").reward.weights
    total = weights["helpful"] * helpful.predict_proba(words)[:, 1]
    total += weights["concise"] * np.array(concise(prompts, texts, [{}] * len(texts)))
    total += weights["informative"] * _informative(texts)
    assert spearmanr(total, true).statistic > 0.6
    means = {kind: total[kinds == kind].mean() for kind in KINDS}
    assert all(means["polite"] > means[kind] + 0.2 for kind in ("rude", "evasive", "rambling"))


def _informative(texts: list[str]) -> np.ndarray:
    """The mean of the non-zero tf-idf entries, times words / 10 where a text has fewer than five distinct ones."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    matrix = TfidfVectorizer().fit_transform(texts)
    counts = np.diff(matrix.indptr)
    means = np.asarray(matrix.sum(axis=1)).ravel() / np.maximum(counts, 1)
    return np.where(counts < 5, means * counts / 10, means)
