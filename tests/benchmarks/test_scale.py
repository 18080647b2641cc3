"""The arithmetic of large runs, against numbers worked out by hand."""

from __future__ import annotations

import dataclasses

import pytest
from click.testing import CliRunner

from benchmarks import scale
from tests.small import ROOT

# LLaMA-7B on the card that was measured: an update goes through 3,269 tokens a second, an answer through 123.
CASE = dataclasses.replace(
    scale.DEFAULT, rows=3269, tokens=10, response=4, parameters=6.74e9, layers=32, width=4096, kept=0.5, epochs=3,
    reference_epochs=2, reward_parameters=1e9, prompts=123, evaluations=5, pass_tokens=1536, cards=1, price=3600,
)  # fmt: skip
SCORING = 2 * 1e9 * 10 / 289.744e12  # seconds of a row: 0.364 of 796e12 operations a second


def test_seconds_and_bytes_of_each_stage():
    found = {one.name: one for one in scale.stages(CASE)}
    seconds = {name: one.seconds for name, one in found.items()}
    assert seconds == pytest.approx(
        {
            "annotate": 3269 * SCORING,
            "reference": 20,  # 2 epochs of 32,690 tokens
            "rollout": 8,  # 246 prompts, 4 tokens each
            "baseline": 246 * SCORING,
            "value": 738 / 6538,  # 123 prompts of 6 tokens; reading takes half of an update's 4 operations
            "advantage": 8,  # 16 tokens a row, with the prompt's 6 once more
            "train": 15,  # 3 epochs of half of the rows
            "validations of train": 5 * (4 + 123 * SCORING),
            "evaluate": 4 + 123 * SCORING,
        }
    )
    assert found["annotate"].written == 3269 * 10 * 4
    assert found["advantage"].written == 3269 * (40 + 16 + 20)  # ids, the reference's log-probabilities, five numbers
    assert found["train"].written == 3269 / 2 * (40 + 16)
    assert found["advantage"].held == 3_791_250_000  # 4.5 bits a weight
    assert found["train"].held == pytest.approx(12.8 * 2**30)  # as measured
    assert found["baseline"].held == 2e9


def test_all_weights_take_six_operations_and_sixteen_bytes():
    case = dataclasses.replace(CASE, tuning="full", parameters=1e9)
    train = next(one for one in scale.stages(case) if one.name == "train")
    assert train.seconds == pytest.approx(6e9 * 3 * 16345 / 289.744e12)
    assert train.held == 16e9


def printed(*options: str) -> str:
    done = CliRunner().invoke(scale.main, options)
    assert done.exit_code == 0, done.output
    return done.output


def test_what_does_not_fit_is_named_with_the_cards_that_it_needs():
    """70e9 x 16 bytes on cards of 80 GB, of which 64 are used: 17.5."""
    lines = printed("--tuning", "full").splitlines()
    assert any("reference" in line and line.endswith("| 1,120 | **no** |") for line in lines)
    assert any("sharded (FSDP2) over 18 cards at least" in line for line in lines)
    assert "**no**" not in printed()
    assert "train; the update's activations come beside it" in printed("--parameters", "120e9")
    assert CliRunner().invoke(scale.main, ["--tokens", "5"]).exit_code == 2


def test_the_page_shows_what_the_command_prints():
    page = (ROOT / "docs/scale.md").read_text(encoding="utf-8")
    assert printed() in page
    for line in printed("--tuning", "full").splitlines()[2:]:
        if "**no**" in line or line.startswith("- All weights"):
            assert line in page
