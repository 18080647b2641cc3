"""The chat format: every convention in its variants, the hazards of published data, splits, and named mistakes."""

from __future__ import annotations

import csv
import gzip
import json
import logging
from pathlib import Path
from typing import Any

import pytest

from alol.base.errors import InputError
from alol.config import build, yaml_files
from alol.data.compact_sets import digest
from alol.data.formats import chat
from tests.closure import ROOT
from tests.raw_project import error_line, project, run, write_lines

DEFAULTS = yaml_files.read(ROOT / yaml_files.CLEAN)["formats"]["chat"]


def options(**given: Any) -> chat.Options:
    return build.build(chat.Options, {**DEFAULTS, "train": "t.jsonl", **given}, "clean.options")


def read(folder: Path, rows: list[Any], **given: Any) -> list[dict[str, Any]]:
    """The training rows; validation and test have files of their own."""
    write_lines(folder / "t.jsonl", rows)
    return rows_of(folder, **given)["train"]


def rows_of(folder: Path, **given: Any) -> dict[str, list[dict[str, Any]]]:
    own = {"validation": given.get("train", "t.jsonl"), "test": given.get("train", "t.jsonl")}
    return {split: list(rows) for split, rows in chat.read(folder, options(**{**own, **given})).items()}


def short(rows: list[dict[str, Any]]) -> list[tuple[list[tuple[str, str]], int, str]]:
    return [([(turn["role"], turn["text"]) for turn in row["turns"]], row["rank"], row["response"]) for row in rows]


def user(text: Any) -> dict[str, Any]:
    return {"role": "user", "content": text}


def bot(text: Any, **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": text, **more}


H, A, S, T = "human", "assistant", "system", "tool"
HI = [(H, "Hi")]


def test_a_row_of_messages_in_full(tmp_path):
    messages = [
        {"role": "system", "content": "Be brief."},
        user("Hi"),
        bot("Hello."),
        user("How old is Rome?"),
        bot("Old"),
    ]
    found = read(
        tmp_path, [{"id": "c7", "messages": messages, "score": 0.7, "topic": "Rome"}], context={"about": "topic"}
    )
    assert found == [
        {
            "prompt_id": "train-0-4",
            "subset": "train",
            "prompt": "Be brief.\n\nHuman: Hi\n\nAssistant: Hello.\n\nHuman: How old is Rome?\n\nAssistant:",
            "cuts": [11, 22, 41],
            "turns": [
                {"role": "system", "text": "Be brief."},
                {"role": "human", "text": "Hi"},
                {"role": "assistant", "text": "Hello."},
                {"role": "human", "text": "How old is Rome?"},
            ],
            "context": {"score": 0.7, "about": "Rome", "group": "c7"},
            "rank": 0,
            "response": "Old",
        }
    ]
    prompt, (head, second, third) = found[0]["prompt"], found[0]["cuts"]
    assert prompt[:head] + prompt[second:] == "Be brief.\n\nAssistant: Hello.\n\nHuman: How old is Rome?\n\nAssistant:"
    assert prompt[third:] == "Human: How old is Rome?\n\nAssistant:"


def test_every_assistant_message_has_its_own_history(tmp_path):
    messages = [user("a"), bot("b"), user("c"), bot("d"), user("e")]
    found = read(tmp_path, [{"messages": messages}], assistant="all")
    assert short(found) == [([(H, "a")], 0, "b"), ([(H, "a"), (A, "b"), (H, "c")], 0, "d")]
    assert [row["prompt_id"] for row in found] == ["train-0-1", "train-0-3"]
    assert {row["context"]["group"] for row in found} == {digest("a").hex()}


ONE = [(HI, 0, "Hello")]
PAIR = [(HI, 0, "Good"), (HI, 1, "Bad")]
LONG = [(H, "Hi"), (A, "Yes?"), (H, "Go on")]
LONG_PAIR = [(LONG, 0, "Good"), (LONG, 1, "Bad")]
LONG_MESSAGES = [user("Hi"), bot("Yes?"), user("Go on")]
LONG_TEXT = "\n\nHuman: Hi\n\nAssistant: Yes?\n\nHuman: Go on\n\nAssistant:"

VARIANTS = [
    # messages
    ({"messages": [user("Hi"), bot("Hello")]}, ONE),
    ({"conversation": [user("Hi"), bot("Hello"), user("Bye")]}, ONE),
    ({"messages": [user([{"type": "text", "text": "H"}, {"type": "text", "text": "i"}]), bot("Hello")]}, ONE),
    ({"system": "S", "messages": [user("Hi"), bot("Hello")]}, [([(S, "S"), *HI], 0, "Hello")]),
    # prompt and completion
    ({"prompt": "Hi", "completion": "Hello"}, ONE),
    ({"prompt": [user("Hi")], "completion": [bot("Hello")]}, ONE),
    ({"prompt": [user("Hi")], "completion": "Hello"}, ONE),
    ({"prompt": "Hi", "completion": [bot("Hello")]}, ONE),
    ({"prompt": "Hi", "response": [user("Hi"), bot("Hello")]}, ONE),
    ({"prompt": "\n\nHuman: Hi\n\nAssistant:", "completion": "Hello"}, ONE),
    ({"instruction": "Hi", "input": "", "output": "Hello"}, ONE),
    ({"instruction": "Add", "input": "1 2", "output": "3"}, [([(H, "Add\n\n1 2")], 0, "3")]),
    ({"prompt": [user("Hi")], "completion": [bot("Yes?"), user("Go on"), bot("Ok")]}, [(LONG, 0, "Ok")]),
    ({"system_prompt": "S", "prompt": "Hi", "completion": "Hello"}, [([(S, "S"), *HI], 0, "Hello")]),
    # preference
    ({"prompt": "Hi", "chosen": "Good", "rejected": "Bad"}, PAIR),
    ({"prompt": [user("Hi")], "chosen": [bot("Good")], "rejected": [bot("Bad")]}, PAIR),
    ({"prompt": "Hi", "chosen": [user("Hi"), bot("Good")], "rejected": [user("Hi"), bot("Bad")]}, PAIR),
    ({"chosen": [user("Hi"), bot("Good")], "rejected": [user("Hi"), bot("Bad")]}, PAIR),
    ({"prompt": LONG_TEXT, "chosen": "Good", "rejected": "Bad"}, LONG_PAIR),
    ({"prompt": LONG_MESSAGES, "chosen": [bot("Good")], "rejected": [bot("Bad")]}, LONG_PAIR),
    ({"prompt": "Hi", "chosen": [*LONG_MESSAGES, bot("Good")], "rejected": [*LONG_MESSAGES, bot("Bad")]}, LONG_PAIR),
    ({"chosen": [*LONG_MESSAGES, bot("Good")], "rejected": [*LONG_MESSAGES, bot("Bad")]}, LONG_PAIR),
    # unpaired feedback
    ({"prompt": "Hi", "completion": "Hello", "label": True}, ONE),
    ({"prompt": [user("Hi")], "completion": [bot("Hello")], "label": False}, ONE),
    # several scored responses
    (
        {
            "instruction": "Hi",
            "completions": [{"response": "Bad", "overall_score": 2}, {"response": "Good", "overall_score": 7.5}],
        },
        PAIR,
    ),
    (
        {
            "prompt": "\n\nHuman: Hi\n\nAssistant: ",
            "answers": [{"answer": "Bad", "rank": 2}, {"answer": "Good", "rank": 1}],
        },
        PAIR,
    ),
    ({"prompt": "Hi", "response": "Hello", "helpfulness": 3, "correctness": 4}, ONE),
    # transcripts
    ({"chosen": LONG_TEXT + " Good", "rejected": LONG_TEXT + " Bad"}, LONG_PAIR),
    ({"text": LONG_TEXT[2:] + " Ok\n\nHuman: Thanks"}, [(LONG, 0, "Ok")]),
    # ShareGPT
    ({"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]}, ONE),
    (
        {
            "conversations": [
                {"from": "system", "value": "S"},
                {"from": "human", "value": "Hi"},
                {"from": "gpt", "value": "Hello"},
            ]
        },
        [([(S, "S"), *HI], 0, "Hello")],
    ),
    # dialogues
    (
        {
            "id": 1,
            "messages": [
                [{"text": "Hi", "sender": "x"}],
                [{"text": "A", "sender": "y"}, {"text": "B", "sender": "y"}],
                [{"text": "C", "sender": "x"}],
            ],
        },
        [(HI, 0, "A\nB"), ([(A, "Hi"), (H, "A\nB")], 0, "C")],
    ),
    ({"messages": [{"text": "Hi", "sender": "x"}, {"text": "Hello", "sender": "y"}]}, ONE),
]


@pytest.mark.parametrize(("record", "expected"), VARIANTS)
def test_a_record_becomes_turns_and_ranked_responses(tmp_path, record, expected):
    assert short(read(tmp_path, [record])) == expected


# --- the same conversations in every convention

TALKS = [
    (["Hi", "Hello!", "Who are you?"], "A helper."),
    (["Name a river."], "The Elbe."),
    (['Why: is "blue", blue?', "Light.\n\nScattered.", "Say more", "No.", "Please"], "Air scatters it."),
    (["日本の首都は?"], "東京です。"),
    (["One\nTwo", "Three", "Four"], "Five"),
]


def messages(texts: list[str], role: str = "role", text: str = "content", names: str = "user assistant") -> list[Any]:
    return [{role: names.split()[i % 2], text: said} for i, said in enumerate(texts)]


def marked(texts: list[str]) -> str:
    return "".join(f"\n\n{('Human', 'Assistant')[i % 2]}: {said}" for i, said in enumerate(texts))


SAME = {
    "messages": lambda said, last: {"messages": messages([*said, last])},
    "completion": lambda said, last: {"prompt": messages(said), "completion": last},
    "completion of messages": lambda said, last: {"prompt": messages(said), "completion": [bot(last)]},
    "preference": lambda said, last: {"prompt": messages(said), "chosen": [bot(last)], "rejected": [bot("Bad")]},
    "implicit": lambda said, last: {"chosen": messages([*said, last]), "rejected": messages([*said, "Bad"])},
    "feedback": lambda said, last: {"prompt": messages(said), "completion": last, "label": True},
    "UltraFeedback": lambda said, last: {
        "instruction": messages(said),
        "completions": [{"response": last, "overall_score": 9.0, "annotations": {"honesty": {"Rating": "5"}}}],
    },
    "Nectar": lambda said, last: {"prompt": marked(said) + "\n\nAssistant: ", "answers": [{"answer": last, "rank": 1}]},
    "HelpSteer": lambda said, last: {"prompt": messages(said), "response": last, "helpfulness": 4},
    "HH-RLHF": lambda said, last: {"chosen": marked([*said, last]), "rejected": marked([*said, "Bad"])},
    "ShareGPT": lambda said, last: {"conversations": messages([*said, last], "from", "value", "human gpt")},
}


@pytest.mark.parametrize("convention", SAME)
def test_five_conversations_are_the_same_turns_in_every_convention(tmp_path, convention):
    found = read(tmp_path, [SAME[convention](said, last) for said, last in TALKS])
    expected = [[("human", "assistant")[i % 2] for i in range(len(said))] for said, _ in TALKS]
    assert [[turn["role"] for turn in row["turns"]] for row in found if row["rank"] == 0] == expected
    assert [[turn["text"] for turn in row["turns"]] for row in found if row["rank"] == 0] == [said for said, _ in TALKS]
    assert [row["response"] for row in found if row["rank"] == 0] == [last for _, last in TALKS]


def test_per_record_draws_prompts_of_each_dialogue_and_keeps_its_group(tmp_path):
    """Which ones depends on the seed alone; the group is that of the dialogue whatever is drawn."""
    said = [{"text": f"line {i}", "sender": i % 2} for i in range(8)]
    rows = [{"messages": said}, {"messages": said[:3]}, {"messages": said[:1]}]
    every = read(tmp_path, rows)
    drawn = {seed: read(tmp_path, rows, per_record=2, seed=seed) for seed in range(5)}
    assert len(every) == 7 + 2
    for found in drawn.values():
        assert [row["prompt_id"].split("-")[1] for row in found] == ["0", "0", "1", "1"]
        assert all(row in every for row in found if row["context"]["group"] == every[0]["context"]["group"])
        assert {row["context"]["group"] for row in found} == {every[0]["context"]["group"]}
    assert len({str(found) for found in drawn.values()}) > 1
    assert read(tmp_path, rows, per_record=2, seed=3) == drawn[3]
    assert read(tmp_path, rows, per_record=100) == every


def test_dialogues_have_the_same_turns_too(tmp_path):
    table = {
        f"d{i}": {
            "messages": [[{"text": text, "sender": "xy"[j % 2]}] for j, text in enumerate([*said, last])],
            "ratings": {"witty": 4, "note": "fun"},
            "prompt": "What shall we talk about?",
        }
        for i, (said, last) in enumerate(TALKS)
    }
    (tmp_path / "t.json").write_text(json.dumps(table))
    found = rows_of(tmp_path, train="t.json")["train"]
    answers = {(row["context"]["group"], row["response"]): row for row in found}
    assert len(found) == sum(len(said) for said, _ in TALKS)
    for i, (said, last) in enumerate(TALKS):
        row = answers[f"d{i}", last]
        assert [turn["text"] for turn in row["turns"]] == said
        assert [turn["role"] for turn in row["turns"]] == [("human", "assistant")[j % 2] for j in range(len(said))]
        assert row["context"] == {"witty": 4, "group": f"d{i}"}


# --- numbers of responses


def scored(*completions: tuple[str, Any, dict[str, Any]]) -> dict[str, Any]:
    return {
        "instruction": "Hi",
        "completions": [
            {
                "response": text,
                "model": "m",
                "overall_score": overall,
                "annotations": {name: {"Rating": rating, "Rationale": "r"} for name, rating in ratings.items()},
            }
            for text, overall, ratings in completions
        ],
    }


ULTRA = scored(
    ("Misread", 10, {"honesty": "1", "truthfulness": "1"}), ("Good", 7.0, {"honesty": "4", "truthfulness": "N/A"})
)


def test_an_overall_score_and_the_ratings_are_both_kept_and_preference_names_which_ranks(tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        found = read(tmp_path, [ULTRA])
    group = digest("Hi").hex()
    assert [(row["response"], row["context"]) for row in found] == [
        ("Good", {"overall_score": 7.0, "honesty": 4.0, "mean_rating": 4.0, "group": group}),
        ("Misread", {"overall_score": 10, "honesty": 1.0, "truthfulness": 1.0, "mean_rating": 1.0, "group": group}),
    ]
    assert "the convention is scored, responses ranked by mean_rating" in caplog.text
    assert "1 responses have an overall_score of 10 beside a mean_rating of at most 2" in caplog.text
    by_overall = read(tmp_path, [ULTRA], preference="overall_score")
    assert [row["response"] for row in by_overall] == ["Misread", "Good"]
    rows = read(tmp_path, [ULTRA], preference="truthfulness")
    assert [row["response"] for row in rows] == ["Misread"]  # the other one has no such number


def test_ratings_one_a_row_come_together_by_prompt(tmp_path):
    rows = [
        {"prompt": "Hi", "response": "Low", "helpfulness": 1, "verbosity": 2},
        {"prompt": "Other", "response": "Alone", "helpfulness": 0, "verbosity": 0},
        {"prompt": "Hi", "response": "High", "helpfulness": 4, "verbosity": 3},
    ]
    found = read(tmp_path, rows)
    assert [(row["prompt_id"], row["rank"], row["response"]) for row in found] == [
        ("train-1-1", 0, "Alone"),
        ("train-0-1", 0, "High"),
        ("train-0-1", 1, "Low"),
    ]
    assert [row["context"]["helpfulness"] for row in found] == [0, 4, 1]
    turned = read(tmp_path, rows, preference="-verbosity")
    assert [row["response"] for row in turned] == ["Alone", "Low", "High"]


def test_labels_and_the_scores_of_a_pair_are_numbers_of_the_context(tmp_path):
    rows = [{"prompt": "Hi", "completion": "No", "label": False}, {"prompt": "Hi", "completion": "Yes", "label": True}]
    assert [(row["response"], row["context"]["label"]) for row in read(tmp_path, rows)] == [("Yes", 1), ("No", 0)]
    pair = {"prompt": "Hi", "chosen": "Good", "rejected": "Bad", "score_chosen": 8.5, "score_rejected": 2}
    found = read(tmp_path, [pair])
    assert [(row["context"]["chosen"], row["context"]["score"]) for row in found] == [(1, 8.5), (0, 2)]


def test_pairs_with_one_prompt_stay_pairs(tmp_path):
    rows = [{"prompt": "Hi", "chosen": f"Good {i}", "rejected": f"Bad {i}"} for i in range(2)]
    found = read(tmp_path, rows)
    assert [(row["prompt_id"], row["response"]) for row in found] == [
        ("train-0-1", "Good 0"),
        ("train-0-1", "Bad 0"),
        ("train-1-1", "Good 1"),
        ("train-1-1", "Bad 1"),
    ]


# --- hazards of published data


def test_a_transcript_is_split_at_its_last_assistant(tmp_path):
    """What a user quotes, without an empty line before it, is no mark."""
    start = "\n\nHuman: Say Assistant: twice\n\nAssistant: Assistant: x\nHuman: y\n\nHuman: Again\n\nAssistant:"
    found = read(tmp_path, [{"chosen": start + " Yes", "rejected": start + " No"}])
    turns = [(H, "Say Assistant: twice"), (A, "Assistant: x\nHuman: y"), (H, "Again")]
    assert short(found) == [(turns, 0, "Yes"), (turns, 1, "No")]


CALL = {"name": "weather", "arguments": {"city": "Rome"}}
TOOLS = [user("Rain?"), bot(None, tool_calls=[CALL]), {"role": "tool", "content": "dry"}, bot("No.")]
CALLED = [(H, "Rain?"), (A, json.dumps([CALL])), (T, "dry")]


@pytest.mark.parametrize("assistant", ["last", "all"])
def test_calls_of_tools_stay_in_the_prompt_and_are_never_responses(tmp_path, assistant):
    assert short(read(tmp_path, [{"messages": TOOLS}], assistant=assistant)) == [(CALLED, 0, "No.")]


def test_functions_of_sharegpt_are_tools_and_weight_0_is_not_trained_on(tmp_path):
    told = [("human", "Rain?"), ("function_call", "{}"), ("observation", "dry"), ("gpt", "No.")]
    rows = [{"conversations": [{"from": name, "value": text} for name, text in told]}]
    expected = [([(H, "Rain?"), (A, "{}"), (T, "dry")], 0, "No.")]
    assert short(read(tmp_path, rows, assistant="all")) == expected
    weighed = [{"messages": [user("a"), bot("b", weight=0), user("c"), bot("d", weight=1)]}]
    assert short(read(tmp_path, weighed, assistant="all")) == [([(H, "a"), (A, "b"), (H, "c")], 0, "d")]


def test_a_system_turn_in_the_middle_stays_where_it_is(tmp_path):
    middle = {"role": "system", "content": "Now in French."}
    found = read(tmp_path, [{"messages": [user("a"), bot("b"), middle, user("c"), bot("d")]}], system="System: ")
    assert short(found) == [([(H, "a"), (A, "b"), (S, "Now in French."), (H, "c")], 0, "d")]
    assert found[0]["prompt"] == "Human: a\n\nAssistant: b\n\nSystem: Now in French.\n\nHuman: c\n\nAssistant:"


OK = {"messages": [user("Hi"), bot("Ok")]}
PAIR_RECORD = {"prompt": "Hi", "chosen": "Good", "rejected": "Bad"}
UNUSABLE = [
    (OK, {"messages": [user("a"), bot("")]}, "with an empty response"),
    (OK, {"messages": [user("a"), bot(None)]}, "with an empty response"),
    (OK, {"messages": [user("a")]}, "without an assistant message"),
    (OK, {"messages": [bot("a")]}, "with an empty prompt"),
    (OK, {"messages": TOOLS[:2]}, "whose last assistant message is a call of a tool"),
    (PAIR_RECORD, {"prompt": "Hi", "chosen": "Good", "rejected": " "}, "with an empty response"),
    (PAIR_RECORD, {"prompt": "Hi", "chosen": "Same", "rejected": "Same"}, "whose chosen and rejected are the same"),
    (
        PAIR_RECORD,
        {"chosen": messages(["a", "b", "c", "d"]), "rejected": messages(["a", "X", "c", "Y"])},
        "whose chosen and rejected differ before their last message",
    ),
    (
        PAIR_RECORD,
        {"prompt": "Ho", "chosen": messages(["Hi", "b"]), "rejected": messages(["Hi", "c"])},
        "whose prompt is not the beginning of its 'chosen'",
    ),
]


@pytest.mark.parametrize(("fine", "wrong", "reason"), UNUSABLE)
def test_a_record_that_is_no_example_is_counted_or_refused(tmp_path, caplog, fine, wrong, reason):
    with caplog.at_level(logging.INFO):
        assert {row["prompt_id"] for row in read(tmp_path, [fine, wrong, wrong])} == {"train-0-1"}
    assert f"left out: 2 records {reason}" in caplog.text
    assert "t.jsonl, line 2)" in caplog.text
    with pytest.raises(InputError, match=r"t\.jsonl, line 2: one of the records .*unusable: drop"):
        read(tmp_path, [fine, wrong], unusable="refuse")


def test_an_empty_message_is_no_response_but_stays_in_the_history(tmp_path):
    rows = [{"messages": messages(["a", "", "c", "d"])}]
    assert short(read(tmp_path, rows, assistant="all")) == [([(H, "a"), (A, ""), (H, "c")], 0, "d")]


# --- named mistakes


@pytest.mark.parametrize(
    ("record", "given", "message"),
    [
        (
            {"q": 1, "a": 2},
            {},
            "line 1: fits no convention of chats; its columns are q, a; say in clean.options.columns",
        ),
        ({"chosen": "Good", "rejected": "Bad"}, {}, "fits no convention of chats; its columns are chosen, rejected"),
        (
            {"messages": [user("a"), {"role": "alien", "content": "x"}]},
            {},
            r"messages\[1\]: the role 'alien' is unknown",
        ),
        (
            {"messages": [user("a"), {"speaker": 1}]},
            {},
            r"messages\[1\]: a message needs role and content .*; it has speaker",
        ),
        ({"messages": [user(5), bot("x")]}, {}, r"messages\[0\]\.content: must be a text or a list of parts, but is 5"),
        (
            {"messages": [user([{"type": "text", "text": "a"}, {"type": "image_url", "image_url": {}}]), bot("x")]},
            {},
            r"messages\[0\]\.content\[1\]: is a part of type 'image_url'",
        ),
        ({"messages": "hello"}, {"convention": "messages"}, "must be a list of messages, at least one, but is 'hello'"),
        ({"prompt": "a", "completion": 5}, {}, "column 'completion' must be a text or a list of messages, but is 5"),
        ({"prompt": "a", "completion": "b", "label": "maybe"}, {}, "column 'label' must be true, false or a number"),
        ({"prompt": "a", "answers": ["x"]}, {}, r"answers\[0\]: must be a table with a text 'answer', but is 'x'"),
        ({"messages": [user("a"), bot("b")]}, {"convention": "preference"}, "no column chosen with a value; there are"),
        (
            {"prompt": "a", "completion": "b"},
            {"preference": "score"},
            "clean.options.preference is 'score', but the numbers",
        ),
        ({"prompt": "a", "completion": "b"}, {"group": "talk"}, "no column 'talk'; there are: prompt, completion"),
        (
            {"prompt": "a", "completion": "b"},
            {"columns": {"prompt": "q"}},
            "columns.prompt is 'q', but .* has: prompt, com",
        ),
        ({"id": 1, "messages": [[{"text": "a"}]]}, {}, "messages: message 1 needs a text and a sender"),
        ({"messages": [{"text": "a", "sender": ["x"]}]}, {}, "messages: message 1 needs a text and a sender"),
    ],
)
def test_a_wrong_record_is_named_by_line_and_column(tmp_path, record, given, message):
    with pytest.raises(InputError, match=message):
        read(tmp_path, [record], **given)


def test_records_of_two_conventions_are_named_and_one_can_be_chosen(tmp_path):
    rows = [{"prompt": "a", "completion": "b"}, {"prompt": "c", "completion": "d", "label": True}]
    with pytest.raises(
        InputError, match=r"several conventions: .*completion in .*line 1.*; name one in clean\.options\.conv"
    ):
        read(tmp_path, rows)
    assert len(read(tmp_path, rows, convention="completion")) == 2


def test_columns_under_other_names(tmp_path):
    rows = [{"question": "Hi", "reply": "Hello", "prompt": "an id"}]
    found = read(tmp_path, rows, columns={"prompt": "question", "completion": "reply"}, context={"old": "reply"})
    assert short(found) == ONE
    assert found[0]["context"]["old"] == "Hello"


# --- splits and files


def test_conversations_stay_in_one_split_and_shares_are_exact(tmp_path):
    rows = [{"messages": [user(f"question {i % 20}"), bot("a"), user(f"more {i}"), bot("b")]} for i in range(60)]
    write_lines(tmp_path / "t.jsonl", rows)
    splits = rows_of(tmp_path, validation=None, test=None, shares={"validation": 0.1, "test": 0.2}, assistant="all")
    groups = {split: {row["context"]["group"] for row in found} for split, found in splits.items()}
    assert {split: len(found) for split, found in groups.items()} == {"train": 14, "validation": 2, "test": 4}
    assert len(set.union(*groups.values())) == 20
    assert sum(map(len, splits.values())) == 120
    firsts = {split: {row["turns"][0]["text"] for row in found} for split, found in splits.items()}
    assert not firsts["train"] & (firsts["validation"] | firsts["test"])


@pytest.mark.parametrize("end", ["\t", ","])
def test_numbers_of_a_csv_are_numbers(tmp_path, end):
    name = "t.tsv" if end == "\t" else "t.csv.gz"
    with (gzip.open if name.endswith(".gz") else open)(tmp_path / name, "wt", newline="") as file:
        writer = csv.writer(file, "excel-tab" if end == "\t" else "excel")
        writer.writerow(["prompt", "completion", "score", "code", "label"])
        writer.writerows([["12", "a, b", "0.5", "007", "false"], ["12", "c", "2", "1", "true"]])
    found = rows_of(tmp_path, train=name)["train"]
    assert short(found) == [([(H, "12")], 0, "c"), ([(H, "12")], 1, "a, b")]
    assert [row["context"] for row in found] == [
        {"score": 2, "label": 1, "group": digest("12").hex()},
        {"score": 0.5, "label": 0, "group": digest("12").hex()},
    ]


def test_messages_within_a_csv_are_json(tmp_path):
    with (tmp_path / "t.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["messages"], [json.dumps(OK["messages"])]])
    assert short(rows_of(tmp_path, train="t.csv")["train"]) == [(HI, 0, "Ok")]


def test_clean_writes_chats_and_names_a_mistake_in_one_line(tmp_path, monkeypatch):
    from alol.data import schema
    from stages.clean import main

    write_lines(tmp_path / "data/raw/mine/chats/a-00000-of-00002.jsonl", [SAME["messages"](*talk) for talk in TALKS])
    write_lines(tmp_path / "data/raw/mine/chats/a-00001-of-00002.jsonl", [OK])
    project(tmp_path, {}, {"format": "chat", "options": {"train": "chats/a-*.jsonl"}})
    monkeypatch.chdir(tmp_path)
    result = run(main)
    assert result.exit_code == 0, result.output
    sizes = {split: schema.count(Path(f"data/clean/mine/{split}.parquet")) for split in schema.SPLITS}
    assert sizes == {"train": 4, "validation": 1, "test": 1}
    write_lines(tmp_path / "data/raw/mine/chats/a-00001-of-00002.jsonl", [{"messages": [{"role": "x", "content": ""}]}])
    assert "a-00001-of-00002.jsonl, line 1: messages[0]: the role 'x' is unknown" in error_line(main)
