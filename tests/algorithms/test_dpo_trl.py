"""DPO from tokens to loss against TRL 1.16: its own loss as literals, and live where it is installed."""

from __future__ import annotations

import pytest
import torch

from alol.algorithms.pairs import dpo
from alol.compute.batching import Batch
from alol.compute.logprob import response_logp
from tests.conftest import tiny_model

PROMPTS = [[5, 6, 7, 8], [9, 10], [11, 12, 13]]
CHOSEN = [[20, 21, 22, 1], [23, 24, 1], [25, 26, 27, 28, 29, 1]]
REJECTED = [[30, 31, 1], [32, 33, 34, 35, 1], [36, 1]]
# TRL 1.16's DPOTrainer (loss_type sigmoid, fp32, a live reference) on this batch: the mean loss by beta
TRL = {0.1: 0.60671288, 0.5: 0.56892931}


@torch.no_grad()
def ours(policy, reference, beta: float) -> torch.Tensor:
    """The mean loss, as alol.training.loop computes it: chosen and rejected side by side."""
    prompts = [prompt for prompt in PROMPTS for _ in range(2)]
    responses = [response for pair in zip(CHOSEN, REJECTED, strict=True) for response in pair]
    batch = Batch(prompts, responses, 0, "cpu")
    logp, ref_logp, mask = (
        x.view(3, 2, -1) for x in (response_logp(policy, batch), response_logp(reference, batch), batch.response_mask)
    )
    return dpo(logp=logp, mask=mask, ref_logp=ref_logp, beta=beta).mean()


@pytest.fixture
def models(tokenizer):
    return tiny_model("llama", tokenizer, seed=0), tiny_model("llama", tokenizer, seed=1)


@pytest.mark.parametrize("beta", TRL)
def test_the_loss_is_trls(models, beta):
    torch.testing.assert_close(ours(*models, beta), torch.tensor(TRL[beta]), rtol=1e-5, atol=0)


@pytest.mark.parametrize("beta", TRL)
def test_the_loss_is_that_of_an_installed_trl(models, tokenizer, tmp_path, beta):
    trl = pytest.importorskip("trl", reason="TRL is not installed: `pip install 'trl==1.16.*'` compares with it live")
    from datasets import Dataset

    policy, reference = models
    expected = ours(policy, reference, beta)
    config = trl.DPOConfig(
        output_dir=str(tmp_path), beta=beta, bf16=False, gradient_checkpointing=False, report_to=[], use_cpu=True
    )
    texts = Dataset.from_list([{"prompt": "name the", "chosen": "opposite", "rejected": "hot"}])
    trainer = trl.DPOTrainer(policy, reference, args=config, train_dataset=texts, processing_class=tokenizer)
    batch = Batch(PROMPTS * 2, CHOSEN + REJECTED, 0, "cpu")
    ids = [x + y for x, y in zip(PROMPTS * 2, CHOSEN + REJECTED, strict=True)]
    width = max(map(len, ids))
    inputs = {
        "input_ids": torch.tensor([row + [0] * (width - len(row)) for row in ids]),
        "attention_mask": torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in ids]),
        "completion_mask": torch.tensor(
            [[0] * len(x) + [1] * len(y) + [0] * (width - len(x) - len(y))
             for x, y in zip(PROMPTS * 2, CHOSEN + REJECTED, strict=True)]
        ),
    }  # fmt: skip
    assert batch.response_mask.sum() == inputs["completion_mask"].sum()
    with torch.no_grad():
        loss = trainer.compute_loss(policy.eval(), inputs)
    torch.testing.assert_close(expected, loss, rtol=1e-5, atol=0)
