"""Log-probabilities and values do not depend on padding, batch or order, for absolute and rotary positions."""

from __future__ import annotations

import pytest
import torch

from alol.compute.batching import Batch, chunks, pad, positions
from alol.compute.logprob import prompt_states, response_logp
from alol.training.value_head import ValueHead, stack

PROMPTS = [[5, 6, 7, 8, 9, 10, 11], [12, 13], [14, 15, 16], [17]] * 8
RESPONSES = [[20, 21, 1], [22, 23, 24, 25, 26, 1], [27, 1], [28, 29, 30, 31, 1]] * 8


def plain(model, prompt, response):
    """One sequence alone, without padding, all logits: the definition."""
    ids = torch.tensor([prompt + response])
    logits = model(input_ids=ids).logits.float().log_softmax(-1)[0]
    return torch.stack([logits[len(prompt) - 1 + t, token] for t, token in enumerate(response)])


@pytest.mark.parametrize("size", [1, 8, 32])
@torch.no_grad()
def test_log_probability_is_the_same_alone_and_in_any_batch(model, size):
    for start in range(0, 32, size):
        chosen = slice(start, start + size)
        logp = response_logp(model, Batch(PROMPTS[chosen], RESPONSES[chosen], 0, "cpu"))
        for row, prompt, response in zip(logp, PROMPTS[chosen], RESPONSES[chosen], strict=True):
            torch.testing.assert_close(row[: len(response)], plain(model, prompt, response), atol=1e-4, rtol=0)
            assert row[len(response) :].abs().sum() == 0


@torch.no_grad()
def test_log_probability_is_the_same_under_right_padding(model):
    """The same sequences with all padding on the right, through the same model."""
    ids, mask = pad([p + r for p, r in zip(PROMPTS, RESPONSES, strict=True)], 0, left=False)
    logits = model(input_ids=ids, attention_mask=mask, position_ids=positions(mask)).logits.float().log_softmax(-1)
    left = response_logp(model, Batch(PROMPTS, RESPONSES, 0, "cpu"))
    for i, (prompt, response) in enumerate(zip(PROMPTS, RESPONSES, strict=True)):
        right = torch.stack([logits[i, len(prompt) - 1 + t, token] for t, token in enumerate(response)])
        torch.testing.assert_close(left[i, : len(response)], right, atol=1e-4, rtol=0)


@torch.no_grad()
def test_end_of_text_as_padding_does_no_harm(model):
    expected = response_logp(model, Batch(PROMPTS[:4], RESPONSES[:4], 0, "cpu"))
    torch.testing.assert_close(response_logp(model, Batch(PROMPTS[:4], RESPONSES[:4], 1, "cpu")), expected)


def value_of(model, head, prompts):
    batch = Batch(prompts, [[] for _ in prompts], 0, "cpu")
    return head(*stack(prompt_states(model, batch)))


@torch.no_grad()
def test_value_depends_on_neither_padding_nor_order(model):
    torch.manual_seed(0)
    head = ValueHead(64, 8, 0.1, "linear", (0.0, 4.0)).eval()
    alone = torch.cat([value_of(model, head, [prompt]) for prompt in PROMPTS[:8]])
    assert alone[:4].std() > 1e-3
    torch.testing.assert_close(value_of(model, head, PROMPTS[:8]), alone, atol=1e-4, rtol=0)
    backwards = value_of(model, head, PROMPTS[:8][::-1]).flip(0)
    torch.testing.assert_close(backwards, alone, atol=1e-4, rtol=0)
    wide = Batch([*PROMPTS[:8], list(range(5, 45))], [[1]] * 9, 0, "cpu")
    torch.testing.assert_close(head(*stack(prompt_states(model, wide)))[:8], alone, atol=1e-4, rtol=0)


def test_positions_do_not_count_padding():
    assert positions(torch.tensor([[0, 0, 1, 1, 1, 0]])).tolist() == [[0, 0, 0, 1, 2, 2]]


def test_collate_puts_every_response_at_one_column():
    batch = Batch([[7, 8], [9]], [[3], [4, 5]], 0, "cpu")
    assert isinstance(batch, Batch)
    assert batch.input_ids.tolist() == [[7, 8, 3, 0], [0, 9, 4, 5]]
    assert batch.attention_mask.tolist() == [[1, 1, 1, 0], [0, 1, 1, 1]]
    assert batch.response_mask.tolist() == [[1, 0], [1, 1]]
    assert batch.prompt_length == 2


def test_chunks_hold_every_row_once_within_both_budgets():
    lengths = [3, 9, 1, 7, 7, 2, 50]
    parts = chunks(lengths, rows=3, tokens=18)
    assert parts == [[6], [1, 3], [4, 0], [5, 2]]
    assert sorted(i for part in parts for i in part) == list(range(7))
