"""Stage aggregate on a small project: its files, and the report read back as HTML."""

from __future__ import annotations

import csv
import json
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from alol.base.files import write_json
from alol.config import yaml_files
from alol.config.params import load
from alol.data import schema
from alol.evaluation import figures, provenance, report_tables, training_rows
from benchmarks.project import parameters, write
from stages import aggregate

ROOT = Path(__file__).parents[2]
EVIL = "<script>alert('x')</script>"
NAMES = ("good", "short")
TOKENS = {"prompt_ids": [1], "response_ids": [2], "ref_logp": [-1.0]}
PROMPTS = [(f"p{i}", "easy" if i < 6 else "hard") for i in range(10)]


class Page(HTMLParser):
    """Collects tags, their attributes, the texts, and the cells of the score table row by row."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.texts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.texts.append(data)


def prompt_row(prompt_id: str, subset: str) -> dict:
    shared = {"prompt_id": prompt_id, "subset": subset, "prompt": f"ask {EVIL} {prompt_id}"}
    return {**shared, "cuts": [], "turns": [], "context": {}}


def project(folder: Path) -> None:
    """Params of a task `toy` over the real defaults, and the tables that earlier stages would leave."""
    raw = parameters("demo")
    raw["tasks"] = {"toy": {name: {} for name in raw["tasks"]["demo"]}}
    raw["tasks"]["toy"]["rewards"] = {name: {"kind": "tfidf"} for name in NAMES}
    raw["tasks"]["toy"]["reward"] = {"shift": 0.0, "weights": {"good": 2.0, "short": -0.5}}
    raw["tasks"]["toy"]["aggregate"] = {"bootstrap": 100, "samples": 3, "examples": 2, "points": 5}
    write(folder, raw)
    scores = np.random.default_rng(0).uniform(size=(3, len(PROMPTS)))
    gold = folder / "data/annotated/toy/test.parquet"
    with schema.writing(gold, schema.scored(schema.RESPONSES, NAMES)) as writer:
        for i, prompt in enumerate(PROMPTS):
            for rank in (0, 1):
                row = {**prompt_row(*prompt), "rank": rank, "response": f"gold words {rank}"}
                writer.write([{**row, "reward_good": scores[0, i] - rank, "reward_short": 0.1}])
    tables = {"baselines/toy": (scores[1], " reference answer"), "generations/toy/a_lol": (scores[2] + 1, EVIL)}
    for name, (good, response) in tables.items():
        with schema.writing(folder / "data" / name / "test.parquet", schema.scored(schema.ROLLOUTS, NAMES)) as writer:
            for i, (score, prompt) in enumerate(zip(good, PROMPTS, strict=True)):
                row = {**prompt_row(*prompt), "response": response + (" again" if i == 0 else "")}
                writer.write([{**row, "reward_good": score, "reward_short": 0.2}])
    (folder / "data/annotated/toy/logged.parquet").write_bytes(gold.read_bytes())
    ratios = [{"prompt_id": prompt_id, "tokens": 4, "log_ratio": 1.0} for prompt_id, *_ in PROMPTS]
    schema.write(folder / "data/generations/toy/a_lol/log_ratios.parquet", schema.LOG_RATIOS, ratios)
    logged = [row for row in ratios for _ in (0, 1)]
    schema.write(folder / "data/generations/toy/a_lol/logged.parquet", schema.LOG_RATIOS, logged)
    tested = [{**TOKENS, **row, "value": 0.5} for row in schema.rows(gold, ["prompt_id", "rank"])]
    tested = [{**row, "reward": 1.0 - row["rank"], "raw_reward": 0.0, "advantage": 0.5 - row["rank"]} for row in tested]
    schema.write(folder / "data/advantages/toy/test.parquet", schema.ADVANTAGES, tested)
    for name in ("annotated/toy", "baselines/toy"):
        (folder / "data" / name / "validation.parquet").write_bytes(
            (folder / "data" / name / "test.parquet").read_bytes()
        )
    (folder / "models/toy/a_lol").mkdir(parents=True)
    answers = (folder / "data/generations/toy/a_lol/test.parquet").read_bytes()
    (folder / "models/toy/a_lol/validation.parquet").write_bytes(answers)
    training_tables(folder)
    points = [(0, 0.3), (20, 0.5), (40, 0.4)]
    points = [{"update": at, "reward": value, "epoch": at / 20} for at, value in points]
    curve = [{"update": i, "loss": 1 / i, "weight": 1.0, "lr": 1e-4} for i in range(1, 41)]
    history = {"selected": 1, "discarded": 0.4, "updates": 40, "validation": points, "curve": curve}
    history |= {"parameters": 12000, "trainable": 3000}
    write_json(folder / "models/toy/a_lol/training.json", history)
    heldout = {"prompt_id": [str(i) for i in range(9)], "value": [i / 9 for i in range(9)], "reward": [0.5] * 9}
    write_json(folder / "models/toy/value/heldout.json", heldout)
    write_json(folder / "metrics/value.json", {"value_mse": 0.02, "value_mse_constant": 0.05, "rollouts": 9})
    write_json(folder / "metrics/reward_model.json", {"good": {"accuracy": 0.75, "texts": 4}, "short": {}})


def training_tables(folder: Path) -> None:
    """Five prompts with two ranks; the preferred responses' advantages are -1, 0, 1, 2 and 3."""
    annotated = schema.writing(folder / "data/annotated/toy/train.parquet", schema.scored(schema.RESPONSES, NAMES))
    with annotated as texts, schema.writing(folder / "data/advantages/toy/train.parquet", schema.ADVANTAGES) as scores:
        for i in range(5):
            for rank in (0, 1):
                row = {**prompt_row(f"t{i}", ""), "rank": rank, "response": f"train {i}.{rank}"}
                texts.write([{**row, "reward_good": 1.0, "reward_short": 0.0}])
                numbers = {
                    "reward": i - 0.5 - 9 * rank,
                    "raw_reward": 0.0,
                    "value": 0.5,
                    "advantage": i - 1.0 - 9 * rank,
                }
                scores.write([{"prompt_id": f"t{i}", "rank": rank, **TOKENS, **numbers}])


def run() -> str:
    done = CliRunner().invoke(aggregate.main, ["--task", "toy", "--algorithm", "a_lol"])
    assert isinstance(done.exception, SystemExit | None), done.exception
    return done.output


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """The project after stage aggregate, with what it printed in output.txt."""
    folder = tmp_path_factory.mktemp("aggregate")
    project(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        (folder / "output.txt").write_text(run())
    return folder


@pytest.fixture
def fresh(tmp_path, monkeypatch) -> Path:
    project(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_what_sampled_answers_say_of_the_value_stands_in_the_summary_and_the_report(fresh):
    judged = {"value_judged_mse": 0.03, "value_judged_mse_constant": 0.06, "value_noise": 0.01}
    judged |= {"value_learnable": 0.02, "judge_samples": 8}
    write_json(fresh / "metrics/value.json", {"value_mse": 0.02, "value_mse_constant": 0.05, **judged})
    run()
    result = json.loads((fresh / "metrics/summary.json").read_text())
    assert {key: result[key] for key in judged} == judged
    assert (
        "Against the mean of 8 sampled answers to each prompt: 0.03 (the best constant: 0.06), of which 0.01 is the "
        "noise of that mean and 0.02 still to learn."
    ) in (fresh / "metrics/report.html").read_text()


def test_summary_holds_splits_and_the_numbers_of_earlier_stages(made):
    result = json.loads((made / "metrics/summary.json").read_text())
    assert set(result["policy"]) == {"easy", "hard", "all", "macro"}
    policy, gold = result["policy"]["all"], result["gold"]["all"]
    assert policy["reward"] == pytest.approx(2 * policy["reward_good"] - 0.5 * 0.2, rel=1e-4)
    assert gold["length"] == 3.0  # rank 0 alone: "gold words 0"
    assert result["delta"]["all"]["p_value"] == pytest.approx(
        2 / 2**10, rel=1e-5
    )  # every difference is positive: two of 2^10 signs
    assert {key: result[key] for key in ("discarded", "selected", "value_mse", "value_mse_constant")} == {
        "discarded": 0.4,
        "selected": 1,
        "value_mse": 0.02,
        "value_mse_constant": 0.05,
    }
    assert result["reward_accuracy"] == {"good": 0.75}
    assert result["checkpoints"] == {
        "best": {"update": 20, "epoch": 1.0, "value": 0.5},
        "worst": {"update": 40, "epoch": 2.0, "value": 0.4},
    }
    pooled = {
        key: value for key, value in policy.items() if key not in ("reward_low", "reward_high", "kl_per_token", "ope")
    }
    assert policy["kl_per_token"] == 0.25
    assert result["validation"]["policy"] == pooled  # the fixture's validation rows are its test rows
    assert set(result["validation"]) == {"gold", "reference", "policy"}
    assert "filter" not in result
    assert "value_noise" not in result


def test_what_logged_responses_say_of_the_policy(made, fresh, monkeypatch):
    found = json.loads((made / "metrics/summary.json").read_text())["policy"]
    # each of 20 responses has the log-ratio 1 over 4 tokens, below the limit ln 20: equal weights, but few of them
    few = {"baseline": 0.5, "ess": 20.0, "clipped": 0.0, "log_ratio_per_token": 0.25, "responses": 20.0}
    assert found["all"]["ope"] == few
    assert {split: one["ope"]["responses"] for split, one in found.items() if "ope" in one} == {
        "all": 20.0, "easy": 12.0, "hard": 8.0,
    }  # fmt: skip
    said = "20 of 20 logged responses count (effective sample size): too few to estimate the policy from them."
    assert said in (made / "metrics/report.html").read_text()
    monkeypatch.setattr("alol.evaluation.ope.ENOUGH", 20.0)
    run()
    # R is 1 for the first response to a prompt and 0 for the second
    found = json.loads(Path("metrics/summary.json").read_text())["policy"]
    assert found["all"]["ope"] == {**few, "snis": 0.5, "dr": 0.5}
    assert "estimated to be worth 0.500 (doubly robust) or 0.500 (importance" in Path("metrics/report.html").read_text()


def test_the_filter_is_measured_where_a_label_is_named(fresh):
    raw = parameters(root=Path())
    raw["tasks"]["toy"]["aggregate"]["label"] = "human"
    write(Path(), raw)
    assert "aggregate.label is 'human', which must be a number in every context; prompt t0, rank 0, has None" in run()
    path = Path("data/annotated/toy/train.parquet")
    rows = schema.rows(path)
    for row in rows:
        row["context"]["human"] = float(row["prompt_id"] in ("t2", "t0") and row["rank"] == 0)
    schema.write(path, schema.scored(schema.RESPONSES, NAMES), rows)
    run()
    # of the preferred responses t0 to t4, t2, t3 and t4 have A > 0, and a human found t0 and t2 good
    found = json.loads(Path("metrics/summary.json").read_text())["filter"]
    assert found == {"precision": 0.333333, "recall": 0.5, "base_rate": 0.4}
    report = Path("metrics/report.html").read_text()
    assert "(human), 33.3% of the kept responses are good and 40.0% of all; 50.0% of the good ones are kept" in report


def test_results_are_the_summary_as_a_table(made):
    rows = table(made / "metrics/results.csv")
    result = json.loads((made / "metrics/summary.json").read_text())
    assert len(rows) == 3 * 4
    assert all(float(r["reward"]) == result[r["model"]][r["split"]]["reward"] for r in rows)
    assert {r["algorithm"] for r in rows} == {"a_lol"}


def test_plot_tables_have_the_columns_dvc_plots(made):
    plots = made / "metrics/plots"
    shares = table(plots / "reward_distribution.csv")
    for model in ("gold", "reference", "policy"):
        assert sum(float(r[model]) for r in shares) == pytest.approx(1, abs=1e-3)
    advantages = table(plots / "advantage.csv")
    counts = {kept: sum(int(r["count"]) for r in advantages if r["kept"] == kept) for kept in ("true", "false")}
    assert counts == {"true": 3, "false": 2}  # A = 0 is discarded, and rank 1 does not train
    assert all((float(r["bin"]) > 0) or r["count"] == "0" for r in advantages if r["kept"] == "true")
    assert set(table(plots / "training.csv")[0]) == {"update", "loss", "weight", "lr"}
    assert table(plots / "validation.csv")[0] == {"update": "0", "reward": "0.3", "epoch": "0.0"}
    assert len(table(plots / "value.csv")) == 5


def test_report_is_one_page_without_outside_requests(made):
    text = (made / "metrics/report.html").read_text()
    page = Page(text)
    sources = [value for _, attrs in page.tags for key, value in attrs.items() if key in ("src", "href")]
    assert len(sources) == 6
    assert all(source.startswith("data:image/svg+xml;base64,") for source in sources)
    assert not {tag for tag, _ in page.tags} & {"script", "link", "iframe"}
    assert str(made) not in text


def test_report_escapes_texts_and_shows_them(made):
    text = (made / "metrics/report.html").read_text()
    assert "<script" not in text
    texts = Page(text).texts
    assert any(part.startswith(EVIL) for part in texts)  # the policy's response
    assert sum(f"ask {EVIL} p" in part for part in texts) == 3  # sample prompts
    assert "gold words 0" in texts
    assert "train 4.0" in texts and "train 0.0" in texts
    assert any(".1" in part for part in texts if part.startswith("train "))  # the other responses have their own part


def test_report_has_the_headline_the_rows_and_the_percentiles(made):
    result = json.loads((made / "metrics/summary.json").read_text())
    page = Page((made / "metrics/report.html").read_text())
    joined = " ".join(" ".join(page.texts).split())
    policy = result["policy"]["all"]
    delta = result["delta"]["all"]
    assert page.texts[page.texts.index("toy: a_lol") + 1 :][1].startswith(
        f"a_lol gains on the reference: mean reward {delta['reward']:+.3f} (95 % interval {delta['reward_low']:+.3f} to"
    )
    assert f"a_lol reaches a mean reward of {policy['reward']:.3f} (95 % interval {policy['reward_low']:.3f}" in joined
    assert "2 of 5 training responses ( 40.0 %)" in joined.replace("(40.0", "( 40.0")
    assert "reward = 2 x good - 0.5 x short." in joined
    rows = [attrs["class"] for tag, attrs in page.tags if tag == "tr" and "class" in attrs]
    assert rows == ["split", "gold", "reference", "policy"] * 4
    assert "percentile 0 10 25 50 75 90 100" in joined
    assert "A, preferred -1.000 -0.600 0.000 1.000 2.000 2.600 3.000" in joined
    assert [" A, others " in joined, " R, others " in joined, " V(x) " in joined] == [True] * 3
    titles = ["advantage, preferred responses", "advantage, other responses", "value"]
    assert all(f"{end} {title}" in joined for title in titles for end in ("Highest", "Lowest"))


def test_terminal_shows_the_table_and_the_report(made):
    output = (made / "output.txt").read_text()
    assert "split  model" in output
    assert "report: metrics/report.html; this run's time, machine and commit: metrics/cost/run.txt" in output
    assert output.splitlines()[-1].startswith("a_lol gains on the reference: mean reward +")


def test_equal_runs_give_equal_bytes(fresh, made):
    run()
    outs = [path for path in sorted((made / "metrics").rglob("*")) if path.is_file() and "cost" not in path.parts]
    assert len(outs) == 11
    assert all(path.read_bytes() == (fresh / path.relative_to(made)).read_bytes() for path in outs)


def test_a_baseline_of_other_prompts_is_one_clear_line(fresh):
    path = fresh / "data/baselines/toy/test.parquet"
    rows = schema.rows(path)
    with schema.writing(path, schema.scored(schema.ROLLOUTS, NAMES)) as writer:
        writer.write(reversed(rows))
    assert run() == "Error: reference: row 0 is prompt 'p9' but 'p0' in gold; run `dvc repro`\n"
    assert not (fresh / "metrics/summary.json").exists()


def test_advantages_of_other_responses_are_refused(fresh):
    path = fresh / "data/advantages/toy/train.parquet"
    rows = schema.rows(path)
    with schema.writing(path, schema.ADVANTAGES) as writer:
        writer.write([*rows[2:], *rows[:2]])
    assert "row 0 is another response" in run()


def test_a_missing_input_is_named(fresh):
    (fresh / "metrics/value.json").unlink()
    assert run() == "Error: metrics/value.json is missing; run `dvc repro` to make it\n"


@pytest.mark.parametrize("selected", [True, False])
def test_short_runs_and_equal_rewards_can_be_drawn(selected):
    one = np.array([0.5])
    assert figures.loss([1], [0.2]).startswith(b"<?xml")
    assert figures.validation([{"update": 5, "reward": 0.1}], selected, "reward").startswith(b"<?xml")
    assert figures.value(one, one, 0.5).startswith(b"<?xml")
    assert figures.violins({"V(x)": one, "R, others": np.full(3, 2.0)}).startswith(b"<?xml")
    ends = figures.edges(np.full(3, 2.0))
    assert ends[0] < 2 < ends[-1]


def test_zero_is_an_edge_of_the_advantage_bins():
    values = np.random.default_rng(1).normal(0.3, 1, 400)
    ends = figures.edges(values, at=0.0)
    assert np.abs(ends).min() == 0.0
    assert ends[0] <= values.min() and values.max() <= ends[-1]
    assert np.histogram(values, ends)[0].sum() == 400


def test_the_headline_has_the_verdict_in_a_word(made):
    found = json.loads((made / "metrics/headline.json").read_text())
    assert set(found) == {"delta", "reference", "reward", "verdict"}
    assert found["verdict"] == "better"


def test_the_page_says_what_the_run_is(made):
    joined = " ".join(" ".join(Page((made / "metrics/report.html").read_text()).texts).split())
    assert "12,000 parameters, 3,000 of them trained (25.0%)" in joined
    assert "updates 40, batch size 32; the checkpoint after update 20 was kept" in joined
    assert "train 5 10 validation 10 20 test 10 20" in joined  # two ranks of each prompt
    assert "reward.weights.good 2.0" in joined and "aggregate.bootstrap 100" in joined


def test_what_differs_between_equal_runs_lies_beside_the_costs(made):
    text, page = ((made / "metrics" / name).read_text() for name in ("cost/run.txt", "report.html"))
    first, second, *_ = text.splitlines()
    assert first == "toy, a_lol, seed 1"
    assert (second.startswith("report written 20") and ", commit" in second) or "no commit" in second
    assert second.split()[2] not in page
    assert "metrics/cost/run.txt" in page


def test_costs_are_those_of_stages_that_ran_here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert provenance.costs() == ""
    write_json(Path("metrics/cost/train.json"), {"seconds": 1234.5, "peak_memory_mb": 99.9})
    write_json(Path("metrics/cost/clean.json"), {"seconds": 2.0, "peak_memory_mb": 1000.0})
    lines = [line.split() for line in provenance.costs().splitlines()[2:]]
    assert lines == [["clean", "2.0", "1,000"], ["train", "1,234.5", "100"]]
    write_json(
        Path("metrics/cost/train.json"),
        {"seconds": 1.0, "peak_memory_mb": 9.0, "peak_accelerator_memory_mb": 8000.0},
    )
    assert provenance.costs().splitlines()[-1].split() == ["train", "1.0", "9", "8,000"]


def test_every_stage_before_aggregate_has_a_place_among_the_costs():
    stages = yaml_files.read(ROOT / "dvc.yaml")["stages"]
    assert set(provenance.GRAPH) == {*stages} - {"aggregate"}


def test_a_response_starts_without_a_blank_and_is_never_nothing(made):
    texts = Page((made / "metrics/report.html").read_text()).texts
    assert "reference answer" in texts
    assert report_tables.shown(" a \n") == "a"
    assert report_tables.shown(" ") == "(empty)"


def test_settings_are_those_that_differ_from_what_tasks_share():
    defaults = {
        "source": {"kind": "file", "location": None},
        "clean": {"format": "table", "formats": {"hha": {"drop": True, "keep": 1}}, "label_texts": {"file": None}},
        "rewards": {"kinds": {"classifier": {"label": 1, "low": 0.0}}, "training": {"lr": 0.5, "epochs": 1}},
        "train": {"lr": 0.5, "optimizer": {"name": "adamw"}},
    }
    own = {
        "source": {"corpus": {"kind": "file", "location": "x"}},
        "clean": {"format": "hha", "options": {"drop": True, "keep": 2}, "labels": {"stars": {"file": "y"}}},
        "rewards": {"a": {"kind": "classifier", "label": 1, "low": 0.5, "train": {"lr": 0.5, "epochs": 2}}},
        "test_rewards": {},
        "train": {"lr": 0.5, "optimizer": {"name": "adamw", "betas": [0.5, 1]}},
    }
    assert report_tables.differing(own, defaults) == [
        ("source.corpus.location", "x"), ("clean.format", "hha"), ("clean.options.keep", "2"),
        ("clean.labels.stars.file", "y"), ("rewards.a.kind", "classifier"), ("rewards.a.low", "0.5"),
        ("rewards.a.train.epochs", "2"), ("train.optimizer.betas", "[0.5, 1]"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("use", "fates"),
    [
        ((True, False, True, False), ["kept", "discarded", "kept"]),  # a_lol
        ((True, False, True, True), ["kept", "discarded", "not trained on"]),  # and of the preferred responses alone
        ((True, False, False, False), ["trained on"] * 3),  # nll
        ((True, True, False, True), ["trained on"] * 3),  # dpo, whatever train_on says
        ((False, False, False, False), ["not trained on"] * 3),  # ppo
    ],
)
def test_what_became_of_a_response_depends_on_the_algorithm(use, fates):
    responses = [(0, 0.5), (0, 0.0), (1, 0.25)]  # rank and advantage
    assert [training_rows.Use(*use).fate(*one) for one in responses] == fates


@pytest.mark.parametrize(
    ("algorithm", "changes", "expected"),
    [
        ("a_lol", {}, (True, False, True, False)),
        ("a_lol", {"filter": "none", "sampling": "uniform"}, (True, False, False, False)),
        ("nll", {}, (True, False, False, False)),
        ("nll", {"filter": "positive", "train_on": "preferred"}, (True, False, True, True)),
        ("dpo", {}, (True, True, False, False)),
        ("ppo", {}, (False, False, False, False)),
    ],
)
def test_which_responses_a_run_learns_from_is_that_of_its_algorithm_and_section(
    algorithm, changes, expected, tmp_path, monkeypatch
):
    raw = parameters("demo")
    raw["tasks"]["demo"]["train"] |= {"train_on": "all", **changes}
    write(tmp_path, raw)
    monkeypatch.chdir(tmp_path)
    assert training_rows.use(load("demo", algorithm)) == training_rows.Use(*expected)


def test_a_run_that_discards_nothing_says_so(fresh):
    raw = parameters(root=Path())
    raw["tasks"]["toy"]["train"] |= {"filter": "none", "sampling": "uniform"}
    write(Path(), raw)
    run()
    text = Path("metrics/report.html").read_text()
    assert "a_lol discards none: it trains on all of them, whatever their advantage." in text
    assert 'class="tag lost">discarded' not in text and ">kept</span>" not in text


def test_a_run_whose_training_failed_says_so_at_the_top(fresh):
    path = fresh / "models/toy/a_lol/training.json"
    write_json(path, {**json.loads(path.read_text()), "selected": 0})
    line = "Training failed: no checkpoint beat the reference on validation (best 0.500 against 0.300)."
    assert line in run()
    assert f'<p class="failed">{line}' in Path("metrics/report.html").read_text()


@pytest.mark.parametrize("counts", [[0, 7, 2], [5, 5, 5]])
def test_the_highest_bar_is_below_the_frame(monkeypatch, counts):
    tops = []
    monkeypatch.setattr(figures, "svg", lambda figure: tops.append(figure.axes[0].get_ylim()[1]))
    bars, ends = np.array(counts), np.array([0.0, 1.0, 2.0, 3.0])
    figures.advantage(ends, bars, bars, ("above", "below"))
    figures.reward_distribution(ends, {"gold": bars / 20, "policy": bars / 40}, {"gold": 1.0, "policy": 1.0})
    assert tops == pytest.approx([1.06 * 2 * max(counts), 1.06 * max(counts) / 20])
