"""The published critic's conversion: a SavedModel written byte by byte, and outputs equal to a plain numpy forward."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from transformers import RobertaConfig

from alol.base.errors import InputError
from alol.rewards import untrained
from alol.rewards.convert_critic import convert
from alol.rewards.critic_model import CriticConfig, CriticModel
from alol.rewards.savedmodel import Bundle
from stages.convert_critic import main
from tests.rewards import savedmodel_writer
from tests.rewards.test_rewards_networks import TEXTS, scores
from tests.rewards.test_rewards_networks import training as small_training

WIDTH, HEADS, LAYERS, INNER, HEAD, PAD = 16, 2, 2, 32, 12, 0
CONFIG = {"hidden_size": WIDTH, "num_attention_heads": HEADS, "num_hidden_layers": LAYERS, "intermediate_size": INNER}
PREFIX = "tf_roberta_model/roberta/"


def variables(tokens: int) -> dict[str, np.ndarray]:
    """Keras' names and shapes, and what else a training run saves."""
    draw = np.random.default_rng(0)

    def normal(*shape: int, mean: float = 0.0) -> np.ndarray:
        return (mean + 0.4 * draw.normal(size=shape)).astype(np.float32)

    found = {
        "embeddings/word_embeddings/weight": normal(tokens, WIDTH),
        "embeddings/position_embeddings/embeddings": normal(40, WIDTH),
        "embeddings/token_type_embeddings/embeddings": normal(1, WIDTH),
    }
    for layer in ("embeddings/LayerNorm", *_norms()):
        found |= {f"{layer}/gamma": normal(WIDTH, mean=1.0), f"{layer}/beta": normal(WIDTH)}
    for i in range(LAYERS):
        start = f"encoder/layer_._{i}/"
        for name in ("attention/self/query", "attention/self/key", "attention/self/value", "attention/output/dense"):
            found |= {f"{start}{name}/kernel": normal(WIDTH, WIDTH), f"{start}{name}/bias": normal(WIDTH)}
        found |= {f"{start}intermediate/dense/kernel": normal(WIDTH, INNER)}
        found |= {f"{start}intermediate/dense/bias": normal(INNER)}
        found |= {f"{start}output/dense/kernel": normal(INNER, WIDTH), f"{start}output/dense/bias": normal(WIDTH)}
    found |= {"pooler/dense/kernel": normal(WIDTH, WIDTH), "pooler/dense/bias": normal(WIDTH)}
    named = {f"{PREFIX}{name}": value for name, value in found.items()}
    named |= {"dense_2/kernel": normal(WIDTH, HEAD), "dense_2/bias": normal(HEAD)}
    named |= {"dense_3/kernel": normal(HEAD, 1), "dense_3/bias": normal(1)}
    slots = {f"Adam/m/{name}": value * 0 for name, value in named.items() if name.endswith("kernel")}
    return named | slots | {"Adam/iter": np.array(7, dtype=np.int64)}


def _norms() -> list[str]:
    names = ("attention/output/LayerNorm", "output/LayerNorm")
    return [f"encoder/layer_._{i}/{name}" for i in range(LAYERS) for name in names]


def gelu(x: np.ndarray) -> np.ndarray:
    return 0.5 * x * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


def forward(w: dict[str, np.ndarray], ids: list[int], eps: float) -> float:
    """Keras' forward for one text without padding, in double precision, from the layers' definitions."""
    w = {name: value.astype(np.float64) for name, value in w.items()}

    def norm(x: np.ndarray, name: str) -> np.ndarray:
        centred = x - x.mean(-1, keepdims=True)
        scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + eps)
        return scaled * w[f"{PREFIX}{name}/gamma"] + w[f"{PREFIX}{name}/beta"]

    def dense(x: np.ndarray, name: str) -> np.ndarray:
        return x @ w[f"{PREFIX}{name}/kernel"] + w[f"{PREFIX}{name}/bias"]

    x = w[f"{PREFIX}embeddings/word_embeddings/weight"][ids]
    x = x + w[f"{PREFIX}embeddings/position_embeddings/embeddings"][PAD + 1 : PAD + 1 + len(ids)]
    x = norm(x + w[f"{PREFIX}embeddings/token_type_embeddings/embeddings"][0], "embeddings/LayerNorm")
    for i in range(LAYERS):
        start, size = f"encoder/layer_._{i}/", WIDTH // HEADS
        q, k, v = (
            dense(x, f"{start}attention/self/{n}").reshape(-1, HEADS, size).swapaxes(0, 1)
            for n in ("query", "key", "value")
        )
        weights = np.exp(q @ k.swapaxes(1, 2) / math.sqrt(size))
        mixed = (weights / weights.sum(-1, keepdims=True) @ v).swapaxes(0, 1).reshape(-1, WIDTH)
        x = norm(x + dense(mixed, f"{start}attention/output/dense"), f"{start}attention/output/LayerNorm")
        inner = dense(gelu(dense(x, f"{start}intermediate/dense")), f"{start}output/dense")
        x = norm(x + inner, f"{start}output/LayerNorm")
    pooled = np.tanh(dense(x[0], "pooler/dense"))
    hidden = gelu(pooled @ w["dense_2/kernel"] + w["dense_2/bias"])
    logit = float((hidden @ w["dense_3/kernel"] + w["dense_3/bias"])[0])
    return 1 / (1 + math.exp(-logit))


@pytest.fixture
def base(tmp_path) -> Path:
    """What --base names: a tokenizer and a configuration of the same sizes."""
    tokenizer = untrained.classifier_tokenizer(TEXTS, small_training(), 38)
    tokenizer.model_input_names = ["input_ids", "attention_mask"]
    config = RobertaConfig(
        **CONFIG, vocab_size=len(tokenizer), max_position_embeddings=40, type_vocab_size=1, pad_token_id=PAD
    )
    config.save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    return tmp_path / "base"


@pytest.fixture
def source(tmp_path, base) -> Path:
    config = RobertaConfig.from_pretrained(base)
    savedmodel_writer.write(tmp_path / "keras", variables(config.vocab_size))
    return tmp_path / "keras"


def test_every_variable_is_read_back(source, base):
    expected, bundle = variables(RobertaConfig.from_pretrained(base).vocab_size), Bundle(source)
    assert bundle.names == list(expected)
    for name, value in expected.items():
        assert bundle.tensor(name).tolist() == value.tolist(), name


@pytest.mark.parametrize("size", [1, 3, 100])
def test_the_size_of_the_blocks_does_not_matter(tmp_path, size):
    values = {f"name/{i:03d}": np.full((2, 3), i, np.float16) for i in range(30)}
    savedmodel_writer.write(tmp_path / "it", values, size)
    bundle = Bundle(tmp_path / "it")
    assert {name: bundle.tensor(name)[0, 0] for name in bundle.names} == {f"name/{i:03d}": i for i in range(30)}


def test_the_converted_critic_gives_keras_outputs(tmp_path, source, base):
    found = CliRunner().invoke(main, [str(source), str(tmp_path / "critic"), "--base", str(base)])
    assert found.exit_code == 0, found.output
    assert [line.split()[-2:-1] for line in found.output.splitlines()[2:5]] == [["13"], ["26"], ["4"]]
    config = RobertaConfig.from_pretrained(base)
    weights = variables(config.vocab_size)
    tokenizer = untrained.PreTrainedTokenizerFast.from_pretrained(base)
    expected = [forward(weights, tokenizer(a, b)["input_ids"], config.layer_norm_eps) for a, b in pairs()]
    spec = {"kind": "classifier", "model": str(tmp_path / "critic"), "output": "sigmoid", "max_length": 38}
    together = scores(tmp_path, spec, *zip(*pairs(), strict=True))
    assert together.tolist() == pytest.approx(expected, abs=1e-5)
    assert max(expected) - min(expected) > 0.01


def pairs() -> list[tuple[str, str]]:
    return [("cats", "dogs and cats"), ("what do you think", "I do not know"), ("a", "b")]


def test_the_published_sizes_have_the_published_counts():
    sizes = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096}
    with torch.device("meta"):
        model = CriticModel(
            CriticConfig(**sizes, vocab_size=50265, max_position_embeddings=514, type_vocab_size=1, head_width=512)
        )
    assert model.roberta.num_parameters() == 355_359_744
    assert model.num_parameters() == 355_885_057
    matrices = [name for name, _ in model.roberta.named_parameters() if "dense.weight" in name or "self." in name]
    kernels = [name for name in matrices if name.endswith("weight")]
    assert (len(kernels), len(list(model.roberta.parameters()))) == (145, 391)


def refuse(source: Path, base: Path, target: Path, message: str) -> None:
    found = CliRunner().invoke(main, [str(source), str(target), "--base", str(base)])
    assert found.exit_code == 1
    [line] = [line for line in found.output.splitlines() if line.startswith("Error")]
    assert message in line
    assert not target.exists()


@pytest.mark.parametrize(
    ("name", "keep", "message"),
    [
        ("variables.index", 300, "variables.index is cut off or no checkpoint index"),
        ("variables.data-00001-of-00002", 100, "variables.data-00001-of-00002 is cut off"),
        ("variables.data-00001-of-00002", None, "variables.data-00001-of-00002 is missing"),
        ("variables.index", None, "variables.index is missing; name the SavedModel's folder"),
    ],
)
def test_a_damaged_savedmodel_is_one_line(tmp_path, source, base, name, keep, message):
    path = source / "variables" / name
    content = path.read_bytes()
    path.unlink()
    if keep is not None:
        path.write_bytes(content[:keep])
    refuse(source, base, tmp_path / "critic", message)


def test_bytes_that_are_no_table_are_one_line(tmp_path, source, base):
    path = source / "variables/variables.index"
    content = path.read_bytes()
    path.write_bytes(b"\xff" * (len(content) - 48) + content[-48:])
    refuse(source, base, tmp_path / "critic", "variables.index")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({f"{PREFIX}pooler/dense/bias": None}, "no variable for roberta.pooler.dense.bias (of 1 that are missing)"),
        ({f"{PREFIX}pooler/dense/bias": np.zeros(3, np.float32)}, "pooler/dense/bias has the shape [3], but --base"),
        ({f"{PREFIX}encoder/layer_._2/output/dense/bias": np.zeros(16, np.float32)}, "is no part of the model"),
        ({"dense_3/kernel": None, "dense_3/bias": None}, "a head is two dense layers"),
        ({"dense_3/bias": None}, "there are: dense_2/bias, dense_2/kernel, dense_3/kernel"),
        ({"dense_2/kernel": None}, "there are: dense_2/bias, dense_3/bias, dense_3/kernel"),
    ],
)
def test_weights_that_do_not_fit_are_named(tmp_path, base, change, message):
    values = variables(RobertaConfig.from_pretrained(base).vocab_size) | change
    savedmodel_writer.write(tmp_path / "keras", {name: value for name, value in values.items() if value is not None})
    refuse(tmp_path / "keras", base, tmp_path / "critic", message)


def test_conversion_replaces_what_is_there_as_a_whole(tmp_path, source, base):
    (tmp_path / "critic").mkdir()
    (tmp_path / "critic/old.txt").write_text("old")
    convert(source, tmp_path / "critic", str(base), None)
    assert not (tmp_path / "critic/old.txt").exists()
    with pytest.raises(InputError, match="--base: /absent/base does not exist"):
        convert(source, tmp_path / "critic", "/absent/base", None)
