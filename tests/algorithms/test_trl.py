"""Losses from tokens on against TRL 1.16: its own as literals, and live where it is installed."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from alol.algorithms import registry
from alol.compute.batching import Batch
from alol.compute.logprob import response_logp
from tests.conftest import tiny_model

PROMPTS = [[5, 6, 7, 8], [9, 10], [11, 12, 13]]
CHOSEN = [[20, 21, 22, 1], [23, 24, 1], [25, 26, 27, 28, 29, 1]]
REJECTED = [[30, 31, 1], [32, 33, 34, 35, 1], [36, 1]]
KTO = {"desirable": 1.0, "undesirable": 1.5}
# An algorithm, its options, and the mean loss that TRL's trainers have on this batch in fp32, with a live reference.
# orpo: TRL adds the likelihood of the prompt too, the paper and we that of the response; the odds ratio is TRL's.
TRL: list[tuple[str, dict[str, float], float]] = [
    ("dpo", {"beta": 0.1}, 0.60671288),
    ("dpo", {"beta": 0.5}, 0.56892931),
    ("ipo", {"beta": 0.1}, 19.3134689),
    ("ipo", {"beta": 0.5}, 0.81298971),
    ("simpo", {"beta": 2.0, "gamma": 1.0}, 0.69953519),
    ("orpo", {"odds_weight": 0.1}, 6.0517583),
    ("kto_zero", {"beta": 0.1, **KTO}, 0.59249932),
]
NAMES = [f"{name}-{options}" for name, options, _ in TRL]


@torch.no_grad()
def ours(name: str, options: dict[str, float], policy, reference) -> torch.Tensor:
    """The mean loss, as alol.training.loop computes it: chosen and rejected side by side in a group, or alone."""
    algorithm = registry.FROM_DATA[name]
    prompts = [prompt for prompt in PROMPTS for _ in range(2)]
    responses = [response for pair in zip(CHOSEN, REJECTED, strict=True) for response in pair]
    batch = Batch(prompts, responses, 0, "cpu")
    known = {"ref_logp": response_logp(reference, batch), "advantage": torch.tensor([1.0, -1.0] * 3)}
    tensors = {"logp": response_logp(policy, batch), "mask": batch.response_mask}
    tensors |= {column: known[column] for column in algorithm.columns}
    if algorithm.group:
        tensors = {key: x.view(3, 2, -1) for key, x in tensors.items()}
    return algorithm.loss(**tensors, **options).mean()


@pytest.fixture
def models(tokenizer):
    return tiny_model("llama", tokenizer, seed=0), tiny_model("llama", tokenizer, seed=1)


@pytest.mark.parametrize(("name", "options", "loss"), TRL, ids=NAMES)
def test_the_loss_is_trls(models, name, options, loss):
    torch.testing.assert_close(ours(name, options, *models), torch.tensor(loss), rtol=1e-5, atol=0)


@pytest.mark.parametrize(("name", "options", "_"), TRL, ids=NAMES)
def test_the_loss_is_that_of_an_installed_trl(models, tokenizer, tmp_path, name, options, _):
    pytest.importorskip("trl", reason="TRL is not installed: `pip install 'trl==1.16.*'` compares with it live")
    policy, reference = models
    expected = ours(name, options, policy, reference)  # before a trainer has the models
    inputs = padded()
    live = {"dpo": by_dpo, "ipo": by_dpo, "kto_zero": by_kto, "simpo": by_cpo, "orpo": by_orpo}[name]
    with torch.no_grad():
        loss = live(name, options, models, inputs, {"processing_class": tokenizer}, tmp_path)
    torch.testing.assert_close(expected, loss, rtol=1e-5, atol=0)


def padded() -> dict[str, torch.Tensor]:
    """The batch as TRL's collators make it: all chosen ones, then all rejected ones."""
    pairs = list(zip(PROMPTS * 2, CHOSEN + REJECTED, strict=True))
    width = max(len(x) + len(y) for x, y in pairs)
    rest = [width - len(x) - len(y) for x, y in pairs]
    columns = {
        "input_ids": [x + y + [0] * n for (x, y), n in zip(pairs, rest, strict=True)],
        "attention_mask": [[1] * len(x + y) + [0] * n for (x, y), n in zip(pairs, rest, strict=True)],
        "completion_mask": [[0] * len(x) + [1] * len(y) + [0] * n for (x, y), n in zip(pairs, rest, strict=True)],
    }
    return {name: torch.tensor(rows) for name, rows in columns.items()}


def arguments(folder) -> dict[str, Any]:
    return {"output_dir": str(folder), "bf16": False, "gradient_checkpointing": False, "report_to": [], "use_cpu": True}


def by_dpo(name, options, models, inputs, more, folder):
    import trl
    from datasets import Dataset

    kind = {"dpo": "sigmoid", "ipo": "ipo"}[name]
    config = trl.DPOConfig(**arguments(folder), loss_type=kind, beta=options["beta"])
    texts = Dataset.from_list([{"prompt": "name the", "chosen": "opposite", "rejected": "hot"}])
    trainer = trl.DPOTrainer(models[0], models[1], args=config, train_dataset=texts, **more)
    return trainer.compute_loss(models[0].eval(), inputs)


def by_kto(name, options, models, inputs, more, folder):
    import trl
    from datasets import Dataset

    weights = {f"{side}_weight": options[side] for side in KTO}
    config = trl.KTOConfig(**arguments(folder), loss_type="apo_zero_unpaired", beta=options["beta"], **weights)
    texts = Dataset.from_list([{"prompt": "name the", "completion": "opposite", "label": True}])
    trainer = trl.KTOTrainer(models[0], models[1], args=config, train_dataset=texts, **more)
    labels = torch.tensor([True] * 3 + [False] * 3)
    return trainer.compute_loss(models[0].eval(), {**inputs, "label": labels})


def means(trainer, policy, inputs) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean log-probabilities of the chosen and the rejected responses, as a trainer's own function has them."""
    logits = policy.eval()(inputs["input_ids"], attention_mask=inputs["attention_mask"]).logits
    labels = inputs["input_ids"].masked_fill(inputs["completion_mask"] == 0, -100)
    return trainer.get_batch_logps(logits, labels, average_log_prob=True).chunk(2)


def by_cpo(name, options, models, inputs, more, folder):
    from trl.experimental.cpo import CPOTrainer

    own = {"loss_type": "simpo", "alpha": 0.0, "label_smoothing": 0.0, "beta": options["beta"]}
    own |= {"simpo_gamma": options["gamma"], "accelerator": SimpleNamespace(device="cpu")}
    losses, *_ = CPOTrainer.cpo_loss(SimpleNamespace(**own), *means(CPOTrainer, models[0], inputs))
    return losses.mean()


def by_orpo(name, options, models, inputs, more, folder):
    from trl.experimental.orpo import ORPOTrainer

    chosen, rejected = means(ORPOTrainer, models[0], inputs)
    own = SimpleNamespace(beta=options["odds_weight"], accelerator=SimpleNamespace(device="cpu"))
    odds, *_ = ORPOTrainer.odds_ratio_loss(own, chosen, rejected)
    return -chosen.mean() - odds.mean()
