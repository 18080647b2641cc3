"""How large a task's policy is and what a pass of it keeps, before a weight is read.

What autograd keeps for the backward pass is not estimated by a formula for each architecture: the model is built of
fake tensors, which have a shape and a type but no numbers, run forward over a few tokens, and what is kept is counted.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from alol.base.errors import InputError
from alol.config.params import Params
from alol.config.sections import Scratch

NF4 = 0.5 + 4 / 64  # bytes of a weight, with a scale for each 64
SEQUENCE = 32  # tokens of the sequences that are counted with


@dataclass(frozen=True)
class Shape:
    """Of a policy: bytes of its weights and of those trained, what a pass keeps, and what generation holds a token.

    `rewards` and `test_rewards` are the bytes of the reward models' weights; `absent` names models that are not here.
    """

    weights: float
    loading: float
    trained: float
    kept_always: float
    kept_per_token: float
    layers: int
    width: int
    inner: int
    vocabulary: int
    cached_per_token: float
    bytes: int  # of an activation
    rewards: float
    test_rewards: float
    absent: Sequence[str]


def shape_of(p: Params, *, accelerator: bool) -> Shape:
    """Of the task's policy as it is trained, on an accelerator or without.

    Raises InputError where the policy's configuration cannot be read.
    """
    import torch
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    model = _empty(p)
    half = p.launch.precision == "bf16"
    packed = p.policy.tuning == "qlora"
    weights = loading = trained = 0.0
    counted: set[int] = set()
    for module in model.modules():
        for weight in module._parameters.values():
            if weight is None or id(weight) in counted:
                continue
            counted.add(id(weight))
            loading += 0.0 if weight.requires_grad else 4 * weight.numel()
            if weight.requires_grad:
                trained += 4 * weight.numel()
            elif packed and type(module) in (nn.Linear, Conv1D) and module is not model.get_output_embeddings():
                weights += NF4 * weight.numel()
            elif (packed and accelerator) or (half and type(module) in (nn.Linear, Conv1D)):
                weights += 2 * weight.numel()
            else:
                weights += 4 * weight.numel()
    kept = _kept(model, (2, 4), half, half and packed and accelerator)
    per_token = (kept[1] - kept[0]) / (2 * SEQUENCE)
    config = model.config.get_text_config()
    width, heads = config.hidden_size, config.num_attention_heads
    groups = getattr(config, "num_key_value_heads", None) or heads
    head = getattr(config, "head_dim", None) or width // heads
    inner = next(
        (size for name in ("intermediate_size", "n_inner", "d_ff") if (size := getattr(config, name, None))), 0
    )
    size = torch.bfloat16.itemsize if half else torch.float32.itemsize
    found = [_rewards(specs) for specs in (p.rewards, p.test_rewards)]
    rewards, test_rewards = (size for size, _ in found)
    return Shape(
        weights=weights,
        loading=loading + weights if half or packed else 0.0,
        trained=trained,
        kept_always=kept[0] - 2 * SEQUENCE * per_token,
        kept_per_token=per_token,
        layers=config.num_hidden_layers,
        width=width,
        inner=inner or 4 * width,
        vocabulary=config.vocab_size,
        cached_per_token=2.0 * config.num_hidden_layers * groups * head * size,
        bytes=size,
        rewards=rewards,
        test_rewards=test_rewards,
        absent=list(dict.fromkeys(name for _, absent in found for name in absent)),
    )


def _empty(p: Params) -> Any:
    """The policy without numbers, with its adapter where it is trained with one."""
    import torch
    from transformers import AutoConfig

    from alol.compute.kernels import fused
    from alol.models import lora, scratch
    from alol.models.loading import language_model_class, loaded
    from alol.models.policies import without_dropout

    policy, config = p.policy, None
    if policy.model != "scratch":  # to be read before, which may convert a file's weights
        config = without_dropout(loaded(AutoConfig.from_pretrained, policy.model, policy.revision, "the model"))
    with torch.device("meta"):
        if config is None:
            model: Any = scratch.new_model(policy.scratch, words(policy.scratch), 0)
        else:
            model = fused(language_model_class(config).from_config(config, dtype=torch.float32))
        if policy.tuning != "full":
            from peft import LoraConfig, get_peft_model

            kind = "SEQ_2_SEQ_LM" if model.config.is_encoder_decoder else "CAUSAL_LM"
            options = {"r": policy.lora.r, "lora_alpha": policy.lora.alpha, "target_modules": policy.lora.targets}
            model = lora.fused(get_peft_model(model, LoraConfig(task_type=kind, **options)))
    return model


def _rewards(specs: Mapping[str, Mapping[str, Any]]) -> tuple[float, list[str]]:
    """Bytes of the weights of the networks that these components name, and the names that are not on this machine."""
    import torch
    from transformers import AutoConfig, AutoModel

    from alol.models.loading import loaded

    total, absent = 0.0, []
    for name, half in ((name, half) for spec in specs.values() for name, half in _named(spec)):
        try:
            config = loaded(AutoConfig.from_pretrained, name, None, "the model")
        except InputError:
            absent.append(name)
            continue
        with torch.device("meta"):
            model = AutoModel.from_config(config)
        total += (2 if half else 4) * sum(weight.numel() for weight in model.parameters())
    return total, absent


def _named(spec: Mapping[str, Any]) -> Iterator[tuple[str, bool]]:
    """The models that a component names, and whether it scores in bf16."""
    half, train = spec.get("precision") == "bf16", spec.get("train") or {}
    names = [spec.get("model"), train.get("init")]
    yield from ((name, half) for name in names if isinstance(name, str) and name != "scratch")
    if spec.get("scorer"):
        yield from _named(spec["scorer"])


def words(settings: Scratch) -> Any:
    """What a new model needs of its tokenizer, which is trained later."""

    class Words(SimpleNamespace):
        def __len__(self) -> int:
            return settings.vocabulary

    return Words(eos_token_id=1, pad_token_id=0)


def _kept(model: Any, counts: Sequence[int], half: bool, half_states: bool) -> list[int]:
    """Bytes that autograd keeps of forward passes over so many sequences, weights not counted.

    The model is of no use afterwards.
    """
    import torch
    from torch._subclasses.fake_tensor import FakeTensorMode

    from alol.compute import packed_models, packing

    found = []
    with FakeTensorMode(allow_non_fake_inputs=True):
        _without_numbers(model, half, half_states)
        own = {weight.untyped_storage()._cdata for weight in model.parameters()}
        for count in counts:
            kept: dict[int, Any] = {}

            def keep(tensor: Any) -> Any:
                if (place := tensor.untyped_storage()._cdata) not in own:
                    kept[place] = tensor  # noqa: B023 - held, so that no other takes its place
                return tensor

            hooks = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
            with torch.autocast("cpu", torch.bfloat16, enabled=half), hooks:
                ids = [list(range(1, SEQUENCE + 1))] * count
                if packed_models.packable(model):
                    packed_models.states(model, packing.sequences(ids, "cpu"))
                else:
                    rows = torch.tensor(ids)
                    more = {"decoder_input_ids": rows} if model.config.is_encoder_decoder else {}
                    model(input_ids=rows, attention_mask=torch.ones_like(rows), use_cache=False, **more)
            found.append(sum(tensor.untyped_storage().nbytes() for tensor in kept.values()))
    return found


def _without_numbers(model: Any, half: bool, half_states: bool) -> None:
    """Puts fake tensors on the CPU in the place of the model's own, of the types in which a run holds them."""
    import torch
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    made: dict[int, Any] = {}  # shared weights stay shared
    for module in model.modules():
        if hasattr(module, "lora_A"):
            module.cast_input_dtype_enabled = not half
        for table in (module._parameters, module._buffers):
            for name, old in table.items():
                if old is None:
                    continue
                rounded = half and type(module) in (nn.Linear, Conv1D) and not old.requires_grad
                if half_states and old.is_floating_point() and not old.requires_grad:
                    rounded = True
                if id(old) not in made:
                    new = torch.empty(old.shape, dtype=torch.bfloat16 if rounded else old.dtype)
                    made[id(old)] = nn.Parameter(new, old.requires_grad) if isinstance(old, nn.Parameter) else new
                table[name] = made[id(old)]
