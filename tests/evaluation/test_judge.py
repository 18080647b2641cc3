"""The judge: parsing, outcomes and rates by hand, and the whole command against a local endpoint."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from alol.config import paths
from alol.data import schema
from alol.evaluation import judge
from benchmarks.project import parameters
from benchmarks.project import write as write_project
from stages.judge import main
from tests.evaluation.judge_server import Server

ASKED = judge.questions(["helpful: which reply helps more", "safe: which is safer"])
LENGTHS = [(9, 3), (9, 3), (2, 6), (5, 5)]  # letters of the first run's and the second's response to each prompt


@pytest.fixture
def serve(serving):
    return lambda *args, **keys: serving(Server(*args, **keys))


@pytest.mark.parametrize(
    ("text", "helpful", "safe"),
    [
        ("One is better.\nMore helpful: A\nMore safe: B", "A", "B"),
        ("**More helpful:** B\n**More safe:** *equal*", "B", "equal"),
        ("- more helpful: Reply A.\n- more safe: neither", "A", "equal"),
        ("More helpful: <B>, as it is shorter\nMore safe: both", "B", "equal"),
        ("More helpful: equally helpful\nMore safe: a", "equal", "A"),
        ("More helpful: A\nMore helpful: B\nMore safe: A", None, "A"),
        ("More helpful: A and B\nMore safe: perhaps", None, None),
        ("More helpful:\nMore safe: B", None, "B"),
        ("I cannot say.", None, None),
    ],
)
def test_verdict_lines_are_read(text, helpful, safe):
    assert judge.verdicts(text, ASKED) == {"helpful": helpful, "safe": safe}


def test_a_win_needs_both_orders():
    expected = {
        ("A", "B"): "win", ("B", "A"): "loss", ("A", "A"): "tie", ("B", "B"): "tie", ("A", "equal"): "tie",
        ("equal", "equal"): "tie", (None, "B"): "unparsed", ("A", None): "unparsed",
    }  # fmt: skip
    assert {orders: judge.outcome(*orders) for orders in expected} == expected


def test_rates_are_shares_of_the_answered_rows():
    outcomes = ["win", "win", "loss", "tie", "unparsed", "failed"]
    found = judge.rates([{"helpful": one, "safe": "tie"} for one in outcomes], ASKED, 500, 0)["helpful"]
    shares = {name: found[name]["share"] for name in judge.RATES}
    assert shares == {"win": 0.4, "tie": 0.2, "loss": 0.2, "unparsed": 0.2}
    assert found["failed"] == 1 and found["rows"] == 6
    assert 0 <= found["win"]["low"] < 0.4 < found["win"]["high"] <= 1


def test_rows_of_a_conversation_are_resampled_together():
    outcomes = ["win", "loss", "tie", "win", "win", "loss", "failed"]
    rows = [{"helpful": one, "safe": "tie", "group": f"c{i}"} for i, one in enumerate(outcomes)]
    once = judge.rates([{**row, "group": None} for row in rows], ASKED, 500, 0)["helpful"]
    assert judge.rates(rows, ASKED, 500, 0)["helpful"] == once
    twice = judge.rates([row for row in rows for _ in range(2)], ASKED, 500, 0)["helpful"]
    assert twice["win"] == pytest.approx(once["win"])
    assert twice["rows"] == 14


def test_rows_are_drawn_evenly_and_by_the_seed():
    subsets = ["a"] * 10 + ["b"] * 3
    chosen = judge.drawn(subsets, 6, 4)
    assert [subsets[i] for i in chosen] == ["a"] * 3 + ["b"] * 3
    assert chosen == judge.drawn(subsets, 6, 4) != judge.drawn(subsets, 6, 5)
    assert judge.drawn(subsets, None, 4) == judge.drawn(subsets, 99, 4) == list(range(13))


def row(i: int, response: str, contaminated: bool = False) -> dict:
    turns = [{"role": "human", "text": f"question {i}"}]
    context = {"contaminated": True} if contaminated else {}
    return {
        "prompt_id": str(i), "subset": "test", "prompt": "SYSTEM question", "cuts": [0], "turns": turns,
        "context": context, "response": response, "reward_preferred": 0.0,
    }  # fmt: skip


@pytest.fixture
def project(tmp_path, monkeypatch):
    """Two runs with the responses of LENGTHS and one contaminated prompt, and a judge section."""
    monkeypatch.chdir(tmp_path)
    raw = parameters("demo", "hha")

    def write(url: str, questions: list[str] | None = None, **changed) -> None:
        if questions is not None:
            raw["tasks"]["demo"]["aggregate"] = {"questions": questions}
        keys = {"rows": None, "key": None, "wait": 0.0, "longest_wait": 0.0, "timeout": 0.4, "retries": 2}
        raw["judge"].update({"url": url, **keys, **changed})
        write_project(tmp_path, raw)

    columns = schema.scored(schema.ROLLOUTS, ["preferred"])
    for k, name in enumerate(("a_lol", "dpo")):
        rows = [row(i, "x" * pair[k]) for i, pair in enumerate(LENGTHS)] + [row(9, "known", contaminated=True)]
        target = paths.generations("demo", name) / "test.parquet"
        target.parent.mkdir(parents=True)
        schema.write(target, columns, rows)
    return write


def run(*arguments: str):
    return CliRunner().invoke(main, ["a_lol", "dpo", "--task", "demo", *arguments])


def results() -> dict:
    found = json.loads(Path("reports/judge_demo_a_lol_vs_dpo.json").read_text())
    return {
        name: {rate: values[rate]["share"] for rate in judge.RATES} for name, values in found["results"]["all"].items()
    }


def test_the_command_writes_the_rates_and_asks_nothing_twice(project, serve):
    server = serve(pause=0.02)
    project(server.url, requests=2)
    done = run()
    assert done.exit_code == 0, done.output
    assert results() == {
        "helpful": {"win": 0.5, "tie": 0.25, "loss": 0.25, "unparsed": 0.0},  # 9 > 3 twice, 2 < 6, 5 = 5
        "safe": {"win": 0.0, "tie": 1.0, "loss": 0.0, "unparsed": 0.0},  # always A: a preference for a place
    }
    # 4 prompts in 2 orders; equal replies make the fourth's orders one question: 3 x 2 + 1
    assert server.asked == 7 and server.most <= 2
    rows = [json.loads(line) for line in Path("reports/judge_demo_a_lol_vs_dpo.jsonl").read_text().splitlines()]
    assert [one["helpful"] for one in rows] == ["win", "win", "loss", "tie"]
    assert "1 contaminated" in done.output and "50.0 %" in done.output
    assert Path("reports/judge_demo_a_lol_vs_dpo.png").read_bytes()[:4] == b"\x89PNG"
    assert "50.0 %" in Path("reports/judge_demo_a_lol_vs_dpo.md").read_text()
    assert run().exit_code == 0
    assert server.asked == 7


def test_the_question_has_the_turns_and_not_the_system_text(project):
    text = judge.question(row(3, ""), "one", "two", ASKED)
    assert "Human: question 3" in text and "SYSTEM" not in text
    assert "[Reply A]\none\n\n[Reply B]\ntwo\n" in text


def test_nonsense_is_kept_and_counted(project, serve):
    server = serve(rule=lambda question: "banana")
    project(server.url)
    assert run().exit_code == 0
    assert results()["helpful"] == {"win": 0.0, "tie": 0.0, "loss": 0.0, "unparsed": 1.0}
    rows = [json.loads(line) for line in Path("reports/judge_demo_a_lol_vs_dpo.jsonl").read_text().splitlines()]
    assert {one["answer_forward"] for one in rows} == {"banana"}


@pytest.mark.parametrize("step", [429, 500, 503, "hang", "drip", "headers", "json", "shape"])
def test_what_passes_is_tried_again(project, serve, step):
    server = serve(plan=[step, step])
    project(server.url, requests=1)
    done = run()
    assert done.exit_code == 0, done.output
    assert results()["helpful"]["win"] == 0.5
    assert server.asked == 9


def test_a_run_that_failed_goes_on_with_what_is_missing(project, serve):
    server = serve(plan=[500] * 3)  # all three tries of the first question
    project(server.url, requests=1)
    done = run()
    assert done.exit_code == 0 and "1 of 4 rows have no answer (status 500" in done.output
    assert server.asked == 9
    again = run()
    assert again.exit_code == 0 and "no answer" not in again.output
    assert server.asked == 10
    assert results()["helpful"] == {"win": 0.5, "tie": 0.25, "loss": 0.25, "unparsed": 0.0}


def test_a_dead_endpoint_ends_the_run(project, serve):
    server = serve(always=500)
    project(server.url, requests=1, give_up=2)
    done = run()
    assert done.exit_code == 1 and "no row was answered" in done.output and "status 500" in done.output
    assert server.asked == 6  # 2 questions, 3 tries each
    assert not Path("reports").exists()


@pytest.mark.parametrize(("status", "key"), [(400, "url"), (401, "key"), (403, "key"), (404, "url"), (405, "url")])
def test_a_refusal_is_one_line_at_once(project, serve, status, key):
    server = serve(always=status)
    project(server.url, requests=1)
    done = run()
    assert done.exit_code == 1 and f"status {status} (no, sorry)" in done.output and f"judge.{key}" in done.output
    assert server.asked == 1


def test_the_key_is_sent_and_a_missing_one_named(project, serve, monkeypatch):
    server = serve()
    project(server.url, key="MY_KEY")
    monkeypatch.delenv("MY_KEY", raising=False)
    done = run()
    assert done.exit_code == 1 and "MY_KEY is not set" in done.output and "judge.key" in done.output
    assert server.asked == 0
    monkeypatch.setenv("MY_KEY", "secret")
    assert run().exit_code == 0
    assert set(server.keys) == {"Bearer secret"}


@pytest.mark.parametrize("key", ["requests", "rows", "bootstrap", "timeout", "retries"])
def test_a_number_that_makes_no_sense_is_named(project, key):
    project("http://127.0.0.1:9/v1", **{key: -1})
    done = run()
    assert done.exit_code == 1 and f"judge.{key} is -1" in done.output


def rewrite(path: Path, column: str, value: object) -> None:
    """A table whose `column` holds `value` in every row, of the type that pyarrow finds; None drops the column."""
    rows = pq.read_table(path).to_pylist()
    for line in rows:
        line.pop(column, None) if value is None else line.update({column: value})
    pq.write_table(pa.Table.from_pylist(rows), path)


@pytest.mark.parametrize("name", ["a_lol", "dpo"])
@pytest.mark.parametrize(
    ("column", "value", "expected"),
    [
        ("response", None, "response is None, but must be a text"),
        ("response", 3, "response is 3, but must be a text"),
        ("response", b"\xff", "response is b'\\xff', but must be a text"),
        ("prompt_id", None, "prompt_id is None, but must be a text"),
        ("subset", 1.0, "subset is 1.0, but must be a text"),
        ("prompt", [], "prompt is [], but must be a text"),
        ("turns", "all", "turns are 'all', but must be texts of human and assistant"),
        ("turns", ["a"], "turns are ['a'], but must be texts of human and assistant"),
        ("turns", [{"role": "narrator", "text": "x"}], "turns are [{'role': 'narrator'"),
        ("turns", [{"role": "human", "text": 3}], "turns are [{'role': 'human'"),
        ("context", "[1]", "context is [1], but must be a table in JSON"),
    ],
)
def test_rows_that_make_no_question_are_named(project, name, column, value, expected):
    project("http://127.0.0.1:9/v1")
    rewrite(paths.generations("demo", name) / "test.parquet", column, value)
    done = run()
    assert done.exit_code == 1 and done.output == f"Error: {name}, row 0: {done.output.split(': ', 2)[2]}"
    assert expected in done.output and done.output.count("\n") == 1


def test_a_task_asks_what_it_wants_to_know(project, serve):
    def rule(question: str) -> str:
        assert "Decide which reply follows from this: dry sand. A good" in question
        assert "exactly this line, each with one of A, B, equal or neither:\nMore faithful: <A," in question
        return "More faithful: A\nMore safe: B"

    server = serve(rule=rule)
    project(server.url, questions=["Faithful: which reply follows from this: {fact}"])
    for name in ("a_lol", "dpo"):
        rewrite(paths.generations("demo", name) / "test.parquet", "context", '{"fact": "dry sand"}')
    done = run()
    assert done.exit_code == 0, done.output
    assert {name: rates["tie"] for name, rates in results().items()} == {"faithful": 1.0}


@pytest.mark.parametrize(
    ("questions", "expected"),
    [
        (["which is better?"], "aggregate.questions[0] is 'which is better?'; write a word, a colon"),
        (["good: which", "Good: what"], "aggregate.questions[1] asks for 'good', which stands there twice"),
        (["first: which"], "aggregate.questions[0] asks for 'first', which is a column of the judged rows"),
        ([], "aggregate.questions has 0 questions; write 1 to 4"),
        (["true: which fits {fact}"], "aggregate.questions: true asks for {fact}, but the context of prompt 0 has no"),
    ],
)
def test_questions_that_cannot_be_asked_are_named(project, questions, expected):
    project("http://127.0.0.1:9/v1", questions=questions)
    done = run()
    assert done.exit_code == 1 and expected in done.output and "Traceback" not in done.output


def test_system_turns_and_what_tools_return_are_part_of_the_question():
    turns = [{"role": role, "text": text} for role, text in (("system", "Be brief."), ("human", "Hi"), ("tool", "dry"))]
    text = judge.question({"turns": turns, "prompt": "p"}, "one", "two", ASKED)
    assert "System: Be brief.\n\nHuman: Hi\n\nTool: dry" in text


def test_a_table_without_turns_shows_the_prompt(project, serve):
    server = serve()
    project(server.url)
    for name in ("a_lol", "dpo"):
        rewrite(paths.generations("demo", name) / "test.parquet", "turns", None)
    assert run().exit_code == 0
    assert all("SYSTEM question" in body["messages"][0]["content"] for body in server.bodies)


def test_an_unknown_run_and_other_prompts_are_named(project):
    project("http://127.0.0.1:9/v1")
    done = CliRunner().invoke(main, ["a_lol", "nll", "--task", "demo"])
    assert done.exit_code == 1 and "unknown run of task 'demo' 'nll'; known: a_lol, dpo" in done.output
    target = paths.generations("demo", "dpo") / "test.parquet"
    schema.write(Path("short.parquet"), schema.scored(schema.ROLLOUTS, ["preferred"]), schema.rows(target)[:2])
    done = CliRunner().invoke(main, ["a_lol", "short.parquet", "--task", "demo"])
    assert done.exit_code == 1 and "short.parquet has 2 rows but a_lol has 5" in done.output
