"""Models that others trained, on a task's test prompts: an adapter on the task's base, or a complete model.

A complete model may have a prompt of its own: a system text, and marks before the turns of each role.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from alol import rewards
from alol.base.errors import InputError
from alol.compute.generate import Decoding
from alol.compute.shards import Pool
from alol.config.params import Params
from alol.data import formats, schema
from alol.data.formats import marks
from alol.evaluation import summary
from alol.models import policies, templates
from alol.training import rollout
from alol.training.validation import scored_rows


@dataclass(frozen=True)
class Checkpoint:
    """Hub ids or folders, with revisions of hub ids; without `model` the adapter goes on the task's base."""

    model: str | None
    revision: str | None
    adapter: str | None
    adapter_revision: str | None
    quantized: bool | None  # None: as the task's base, or not, for another model


@dataclass(frozen=True)
class Template:
    """How the turns of a dialogue become a prompt, which ends with `assistant` less its last blank."""

    system: str
    human: str
    assistant: str


def prompts(rows: list[dict[str, Any]], template: Template) -> list[dict[str, Any]]:
    """The rows with prompts in the template; the oldest turns may be cut. InputError for a row without turns."""
    return [{**row, **_prompt(row, template)} for row in rows]


def _prompt(row: dict[str, Any], template: Template) -> dict[str, Any]:
    if not row["turns"]:
        raise InputError(f"prompt {row['prompt_id']} has no turns, so no template can be applied; use the task's own")
    own = {"human": template.human, "assistant": template.assistant}
    if other := sorted({turn["role"] for turn in row["turns"]} - set(own)):
        raise InputError(f"prompt {row['prompt_id']} has a turn of {other[0]}, for which the template has no mark")
    pieces = ["", template.system, ""]  # every second one is a mark
    for turn in row["turns"]:
        pieces += [own[turn["role"]], turn["text"]]
    pieces.append(template.assistant)
    text, ends = "".join(pieces), marks(pieces)
    offsets = [len(template.system), *ends[4:-2:2]]  # the last turn of all is never cut
    start, length = len(text) - len(text.lstrip()), len(text.strip())
    cuts, places = ([min(max(0, place - start), length) for place in row] for row in (offsets, ends))
    return {"prompt": text.strip(), "cuts": cuts, "marks": places}


def answers(
    checkpoint: Checkpoint,
    template: Template | None,
    params: Params,
    reference: Path,
    clean: Path,
    reward_model: Path,
    main: Accelerator,
) -> list[dict[str, Any]]:
    """Scored rows: the checkpoint's response to each test prompt of `clean`, under the task's own prompts."""
    if checkpoint.model is None and checkpoint.adapter is None:
        raise InputError("name an --adapter (on the task's base) or a complete --model, or both")
    policy = policies.load_checkpoint(reference, **dataclasses.asdict(checkpoint))
    templates.keep(params.policy.template, policy.tokenizer)
    own = rollout.prompt_rows(clean / "test.parquet")
    asked = prompts(own, template) if template is not None else own
    pool = Pool(lambda: rollout.Answerer.of(policy, params, main))
    found = rollout.rollouts(pool, asked, Decoding(params.generate, params.seed, name="test"))
    columns = ("prompt", "cuts", "marks")
    rows = [{**row, **{name: mine.get(name) for name in columns}} for row, mine in zip(found, own, strict=True)]
    return scored_rows(rows, rewards.load(params.test_rewards, reward_model, params.launch))


def summarise(rows: list[dict[str, Any]], annotated: Path, baselines: Path, params: Params) -> dict[str, Any]:
    """The numbers of metrics/summary.json about the test responses, with the checkpoint as the policy."""
    own, answers = (schema.scored(columns, params.rewards) for columns in (schema.RESPONSES, schema.ROLLOUTS))
    tables = {
        "gold": summary.gold_rows(schema.rows(annotated / "test.parquet", own), params),
        "reference": schema.rows(baselines / "test.parquet", answers),
        "policy": rows,
    }
    measured = summary.compared(tables, params, formats.get(params.clean.format))
    return summary.summarise([row["subset"] for row in tables["gold"]], measured, params.aggregate)
