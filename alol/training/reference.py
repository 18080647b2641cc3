"""The reference policy: a published model as it is, or a model trained with NLL on the data."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import torch
from accelerate import Accelerator
from torch import nn
from transformers import PreTrainedTokenizerBase

from alol.algorithms import sampling
from alol.algorithms.offline import OFFLINE
from alol.base.errors import ParameterError
from alol.base.files import write_json
from alol.base.work import Work
from alol.compute.batching import chunks, share
from alol.compute.launch import Machine, from_main
from alol.compute.logprob import response_logp
from alol.compute.progress import Progress
from alol.config import model_names
from alol.config.params import Params
from alol.config.runs import check_shards, check_warmup
from alol.config.sections import Policy, Run
from alol.data import row_store, schema
from alol.data.row_store import Place
from alol.models import policies, scratch, templates, trainable
from alol.models.policies import LoadedPolicy
from alol.models.tokens import Encoder
from alol.training import loop, planning

PRETRAIN = "reference.pretrain"
BASE = "base"  # folder of a scratch base, in the reference's
IDS = pa.list_(pa.int32())
ENCODED = ["prompt_id", "prompt", "cuts", "turns", "rank", "response", "marks"]  # columns that an Encoder looks at


def make(params: Params, clean: Path, folder: Path | None, accelerator: Accelerator, work: Work | None = None) -> None:
    """Writes the reference policy into `folder` (None: this process only helps to train).

    `clean` holds train.parquet and validation.parquet. `work`: where a run that is killed leaves what it has done, and
    this one goes on.
    """
    policy, settings = params.policy, params.reference
    if settings.train:
        check_shards(params.launch, policy.tuning, settings.optimizer, "reference")
    if policy.model == "scratch" and policy.tuning != "full":
        start = _pretrained(params, clean, folder, accelerator, work)
    else:
        start = _start(policy, clean / "train.parquet", settings.seed)
    templates.keep(policy.template, start.tokenizer)
    policies.check_context(start.model, policy.max_prompt, policy.max_response, "policy.max_response")
    if not settings.train:
        if policy.model == "scratch":
            raise ParameterError("reference.train", "is false, but a scratch policy has to be trained; set it to true")
        if folder is not None:
            policies.save_pointer(start, folder)
        return
    if policy.model != "scratch" or policy.tuning != "full":
        base = start.pointer["base"]
        start = trainable.prepare(start, policy, Path(), settings.seed)
        if policy.tuning != "full":
            start.pointer["base"] = base  # as seen from the folder that is being made
    encoder = policies.encoder(start, policy)
    place = Place(work.folder if work is not None else None, accelerator)
    splits = [
        _examples(_token_ids(clean / f"{split}.parquet", encoder, settings.train_on), start.tokenizer, place)
        for split in (schema.TRAIN, schema.VALIDATION)
    ]
    _fit(
        start, splits, _Section("reference", settings, settings.seed), Machine(accelerator, params.launch), folder, work
    )


@dataclass(frozen=True)
class _Section:
    """The parameters of a run, the name of their section for messages, and the seed of the draws."""

    name: str
    run: Run
    seed: int


def _fit(
    start: LoadedPolicy,
    splits: list[planning.Examples],
    section: _Section,
    machine: Machine,
    folder: Path | None,
    work: Work | None,
) -> None:
    """Trains `start` with NLL on the first of `splits` and saves the checkpoint with the least NLL on the second."""
    settings, where = section.run, section.name
    if machine.launch.recompute:
        trainable.recompute(start.model)
    examples, validation = splits
    length = sampling.run_length(settings.updates, settings.epochs, len(examples), settings.batch_size, 1.0, where)
    check_warmup(settings.optimizer, length, where)
    order = sampling.draws(len(examples), length, settings.batch_size, section.seed)
    plan = planning.Plan(order, sampling.evaluation_points(length, settings.evaluations), discarded=0.0)
    checkpointing = loop.Checkpointing(
        evaluate=lambda: -mean_nll(start.model, validation, machine),
        keep=lambda: policies.save(start, folder),
        bar=float("-inf"),
        progress=Progress(work.of(where) if work is not None else None, machine.accelerator, folder),
    )
    recipe = loop.Recipe(OFFLINE["nll"], {}, settings.optimizer)
    history = loop.fit(start.model, examples, plan, recipe, machine, checkpointing)
    if folder is not None:
        nll = [{"update": entry["update"], "nll": -entry["reward"]} for entry in history.validation]
        write_json(folder / "training.json", {"validation": nll, "curve": history.curve})


def _pretrained(
    params: Params, clean: Path, folder: Path | None, accelerator: Accelerator, work: Work | None
) -> LoadedPolicy:
    """A scratch base for adapters: trained on whole texts, saved to `folder`/base, loaded as the tuning wants it."""
    policy, settings = params.policy, params.reference
    check_shards(params.launch, policy.tuning, settings.pretrain.optimizer, PRETRAIN)
    start = _start(policy, clean / "train.parquet", settings.seed)
    encoder = policies.encoder(start, policy)
    place, context = Place(work.folder if work is not None else None, accelerator), policy.scratch.context
    paths = [clean / f"{split}.parquet" for split in (schema.TRAIN, schema.VALIDATION)]
    texts = [_whole(_token_ids(path, encoder, "all"), start.tokenizer, context) for path in paths]
    splits = [_examples(one, start.tokenizer, place) for one in texts]
    target = folder / BASE if folder is not None else None
    section = _Section(PRETRAIN, settings.pretrain, settings.seed)
    _fit(start, splits, section, Machine(accelerator, params.launch), target, work)
    target = Path(str(from_main(str(target), accelerator)))
    base = policies.base_model(str(target), None, quantized=policy.tuning == "qlora", dropout=policy.dropout)
    return LoadedPolicy(base, start.tokenizer, policies.pointer(policy, f"./{BASE}", None))


def _whole(tables: Iterator[pa.Table], tokenizer: PreTrainedTokenizerBase, context: int) -> Iterator[pa.Table]:
    """Prompt and response as one text after the beginning-of-text token, so that the loss is on all of it."""
    for table in tables:
        pairs = zip(*(table[name].to_pylist() for name in planning.TOKENS), strict=True)
        texts = [(x + y)[: context - 1] for x, y in pairs]
        yield _table([[tokenizer.bos_token_id]] * len(texts), texts)


def _table(prompts: list[list[int]], responses: list[list[int]]) -> pa.Table:
    ids = {name: pa.array(rows, IDS) for name, rows in zip(planning.TOKENS, (prompts, responses), strict=True)}
    return pa.table(ids)


@torch.no_grad()
def mean_nll(model: nn.Module, examples: planning.Examples, machine: Machine) -> float:
    """Mean over responses of -ln pi(y|x), summed over tokens; the processes share the responses."""
    accelerator, launch = machine.accelerator, machine.launch
    lengths = [int(length) for length in examples.lengths]
    mine = share(lengths, accelerator.num_processes, accelerator.process_index)
    total = torch.zeros(1, device=accelerator.device)
    for part in chunks([lengths[i] for i in mine], launch.micro_batch, launch.tokens):
        batch, _ = examples.batch([mine[i] for i in part], (), accelerator.device)
        with accelerator.autocast():
            total -= response_logp(model, batch).sum()
    return accelerator.reduce(total, reduction="sum").item() / len(examples)


def _start(policy: Policy, train_path: Path, seed: int) -> LoadedPolicy:
    """The untrained scratch model, or the published one with its adapter."""
    if policy.model == "scratch":
        tokenizer = scratch.train_tokenizer(_texts(train_path), policy.scratch.vocabulary)
        model = scratch.new_model(policy.scratch, tokenizer, seed)
        return LoadedPolicy(model, tokenizer, policies.pointer(policy, None, None))
    model_names.check_sha256(policy.model, policy.sha256, "policy.sha256")
    if policy.adapter:
        model_names.check_sha256(policy.adapter, policy.adapter_sha256, "policy.adapter_sha256")
    base = policies.base_model(
        policy.model, policy.revision, quantized=policy.tuning == "qlora", dropout=policy.dropout
    )
    named = (policy.tokenizer, policy.tokenizer_revision) if policy.tokenizer else (policy.model, policy.revision)
    tokenizer = policies.tokenizer_of(*named)
    if len(tokenizer) > (size := base.get_input_embeddings().num_embeddings):
        raise ParameterError(
            "policy.tokenizer", f"has {len(tokenizer)} tokens, more than the model's {size}; name its own"
        )
    loaded = LoadedPolicy(base, tokenizer, policies.pointer(policy, policy.model, policy.adapter))
    if policy.adapter:
        loaded.model = policies.with_adapter(base, policy.adapter, policy.adapter_revision, policy.dropout)
    return loaded


def _texts(path: Path) -> Iterator[str]:
    for rows in schema.read(path, ["prompt", "response"]):
        for row in rows:
            yield row["prompt"]
            yield row["response"]


def _token_ids(path: Path, encoder: Encoder, train_on: str) -> Iterator[pa.Table]:
    """Token ids of a split's responses, a batch of the table at a time."""
    yield _table([], [])  # of a split without rows
    for rows in schema.read(path, ENCODED):
        rows = [row for row in rows if train_on == "all" or row["rank"] == 0]
        yield _table(encoder.prompts(rows), encoder.responses([row["response"] for row in rows]))


def _examples(tables: Iterator[pa.Table], tokenizer: PreTrainedTokenizerBase, place: Place) -> planning.Examples:
    return planning.Examples(row_store.keep(tables, place), tokenizer.pad_token_id)
