"""README.md of an exported policy: what it was made from and how, what it scored, and what is not known of it."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from alol.base.files import read_json
from alol.base.text import show
from alol.config import model_names, params, paths
from alol.data import schema
from alol.evaluation import summary, summary_tables
from alol.evaluation.comparison import table
from alol.evaluation.exporting import CHECKED, Exported
from alol.models.policies import Pointer

TEMPLATE = Path(__file__).with_name("model_card.md.j2")
FOUR_BIT = ', quantization_config=BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4")'
KEPT = ("launch", "task", "algorithm")


def render(
    p: params.Params, run: str, pointer: Pointer, exported: Exported, numbers: Mapping[str, Any], dtype: str
) -> str:
    """The card as Markdown; `numbers` are those of `summary.summarise`."""
    from jinja2 import Environment

    template = Environment(keep_trailing_newline=True, autoescape=False).from_string(
        TEMPLATE.read_text(encoding="utf-8")
    )
    name, licence = _base(p, pointer)
    used = settings(p, run)
    on_hub = bool(name) and model_names.find(p.policy.model)[0] is None
    trained, all_ = run != "reference", summary.ALL
    return template.render(
        task=p.task, algorithm=run, title=f"{p.task}: {run}", exported=exported, dtype=dtype,
        checked=CHECKED, base=name if on_hub else None, licence=licence if licence and " " not in licence else None,
        four_bit=FOUR_BIT if pointer["quantized"] and exported.base else "",
        data=_data(p), table=table(_cells(numbers, trained)), subsets=len(summary_tables.split_names(numbers)) > 1,
        delta=show(numbers["delta"][all_]["reward"]),
        p_value=numbers["delta"][all_]["p_value"] if trained else None,
        discarded=_discarded(p, run), licence_line=_licence_line(name, licence), seed=p.seed,
        max_prompt=p.policy.max_prompt, max_response=p.policy.max_response, settings=_yaml(used),
    )  # fmt: skip


def settings(p: params.Params, run: str) -> dict[str, Any]:
    """Every parameter, as its stage was run with it where that was kept; without paths of the machine."""
    found = {name: value for name, value in params.plain(vars(p)).items() if name not in KEPT}
    folders = [paths.annotated(p.task), paths.reference(p.task), paths.value(p.task)]
    for folder in [*folders, *([paths.policy(p.task, run)] if run != "reference" else [])]:
        found |= read_json(folder / params.SETTINGS, dict[str, Any])
    if run == "reference":  # which no algorithm was applied to
        found = {name: value for name, value in found.items() if name not in ("hyperparameters", "train", "seed")}
    return _without_paths({"task": p.task, **found, "algorithm": run})


def _without_paths(value: Any) -> Any:
    """Absolute paths keep their last part."""
    if isinstance(value, dict):
        return {key: _without_paths(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_without_paths(one) for one in value]
    if isinstance(value, str) and (value.startswith(("/", "~", "file:")) and len(value) > 1):
        return f".../{Path(value).name}"
    return value


def _yaml(value: dict[str, Any]) -> str:
    from ruamel.yaml import YAML

    text = io.StringIO()
    writer = YAML()
    writer.width = 4096
    writer.dump(value, text)
    return text.getvalue()


def _data(p: params.Params) -> list[str]:
    lines = []
    for name, source in p.source.items():
        place = _without_paths(source.location) or "the built-in corpus"
        more = [f"revision {source.revision}"] if source.revision else []
        more += [f"sha256 `{source.sha256}`"] if source.sha256 else []
        more += [f"to be had at {source.origin}"] if source.origin else []
        lines.append(f"`{name}` ({source.kind}): {', '.join([place, *more])}")
    lines.append(f"read as `{p.clean.format}`")
    for split in schema.SPLITS:
        ranks = [
            row["rank"] for group in schema.read(paths.clean(p.task) / f"{split}.parquet", ["rank"]) for row in group
        ]
        lines.append(f"{split}: {sum(rank == 0 for rank in ranks):,} prompts, {len(ranks):,} responses")
    return lines


def _cells(numbers: Mapping[str, Any], trained: bool) -> list[list[str]]:
    names = summary_tables.ordered(list(numbers["policy"][summary.ALL]))
    names = [name for name in names if name not in ("reward_low", "reward_high")]
    lines = [["prompts", "responses of", "reward [95 %]", *(name.removeprefix("reward_") for name in names[1:])]]
    for split in summary_tables.split_names(numbers):
        for model in summary.MODELS if trained else summary.MODELS[:2]:
            values = numbers[model][split]
            interval = f"{show(values['reward'])} [{values['reward_low']:.3f}, {values['reward_high']:.3f}]"
            lines.append([split, model, interval, *(show(values.get(name)) for name in names[1:])])
    return lines


def _discarded(p: params.Params, run: str) -> str:
    if run == "reference":
        which = "all of them" if p.reference.train_on == "all" else "the preferred one of each prompt"
        return f"Nothing by advantage; of the training responses it learned from {which}."
    history = read_json(paths.policy(p.task, run) / "training.json", summary.History)
    share, kept = (
        history["discarded"],
        "one beat the reference" if history["selected"] else "none beat the reference, so it is the last",
    )
    which = "every training response" if p.train.train_on == "all" else "the preferred training responses"
    return (
        f"{100 * share:.1f} % of what it could have learned from ({which}) was discarded: its advantage "
        f"is 0 or less. Checkpoints were chosen by the validation reward: {kept}."
    )


def _base(p: params.Params, pointer: Pointer) -> tuple[str | None, str | None]:
    """The base's name, None for a model from nothing, and its licence as far as it says one."""
    name = p.policy.model
    if name == "scratch":
        return None, None
    return str(_without_paths(name)), _licence(name, p.policy.revision)


def _licence(name: str, revision: str | None) -> str | None:
    """From the model card in its folder or on its hub, or from the package that carries it."""
    from huggingface_hub import ModelCard

    if name.startswith(model_names.PACKAGE):
        return _package_licence(name.removeprefix(model_names.PACKAGE).partition("/")[0])
    path, _ = model_names.find(name)
    card = name if path is None else str((path if path.is_dir() else path.parent) / "README.md")
    with contextlib.suppress(OSError, ValueError):  # no card, or none that can be reached
        return ModelCard.load(card).data.get("license")
    return None


def _package_licence(package: str) -> str | None:
    for name in metadata.packages_distributions().get(package, []):
        about = metadata.metadata(name)
        if found := about.get("License-Expression") or about.get("License"):
            return found.splitlines()[0].lower()
    return None


def _licence_line(name: str | None, licence: str | None) -> str:
    if name is None:
        return "It has no base: it was trained from nothing on the data above, whose terms apply."
    if licence is None:
        return f"`{name}` does not say under which licence it stands; look there before you pass this model on."
    return f"`{name}` stands under: {licence}. What that asks for applies here too, and so do the terms of the data."
