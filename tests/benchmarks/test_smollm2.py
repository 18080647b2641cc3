"""The measurement on SmolLM2 runs on a tiny model of its architecture, and both sides compute the same."""

from __future__ import annotations

import pyarrow as pa
import pytest
import torch
from accelerate.state import AcceleratorState
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks import __main__ as benchmarks
from benchmarks import gpu_run, gpu_trl, measure, smollm2, smollm2_model, smollm2_reading, smollm2_trl
from benchmarks.size import FULL, TINY

needs_trl = pytest.mark.skipif(not gpu_trl.has_trl(), reason="trl is not installed")


@pytest.fixture(autouse=True)
def own_precision():
    """The process-wide precision is put back."""
    yield
    AcceleratorState._reset_state(True)


def alone(part, *arguments):
    return smollm2.alone(part, TINY, *arguments)


def is_measured(row, parity):
    assert 0 < row["low"] <= row["ratio"] <= row["high"]
    assert row["tokens_per_second"] > 0 < row["yardstick_tokens_per_second"]
    assert row["parity"].keys() == parity.keys()
    for name, limit in parity.items():
        assert 0 <= row["parity"][name] <= limit, name


def test_an_update_is_that_of_the_plain_method():
    row, share = alone(smollm2.against_plain, "fp32")
    is_measured(row, {"loss": 1e-5, "gradient": 1e-5})
    assert row["asked"] == 4
    assert 0 < share["found"] < 1
    assert share["lowest_and_highest"][0] <= share["found"] <= share["lowest_and_highest"][1]


def test_in_bf16_it_is_that_of_the_plain_method_but_for_rounding():
    row, beside, _ = alone(smollm2.against_plain, "bf16")
    off = {"gradient_off_fp32": 1e-1, "their_gradient_off_fp32": 1e-1, "loss_off_fp32": 2e-2}
    is_measured(row, {"loss": 2e-2, "gradient": 1e-1, **off, "their_loss_off_fp32": 2e-2})
    assert row["parity"]["gradient_off_fp32"] > 1e-4  # it was computed in 16 bits
    assert beside["yardstick"] == "the same in fp32"
    assert 0 < beside["low"] <= beside["ratio"] <= beside["high"]


def test_in_bf16_ours_must_be_as_near_to_fp32_as_theirs(monkeypatch):
    monkeypatch.setattr(smollm2, "ROUNDING", 0.01)
    with pytest.raises(measure.ParityError, match=r"away from that in fp32 and theirs 0\.\d+, more than 0\.01 times"):
        alone(smollm2.against_plain, "bf16")


@needs_trl
@pytest.mark.parametrize("algorithm", ["nll", "dpo"])
def test_an_update_is_that_of_trl(algorithm):
    (row,) = alone(smollm2_trl.against_trl, "fp32", algorithm)
    is_measured(row, {"loss": 1e-5, "gradient": 1e-5})


def test_scores_likelihoods_and_responses_are_the_librarys():
    is_measured(alone(smollm2_reading.scoring)[0], {"score": 1e-6})
    is_measured(alone(smollm2_reading.likelihood)[0], {"mean": 1e-5})
    (row,) = alone(smollm2_reading.generation)
    is_measured(row, {"equal": 1, "gap": 0})
    assert row["parity"]["equal"] == 1


def test_sides_that_differ_are_not_timed(monkeypatch):
    apply = gpu_run.Ours.gradients
    monkeypatch.setattr(gpu_run.Ours, "gradients", lambda self, rows: {"loss": apply(self, rows)["loss"] * 1.001})
    with pytest.raises(measure.ParityError, match=r"the loss differs by 0\.001, more than 0\.0001"):
        alone(smollm2.against_plain, "fp32")


def test_the_threads_are_as_before():
    before = torch.get_num_threads()
    assert smollm2.alone(lambda size: torch.get_num_threads(), TINY) == 1
    assert torch.get_num_threads() == before


def test_operations_are_those_that_useful_tokens_need():
    config = LlamaConfig(
        vocab_size=10, hidden_size=4, intermediate_size=6, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, tie_word_embeddings=True,
    )  # fmt: skip
    lora = LoraConfig(task_type="CAUSAL_LM", r=1, target_modules="all-linear")
    model = get_peft_model(LlamaForCausalLM(config), lora)
    table = pa.table({"prompt_ids": [[1, 2], [3, 4, 5]], "response_ids": [[6], [7, 8]]})
    # 2 and 4 tokens go through the model, of which 1 and 2 predict; keys: 1 + 2 and 1 + 2 + 3 + 4
    found = smollm2.operations(model, table)
    # a layer's attention has 4x4 + 2x4 + 2x4 + 4x4 = 48 weights, its network 3 x 24 = 72
    assert found["base"] == 4 * (6 * (2 * 48 + 72) + 3 * 72)
    # adapters of rank 1: 8 + 6 + 6 + 8 = 28 and 3 x 10 = 30
    assert found["adapter"] == 6 * (6 * (2 * 28 + 30) + 3 * 30)
    assert found["projection"] == 4 * 10 * 4 * 3
    assert found["attention"] == 12 * 2 * 4 * 13


def test_padding_is_what_the_longest_leaves():
    table = pa.table({"prompt_ids": [[0] * 2, [0] * 4, [0]], "response_ids": [[0] * 3, [0], [0]]})
    # of the first two: 2 x (4 + 3) or 2 x 5 places, of the third 2; 12 tokens
    assert smollm2.padding(table, 2, apart=True) == 0.25
    assert smollm2.padding(table, 2, apart=False) == 0.0


def test_batches_by_length_begin_with_the_longest_and_keep_pairs_together():
    table = smollm2_model.examples(TINY, 5, 2, by_length=True).to_pydict()
    lengths = [len(x) + len(y) for x, y in zip(table["prompt_ids"], table["response_ids"], strict=True)]
    longest = [max(pair) for pair in zip(lengths[::2], lengths[1::2], strict=True)]
    assert longest == sorted(longest, reverse=True)
    assert table["prompt_ids"][::2] == table["prompt_ids"][1::2]
    assert table["rank"] == [0, 1] * 5


def test_without_the_packages_one_line_says_so(monkeypatch):
    monkeypatch.setattr(smollm2, "PACKAGES", ("json", "no_such_package"))
    expected = [{"name": "smollm2", "skipped": "not installed: no_such_package; `make models` does"}]
    assert list(benchmarks.rows("smollm2", FULL)) == expected
    assert list(benchmarks.rows("smollm2-reading", FULL)) == expected


@pytest.mark.slow
def test_parts_run_in_processes_of_their_own():
    names = [row["name"] for row in benchmarks.rows("smollm2-reading", TINY)]
    assert names == ["smollm2, scoring by MiniLM", "smollm2, likelihood", "smollm2, generation, 6 prompts"]


def test_what_is_asked_stands_beside_what_was_found():
    found = measure.ratio([1.0, 1.0, 1.0], [2.0, 3.0, 4.0], parts=3)
    row = measure.row("it", "that", found, asked=2.5, tokens_per_second=9, yardstick_tokens_per_second=3,
                      padding=0.25, parity={"loss": 1e-6})  # fmt: skip
    machine = {"processor": "x", "cores": 1, "threads": 1, "torch": "2", "transformers": "5"}
    assert "| it | that | **3.00** (2.00 to 4.00) | 2.5 | 9 : 3 | 25% | loss 1e-06 |" in benchmarks.table(
        [row], machine
    )
