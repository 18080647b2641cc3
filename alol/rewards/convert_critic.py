"""The published critic of commonsense triples from Keras to PyTorch: names, shapes, and one weight for every parameter.

The source is the SavedModel of symbolic knowledge distillation's archive: RoBERTa-large with its pooler, then a dense
layer of 512 and one of 1.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import torch
from tqdm import tqdm
from transformers import AutoConfig, AutoTokenizer

from alol.base.errors import InputError
from alol.base.files import replacing
from alol.models.loading import loaded, quiet
from alol.rewards.critic_model import CriticConfig, CriticModel
from alol.rewards.savedmodel import Bundle

ENCODER = "roberta/"
# TensorFlow's names of a layer's parts to PyTorch's
LAYER = re.compile(r"layer_\._(\d+)")
DENSE = re.compile(r"dense(_\d+)?/(kernel|bias)")
PARTS = {"kernel": "weight", "gamma": "weight", "beta": "bias", "embeddings": "weight"}
TURNED = "kernel"  # stored as [in, out], where PyTorch has [out, in]


@dataclass(frozen=True)
class Counts:
    """Tensors of the encoder (transposed, and as they are), of the head, variables left out, and all parameters."""

    transposed: int
    plain: int
    head: int
    left_out: int
    parameters: int


def convert(source: Path, target: Path, base: str, revision: str | None) -> Counts:
    """Writes the critic and its tokenizer to the folder `target`; `base` is the RoBERTa that it was made from.

    Raises InputError for a weight that is missing, unknown, or has another shape than `base` says.
    """
    bundle = Bundle(source)
    found = _encoder(bundle.names)
    head = _head(bundle, source)
    config = CriticConfig.from_dict(loaded(AutoConfig.from_pretrained, base, revision, "--base").to_dict())
    config.head_width, config.num_labels = bundle.shape(head["dense.weight"])[1], 1
    tokenizer = loaded(AutoTokenizer.from_pretrained, base, revision, "--base")
    model = CriticModel(config).eval()
    names = {f"roberta.{name}": variable for name, variable in found.items()} | head
    state = {name: tensor for name, tensor in model.state_dict().items() if tensor.is_floating_point()}
    if missing := sorted(set(state) - set(names)):
        raise InputError(f"{source}: no variable for {missing[0]} (of {len(missing)} that are missing)")
    if unknown := sorted(set(names) - set(state)):
        raise InputError(f"{source}: {names[unknown[0]]} is no part of the model that --base {base} describes")
    turned = 0
    for name, variable in tqdm(names.items(), desc="convert", unit="tensor", disable=None):
        tensor = torch.from_numpy(bundle.tensor(variable))
        if variable.endswith(TURNED):
            tensor, turned = tensor.T, turned + 1
        if tensor.shape != state[name].shape:
            wanted, given = list(state[name].shape), list(tensor.shape)
            raise InputError(f"{source}: {variable} has the shape {given}, but --base {base} needs {wanted} for {name}")
        state[name].copy_(tensor)
    with replacing(target) as folder, quiet():
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    transposed = turned - 2  # without the head's
    parameters = sum(tensor.numel() for tensor in state.values())
    return Counts(transposed, len(found) - transposed, len(head), len(bundle.names) - len(names), parameters)


def _encoder(variables: list[str]) -> dict[str, str]:
    """PyTorch's name in RobertaModel -> the variable's, for the encoder's weights.

    An optimizer may keep variables of the same names behind one of its own: the shortest name is the weight.
    """
    found: dict[str, str] = {}
    for variable in sorted(variables, key=len, reverse=True):
        _, inside, path = variable.partition(ENCODER)
        *parts, last = path.split("/")
        if inside and last in (*PARTS, "bias", "weight"):
            found[LAYER.sub(r"layer.\1", ".".join([*parts, PARTS.get(last, last)]))] = variable
    return found


def _head(bundle: Bundle, source: Path) -> dict[str, str]:
    """The two dense layers outside of the encoder, told apart by their shapes."""
    outside = {name for name in bundle.names if DENSE.fullmatch(name)}
    layers = sorted({name.split("/")[0] for name in outside})
    whole = len(outside) == 4 and all(len(bundle.shape(name)) == 2 for name in outside if name.endswith(TURNED))
    last = [layer for layer in layers if whole and bundle.shape(f"{layer}/{TURNED}")[1] == 1]
    if len(layers) != 2 or len(last) != 1:
        listed = ", ".join(sorted(outside)) or "none"
        raise InputError(f"{source}: a head is two dense layers, the last with one output; there are: {listed}")
    pairs = {"dense": next(layer for layer in layers if layer not in last), "out_proj": last[0]}
    return {
        f"{name}.{ours}": f"{layer}/{theirs}"
        for name, layer in pairs.items()
        for ours, theirs in (("weight", "kernel"), ("bias", "bias"))
    }
