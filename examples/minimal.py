"""A-LoL from top to bottom on one screen, built from the project's own parts: python -m examples.minimal

The pipeline does the same in twelve cached stages that survive kills, for any data, reward and model. Here everything
is small: 500 made-up questions with three answers of mixed quality each, and a policy of 0.15 million weights. It takes
about half a minute and ends with a test reward of about 0.98 for the reference and 1.20 for the policy. A test
holds the numbers to those of the stages. Paper: arXiv 2305.14718.
"""

import tempfile
from pathlib import Path

import pyarrow as pa
import torch

from alol import rewards
from alol.algorithms import sampling
from alol.algorithms.offline import a_lol
from alol.compute import launch
from alol.compute.generate import Decoding, generate
from alol.compute.logprob import response_logp
from alol.config import params, yaml_files
from alol.data import clean, download, schema
from alol.models import policies
from alol.rewards import training
from alol.training import advantage, loop, reference, value
from alol.training.planning import Examples
from alol.training.validation import scored_rows, success

ROOT = Path(__file__).parents[1]
CORPUS = {"train_prompts": 500, "validation_prompts": 100, "test_prompts": 100, "responses": 3}
NOISE = {"seed": 13, "labels": 1, "label_noise": 0.0, "preference_noise": 0.7}
SIZES = {"layers": 2, "width": 64, "heads": 4, "context": 128, "vocabulary": 600, "init_scale": 4.0}
TASK = {  # what a file of tasks/ holds
    "source": {"corpus": {"kind": "demo", "options": CORPUS | NOISE}},
    "clean": {"format": "demo"},
    "rewards": {
        "concise": {"kind": "python", "function": "custom.example.concise", "low": -1.0, "high": 0.0},
        "informative": {"kind": "tfidf"},
    },
    "test_rewards": {},
    "reward": {"shift": 1.0, "weights": {"concise": 1.0, "informative": 0.5}},
    "policy": {"max_prompt": 64, "max_response": 64, "scratch": SIZES},
    "reference": {"train_on": "all", "epochs": 2, "evaluations": 2, "optimizer": {"lr": 6.0e-3, "warmup": 10}},
    "generate": {"max_new_tokens": 48, "part_rows": 100},
    "value": {"heads": 4, "lr": 1.0e-3, "epochs": 8, "folds": 3, "part_rows": 2000},
    "train": {"train_on": "all", "epochs": 1, "evaluations": 2, "optimizer": {"lr": 2.0e-3, "schedule": "linear"}},
    "aggregate": {},
}


def main(folder: Path) -> dict[str, float]:
    # Parameters: the task over what all tasks share
    raw, defaults = yaml_files.read_params(ROOT), yaml_files.read_defaults(ROOT)
    p = params.merged({**raw, "seed": 1}, defaults, TASK, "minimal", "a_lol")
    machine = launch.Machine(launch.accelerator(p.launch), p.launch)

    # Data: prompts and logged responses, in three splits
    download.fetch(p.task, p.source, folder / "raw", folder / "downloads")
    clean.clean(p.task, p.clean, folder / "raw", folder / "clean")
    train, validation, test = (schema.rows(folder / f"clean/{split}.parquet") for split in schema.SPLITS)
    validation, test = ([row for row in rows if row["rank"] == 0] for rows in (validation, test))

    # Reward: R(x, y) of any text y
    training.train(p.rewards, folder / "clean", folder / "rewards", p.launch)
    components = rewards.load(p.rewards, folder / "rewards", p.launch)

    def score(rows: list[dict], texts: list[str]) -> tuple[list[dict], float]:
        rows = scored_rows([{**row, "response": text} for row, text in zip(rows, texts, strict=True)], components)
        return rows, success(rows, "reward", p.reward)

    # Reference policy: supervised learning (NLL) on the logged responses
    reference.make(p, folder / "clean", folder / "reference", machine.accelerator)
    policy = policies.load(folder / "reference")
    model, encoder, pad_id = policy.model, policies.encoder(policy, p.policy), policy.tokenizer.pad_token_id

    def answers(rows: list[dict]) -> list[str]:
        decoding = Decoding(p.generate, p.seed, encoder.ends)
        return [text for text, _ in generate(model.eval(), policy.tokenizer, encoder.prompts(rows), decoding, machine)]

    # Value: a head on the reference's hidden states learns the reward that the reference earns on a prompt x
    asked, bar = score(validation, answers(validation))
    states = value.collect_states(model, encoder.prompts(validation), pad_id, machine, p.value.part_rows)
    bounds = rewards.bounds(p.rewards, p.reward.weights, p.reward.shift)
    fitted = value.fit(states, value.total_rewards(asked, p), p.value, bounds, [row["prompt_id"] for row in asked])
    print(f"the reference earns {bar:.4f} on the validation prompts")
    print(f"V(x) has a mean squared error of {fitted.mse:.4f} on unseen prompts, a constant {fitted.mse_constant:.4f}")

    # Advantage: A = R - V(x) of each logged response, beside the reference's log-probabilities of its tokens
    logged, _ = score(train, [row["response"] for row in train])
    table = advantage.advantages(model, fitted.head, encoder, logged, p.reward, machine)
    kept = [row for row in table if row["advantage"] > 0]  # the leftover lunch: all that is trained on
    discarded = 1 - len(kept) / len(table)
    print(f"{discarded:.1%} of {len(table)} logged responses are discarded: no better than the reference would do")

    # Training: responses drawn in proportion to A, weighted by A and the clipped importance ratio pi / pi_ref
    reference_score = score(test, answers(test))[1]
    examples, settings = Examples(pa.Table.from_pylist(kept, schema.ADVANTAGES), pad_id), p.train
    updates = sampling.run_length(None, settings.epochs, len(table), settings.batch_size, 1 - discarded, "train")
    draws = sampling.draws(len(kept), updates, settings.batch_size, p.seed, examples.column("advantage"))
    optimizer = loop.make_optimizer(model.requires_grad_(True), settings.optimizer)
    schedule = loop.make_schedule(optimizer, settings.optimizer, updates)
    best, weights, losses = bar, None, []  # the reference's own score is the bar that a checkpoint has to beat
    for update, rows in enumerate(draws.tolist(), start=1):
        rows = sorted(rows, key=lambda i: -examples.lengths[i])
        batch, columns = examples.batch(rows, ("ref_logp", "advantage"), machine.device)
        logp = response_logp(model.train(), batch)  # [B, T]
        loss = a_lol(logp=logp, mask=batch.response_mask, **columns, **p.hyperparameters).mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), settings.optimizer.clip_norm)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        # Validation: the checkpoint whose answers to the validation prompts earn most is the policy
        if update in sampling.evaluation_points(updates, settings.evaluations):
            _, earned = score(validation, answers(validation))
            print(f"update {update} of {updates}: loss {loss:.3f}, validation reward {earned:.4f}, to beat: {best:.4f}")
            if earned > best + loop.BestCheckpoint.MARGIN or (weights is None and update == updates):
                best, weights = earned, {name: weight.clone() for name, weight in model.state_dict().items()}
    model.load_state_dict(weights)

    # Test: the policy against the reference, and against the logged responses that a person preferred
    gold, policy_score = score(test, [row["response"] for row in test])[1], score(test, answers(test))[1]
    print(f"test reward: logged {gold:.4f}, reference {reference_score:.4f}, policy {policy_score:.4f}")
    return {
        "value_mse": fitted.mse, "value_mse_constant": fitted.mse_constant, "discarded": discarded, "losses": losses,
        "gold": gold, "reference": reference_score, "policy": policy_score,
    }  # fmt: skip


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        main(Path(scratch))
