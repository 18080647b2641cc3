"""The demo's corpus: a made-up log of an assistant's answers of mixed quality, with thumbs up and down.

`generate` writes it as raw files, as a download would; `alol.data.formats.demo` turns them into rows. Facts recur in
every split under other wordings; a wording belongs to one split alone.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from alol.base.errors import InputError
from alol.base.files import replacing
from alol.config.ranges import Count, NotNegative, Seed, between
from alol.data.demo import phrases
from alol.data.demo.oracle import quality
from alol.data.demo.topics import BAD, CURT, EVASIVE, KINDS, POLITE, RAMBLING, RUDE, TOPICS, WRONG, Fact, Topic
from alol.data.schema import TEST, TRAIN, VALIDATION

SOURCE = "corpus"  # the entry of `source` whose folder holds the files


LABELS = "labels"


MAX_RESPONSES = 8  # so many different answers exist to every question


_NUMBERS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen"
)


NUMERALS = {str(i): word for i, word in enumerate(_NUMBERS.split())}
NUMERALS |= {word: numeral for numeral, word in NUMERALS.items()}


@dataclass(frozen=True)
class GeneratorOptions:
    """Of the corpus; counts are of prompts, `labels` of rated texts.

    `bad_share`: how often an answer is drawn to be evasive, wrong or rude; None: as each topic has it.
    """

    seed: Seed
    train_prompts: Count
    validation_prompts: Count
    test_prompts: Count
    responses: Annotated[int, between(1, MAX_RESPONSES)]
    labels: Count
    label_noise: Annotated[float, between(0, 0.5)]
    preference_noise: NotNegative
    bad_share: Annotated[float, between(0, 1)] | None = None


def generate(options: GeneratorOptions, folder: Path) -> None:
    """Writes train, validation, test and labels .jsonl into `folder`; equal options give equal bytes."""
    _check(options)
    counts = {
        TRAIN: options.train_prompts,
        VALIDATION: options.validation_prompts,
        TEST: options.test_prompts,
        LABELS: -(-options.labels // options.responses),  # rounded up
    }
    with replacing(folder) as partial:
        partial.mkdir()
        for split, questions in _questions(options.seed, counts).items():
            rows = [_row(f"{split}-{i:05d}", *question, options) for i, question in enumerate(questions)]
            if split == LABELS:
                rows = _ratings(rows, options)[: options.labels]
            lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
            (partial / f"{split}.jsonl").write_text("".join(lines), encoding="utf-8")


def _check(options: GeneratorOptions) -> None:
    for name in ("train_prompts", "validation_prompts", "test_prompts", "responses", "labels"):
        if getattr(options, name) < 1:
            raise InputError(f"demo generator: {name} is {getattr(options, name)}, but must be at least 1")
    if options.responses > MAX_RESPONSES:
        raise InputError(f"demo generator: responses is {options.responses}, but must be at most {MAX_RESPONSES}")
    if not 0 <= options.label_noise <= 0.5:
        raise InputError(f"demo generator: label_noise is {options.label_noise}, but must be in [0, 0.5]")
    if options.preference_noise < 0:
        raise InputError(f"demo generator: preference_noise is {options.preference_noise}, but must not be negative")


def _questions(seed: int, counts: dict[str, int]) -> dict[str, list[tuple[Topic, Fact, str]]]:
    """Per split, its questions: facts take turns, so that splits after the first repeat its facts in new words."""
    draw = random.Random(f"{seed}/questions")
    facts = [(topic, fact, _wordings(topic, fact, draw)) for topic in TOPICS for fact in topic.facts]
    draw.shuffle(facts)
    seen = facts[: next(iter(counts.values()))]
    needed = sum(-(-count // len(seen)) for count in counts.values())  # wordings per fact, rounded up in each split
    most = min(len(wordings) for _, _, wordings in seen)
    if needed > most:
        raise InputError(
            f"demo generator: the counts need {needed} wordings of each of {len(seen)} facts, but there are {most}; "
            "ask for fewer prompts or labels (or for more train_prompts, when they are few)"
        )
    result = {}
    for split, count in counts.items():
        turns = list(seen)
        draw.shuffle(turns)
        taken = (turns[i % len(turns)] for i in range(count))
        result[split] = [(topic, fact, wordings.pop()) for topic, fact, wordings in taken]
    return result


def _wordings(topic: Topic, fact: Fact, draw: random.Random) -> list[str]:
    """Every way to ask for the fact, shuffled."""
    questions = [question.format(*fact.parts) for question in topic.questions]
    wordings = [a + b + c for a in phrases.GREETINGS for b in questions for c in phrases.REASONS]
    draw.shuffle(wordings)
    return wordings


def _row(name: str, topic: Topic, fact: Fact, question: str, options: GeneratorOptions) -> dict[str, Any]:
    """A prompt with its answers and its responses, the one that a noisy annotator prefers first."""
    draw = random.Random(f"{options.seed}/{name}")
    prompt = f"User: {question}\nAssistant:"
    accepted, rejected = _spellings(fact.answer), _rejected(topic, fact, question)
    kinds: dict[str, str] = {}  # text -> kind
    while len(kinds) < options.responses:
        (kind,) = draw.choices(KINDS, _mix(topic, options.bad_share))
        kinds.setdefault(" " + _text(kind, topic, fact, rejected, draw), kind)
    context = {"accepted": accepted, "rejected": rejected}
    scores = quality([prompt] * len(kinds), list(kinds), [context] * len(kinds))
    liking = {text: score + draw.gauss(0, options.preference_noise) for text, score in zip(kinds, scores, strict=True)}
    responses = [{"text": text, "kind": kinds[text]} for text in sorted(kinds, key=lambda text: -liking[text])]
    return {"id": name, "topic": topic.name, "prompt": prompt, "question": question, **context, "responses": responses}


def _mix(topic: Topic, bad_share: float | None) -> Sequence[float]:
    """How often each of KINDS is drawn: as the topic says, its bad kinds and its others scaled to their shares."""
    if bad_share is None:
        return topic.mix
    shares = {True: bad_share, False: 1 - bad_share}
    total = {bad: sum(n for kind, n in zip(KINDS, topic.mix, strict=True) if (kind in BAD) == bad) for bad in shares}
    return [shares[kind in BAD] * n / total[kind in BAD] for kind, n in zip(KINDS, topic.mix, strict=True)]


def _spellings(answer: str) -> list[str]:
    return [answer, *([NUMERALS[answer]] if answer in NUMERALS else [])]


def _rejected(topic: Topic, fact: Fact, question: str) -> list[str]:
    """The answers that are wrong here: the fact's own rivals, or the topic's other answers that are not asked about."""
    if fact.rivals:
        return list(fact.rivals)
    asked = f" {question.lower()} ".replace(".", " ").replace("?", " ")
    return [other for other in topic.answers() if other != fact.answer and f" {other.lower()} " not in asked]


def _text(kind: str, topic: Topic, fact: Fact, rejected: list[str], draw: random.Random) -> str:
    """A response of that kind."""

    def pick(texts: tuple[str, ...]) -> str:
        return draw.choice(texts).format(subject=topic.subject)

    answer = draw.choice(rejected) if kind == WRONG else fact.answer
    bare = f"{answer[0].upper()}{answer[1:]}."
    sentence = topic.statement.format(*fact.parts, answer=answer)
    sentence = sentence[0].upper() + sentence[1:]
    parts = {
        POLITE: lambda: [pick(phrases.OPENINGS), sentence, pick(phrases.CLOSINGS)],
        CURT: lambda: [draw.choice((bare, sentence))],
        RAMBLING: lambda: [pick(phrases.INTROS), sentence, pick(phrases.OUTROS)],
        EVASIVE: lambda: [pick(phrases.EVASIONS)],
        WRONG: lambda: [draw.choice(("", pick(phrases.OPENINGS))), draw.choice((bare, sentence))],
        RUDE: lambda: [draw.choice(("", bare)), pick(phrases.INSULTS)],
    }
    return " ".join(part for part in parts[kind]() if part)


def _ratings(rows: list[dict[str, Any]], options: GeneratorOptions) -> list[dict[str, Any]]:
    """One thumb per text: up with the probability of its quality, then turned round with that of `label_noise`."""
    draw = random.Random(f"{options.seed}/ratings")
    ratings = []
    for row in rows:
        texts = [response["text"] for response in row["responses"]]
        for text, score in zip(texts, quality([row["prompt"]] * len(texts), texts, [row] * len(texts)), strict=True):
            up = (draw.random() < score) != (draw.random() < options.label_noise)
            ratings.append({"prompt": row["prompt"], "response": text, "rating": "up" if up else "down"})
    return ratings
