"""The measurement for a GPU runs at a tiny size, and its figures mean what they say."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
import torch
from click.testing import CliRunner
from transformers import GPT2Config, GPT2LMHeadModel

from benchmarks import gpu, gpu_run, gpu_trl, gpu_xl

SIZES = {
    "layers": 2, "width": 64, "heads": 4, "intermediate": 128, "vocabulary": 512, "prompt": 24, "response": 8,
    "batch": 4, "micro": 2, "updates": 2, "xl-layers": 2, "xl-width": 32, "xl-heads": 4, "xl-vocabulary": 512,
    "xl-batch": 4,
}  # fmt: skip
LENGTHS = SimpleNamespace(prompt=640, response=128)


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    out = tmp_path_factory.mktemp("gpu") / "result.json"
    options = [part for name, value in SIZES.items() for part in (f"--{name}", value)]
    done = CliRunner().invoke(gpu.main, [*options, "--out", str(out)])
    assert done.exit_code == 0, done.output
    text = out.read_text()
    assert done.stdout.endswith(text)
    assert "LLaMA: both in turn" in done.stderr
    return json.loads(text)


def test_the_adapter_trains_and_the_model_generates(found):
    llama = found["llama"]
    # rank 64: 4 attention projections of 64 x (64 + 64), 3 of the feed-forward of 64 x (64 + 128); 2 layers
    assert llama["parameters"] == 2 * (4 * 64 * 128 + 3 * 64 * 192)
    assert llama["abs_log_ratio_of_the_first_update"] < 1e-4
    assert len(llama["losses"]) == llama["training"]["updates"] == 2
    assert all(loss > 0 for loss in llama["losses"])
    assert llama["generation"]["tokens_per_second"] > 0 < llama["making_and_loading"]["seconds"]


def test_both_sides_compute_the_same_before_they_are_timed(found):
    row = found["llama"]["training"]
    assert row["parity"]["passed"]
    assert max(row["parity"]["loss"], row["parity"]["gradient"]) < 1e-5 == row["parity"]["tolerance"]
    assert row["tokens_per_second"] > 0 < row["yardstick_tokens_per_second"]
    assert row["memory_mb"] > 0 < row["yardstick_memory_mb"]


def test_targets_stand_beside_what_was_found(found):
    speed, memory = found["llama"]["speed"], found["llama"]["memory"]
    row = found["llama"]["training"]
    assert (speed["target"], memory["target"]) == (2.5, 0.5)
    assert speed["found"] == row["ratio"]
    assert memory["found"] == pytest.approx(row["memory_mb"] / row["yardstick_memory_mb"], abs=1e-4)
    assert (speed["passed"], memory["passed"]) == (speed["found"] >= 2.5, memory["found"] <= 0.5)


def test_utilisation_is_the_work_over_the_time_and_the_rate(found):
    rate = found["gpt2_xl"]["matrix_operations_per_second"]
    full = found["gpt2_xl"]["float32_weights"]
    work = full["operations"]
    # a layer of width 32 has 32 x (96 + 32) weights of attention and 2 x 32 x 128 of the feed-forward: 12,288; twice
    # that for 2 layers, 6 operations each
    assert work["weights"]["each"] == 147456
    assert work["projection"]["each"] == 98304  # 6 x 512 words x 32
    assert work["attention"]["each"] == 768  # 12 x 2 layers x 32
    done = [part["each"] * part["count"] for part in work.values()]
    assert full["utilisation"]["found"] == pytest.approx(sum(done) / full["seconds"] / rate, abs=1e-4)
    assert full["utilisation_without_attention"] == pytest.approx(sum(done[:2]) / full["seconds"] / rate, abs=1e-4)
    assert full["utilisation"]["target"] == 0.45
    assert full["tokens_per_second"] > 0 < full["peak_memory_mb"]


def test_useful_tokens_are_counted_without_padding():
    rows = {"prompt_ids": [[3, 4], [5, 6, 7]], "response_ids": [[8], [9, 10]]}
    model = GPT2LMHeadModel(GPT2Config(n_layer=1, n_embd=8, n_head=2, vocab_size=16, n_positions=8))
    work = gpu_xl.operations(model, pa.table(rows))
    # 2 and 4 tokens go through the model: 1 + 2 keys in the first row and 1 + 2 + 3 + 4 in the second
    assert {name: part["count"] for name, part in work.items()} == {"weights": 6, "projection": 3, "attention": 13}
    assert gpu_run.useful(pa.table(rows)) == 8


def test_texts_vary_in_length_as_dialogues_do():
    prompts, responses = gpu_run.lengths(gpu_run.texts(512, LENGTHS, 4000))
    assert (np.median(prompts), np.median(responses)) == pytest.approx((160, 50), rel=0.05)
    assert (prompts.max(), responses.max()) == (640, 128)
    assert min(prompts.min(), responses.min()) >= 1


def test_a_pair_shares_its_prompt():
    table = gpu_run.texts(512, LENGTHS, 3, responses=2).to_pydict()
    assert table["prompt_id"] == ["0", "0", "1", "1", "2", "2"]
    assert table["prompt_ids"][::2] == table["prompt_ids"][1::2]
    assert table["response_ids"][::2] != table["response_ids"][1::2]


@pytest.mark.parametrize(("scale", "same"), [(1.0, True), (1.001, False)])
def test_a_gradient_that_differs_does_not_pass(scale, same):
    model = torch.nn.Linear(3, 1)

    def gradients(rows, scale=1.0):
        loss = model(rows).sum() * scale
        loss.backward()
        return loss.item()

    ours = SimpleNamespace(model=model, gradients=lambda rows: {"loss": gradients(rows)})
    result = gpu_run.parity(ours, torch.ones(2, 3), lambda rows: gradients(rows, scale))
    assert result["passed"] is same
    assert result["gradient"] == pytest.approx(1 - 1 / scale, abs=1e-6)


def test_trl_is_compared_with_where_it_is_installed(found):
    if not gpu_trl.has_trl():
        assert found["trl"] == "not installed"
        return
    best = found["trl"]["best"]
    assert best["parity"]["passed"]
    assert best["seconds_per_sequence"] > 0 < best["yardstick_seconds_per_sequence"]


def test_a_part_that_fails_takes_no_other_with_it(tmp_path, monkeypatch):
    def fails(run):
        raise RuntimeError("too large")

    for name, part in (("llama", fails), ("gpt2_xl", lambda run: {"done": 1}), ("against_trl", lambda run: "not here")):
        monkeypatch.setattr(gpu, name, part)
    out = tmp_path / "result.json"
    done = CliRunner().invoke(gpu.main, ["--vocabulary", "512", "--out", str(out)])
    assert done.exit_code == 1
    assert done.stderr.endswith("Error: llama failed, see above\n")
    found = json.loads(out.read_text())
    assert (found["llama"], found["gpt2_xl"], found["trl"]) == (
        {"failed": "RuntimeError: too large"}, {"done": 1}, "not here"
    )  # fmt: skip
