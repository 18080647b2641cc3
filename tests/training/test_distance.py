"""The log-ratio of policy and reference on the policy's own answers: against both models alone, and what it means."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from accelerate import Accelerator

from alol.compute.batching import Batch
from alol.compute.generate import Decoding
from alol.compute.logprob import response_logp
from alol.compute.shards import Pool
from alol.config import params
from alol.data import schema
from alol.evaluation import summary
from alol.models import policies, trainable
from alol.models.policies import LoadedPolicy, Pointer
from alol.models.tokens import Encoder
from alol.training import distance, rollout
from tests.conftest import tiny_model

ROWS = [
    {"prompt_id": f"p{i}", "prompt": f"User: {text}?\nAssistant:", "cuts": [], "response": response}
    for i, (text, response) in enumerate(
        [("hot", "cold"), ("a capital", "The capital of France is Paris"), ("nothing", "")] * 3
    )
]
IDS = [[5, 9, 17], [30, 31, 32, 33, 34, 2], [7]] * 3


@pytest.fixture
def changed(tokenizer, architecture, tmp_path):
    """A reference's folder, the parameters, and a function: tuning -> a policy that is loaded from its own folder."""
    loaded = params.load("demo")
    pointer = Pointer(base=None, revision=None, fingerprint=None, adapter=None, adapter_revision=None, quantized=False)
    reference = tmp_path / "reference"
    policies.save(LoadedPolicy(tiny_model(architecture, tokenizer), tokenizer, pointer), reference)

    def policy(tuning: str, noise: float) -> LoadedPolicy:
        chosen = dataclasses.replace(
            loaded.policy, tuning=tuning, lora=dataclasses.replace(loaded.policy.lora, r=4, alpha=8)
        )
        made = trainable.prepare(policies.load(reference), chosen, reference, 1)
        generator = torch.Generator().manual_seed(3)
        with torch.no_grad():
            for parameter in made.model.parameters():
                if parameter.requires_grad:
                    parameter += noise * torch.randn(parameter.shape, generator=generator)
        policies.save(made, tmp_path / tuning)
        return policies.load(tmp_path / tuning)

    return reference, loaded, policy


def measured(policy: LoadedPolicy, reference, loaded) -> list[dict]:
    """The log-ratios of `IDS` as answers to `ROWS`."""
    answerer = rollout.Answerer.of(policy, loaded, Accelerator(cpu=True))
    pool = Pool(lambda: distance.Compared(**vars(answerer), reference=reference))
    rows = [{**row, "response_ids": ids} for row, ids in zip(ROWS, IDS, strict=True)]
    return distance.log_ratios(pool, rows, loaded.generate.part_rows)


def test_logged_responses_are_compared_with_what_the_reference_said_of_them(changed, tmp_path):
    reference, loaded, policy = changed
    own = policy("lora", 0.05)
    encoder, model = Encoder(own.tokenizer, loaded.policy), policies.load(reference).model
    rows = []
    for row, response in zip(ROWS, IDS, strict=True):
        batch = Batch(prompts := encoder.prompts([row]), [response], 0, "cpu")
        with torch.no_grad():
            logp = response_logp(model, batch)[0, : len(response)].tolist()
        numbers = dict.fromkeys(("rank", "reward", "raw_reward", "value", "advantage"), 0)
        ids = {"prompt_ids": prompts[0], "response_ids": response, "ref_logp": logp}
        rows.append({"prompt_id": row["prompt_id"], **ids, **numbers})
    schema.write(path := tmp_path / "test.parquet", schema.ADVANTAGES, rows)
    answerer = rollout.Answerer.of(policies.load(tmp_path / "lora"), loaded, Accelerator(cpu=True))
    pool = Pool(lambda: distance.Compared(**vars(answerer), reference=reference))
    found = distance.logged(pool, path, 4)
    for one, other in zip(found, measured(own, reference, loaded), strict=True):
        assert {**one, "log_ratio": None} == {**other, "log_ratio": None}
        assert one["log_ratio"] == pytest.approx(other["log_ratio"], abs=1e-4)
    assert max(abs(one["log_ratio"]) for one in found) > 0.01


@pytest.mark.parametrize("tuning", ["full", "lora"])
def test_log_ratios_are_those_of_both_models_alone(changed, tuning):
    reference, loaded, policy = changed
    own = policy(tuning, 0.05)
    encoder = Encoder(own.tokenizer, loaded.policy)
    alone = policies.load(reference.parent / tuning).model, policies.load(reference).model
    found = measured(own, reference, loaded)
    for row, response, one in zip(ROWS, IDS, found, strict=True):
        batch = Batch(encoder.prompts([row]), [response], 0, "cpu")
        with torch.no_grad():
            mine, theirs = (response_logp(model, batch).sum().item() for model in alone)
        assert (one["prompt_id"], one["tokens"]) == (row["prompt_id"], len(response))
        assert one["log_ratio"] == pytest.approx(mine - theirs, abs=1e-4)
    assert max(abs(one["log_ratio"]) for one in found) > 0.01


@pytest.mark.parametrize("tuning", ["full", "lora"])
def test_the_reference_is_at_no_distance_from_itself(changed, tuning):
    reference, loaded, policy = changed
    found = measured(policy(tuning, 0.0), reference, loaded)
    assert [one["log_ratio"] for one in found] == [0.0] * len(ROWS)


def test_the_tokens_are_those_that_the_policy_chose(changed):
    """Of greedy answers each token is the likeliest, so that log pi of none is below -ln V, whatever the text is."""
    _, loaded, policy = changed
    own = policy("full", 0.0)
    pool = Pool(lambda: rollout.Answerer.of(own, loaded, Accelerator(cpu=True)))
    rows = [{**row, "subset": "a", "turns": [], "context": {}} for row in ROWS[:3]]
    decoding = Decoding(loaded.generate, 1)
    answers = rollout.rollouts_and_ids(pool, rows, decoding)
    ids = [row.pop("response_ids") for row in answers]
    assert all(0 < len(row) <= loaded.generate.max_new_tokens for row in ids)
    assert rollout.rollouts(pool, rows, decoding) == answers
    encoder = Encoder(own.tokenizer, loaded.policy)
    for row, response in zip(answers, ids, strict=True):
        batch = Batch(encoder.prompts([row]), [response], 0, "cpu")
        with torch.no_grad():
            assert response_logp(own.model, batch).min() >= -math.log(len(own.tokenizer))


def test_the_summary_has_the_mean_over_tokens_and_over_subsets():
    found = {"policy": {name: {"reward": 1.0} for name in ("a", "b", "all", "macro")}, "gold": {}}
    rows = [{"log_ratio": value, "tokens": tokens} for value, tokens in ((3.0, 4), (1.0, 4), (-1.0, 2), (0.0, 0))]
    result = summary.with_distance(found, ["a", "a", "b", "b"], rows)["policy"]
    assert {name: values["kl_per_token"] for name, values in result.items()} == {
        "a": 0.5, "b": -0.5, "all": 0.3, "macro": 0.0,
    }  # fmt: skip
    assert all(math.isfinite(values["kl_per_token"]) for values in result.values())
