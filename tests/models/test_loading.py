"""Model folders of others: what is wrong with one is one line, its own code never runs, and no weight is made up."""

from __future__ import annotations

import json
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from alol.base.errors import InputError
from alol.models import policies
from alol.models.loading import not_finite
from tests.closure import ROOT
from tests.conftest import tiny_model


@pytest.fixture(scope="module")
def whole(tokenizer, tmp_path_factory) -> Path:
    """A model folder that loads."""
    folder = tmp_path_factory.mktemp("whole")
    tiny_model("llama", tokenizer).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def folder(whole, tmp_path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "model"))


def load(folder: Path) -> None:
    policies.tokenizer_of(str(folder), None)
    policies.base_model(str(folder), None, quantized=False)


def edit(name: str, **changes: object):
    def break_(folder: Path) -> None:
        table = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps({**table, **changes}))

    return break_


def content(name: str, data: bytes):
    return lambda folder: (folder / name).write_bytes(data)


def weights(change):
    def break_(folder: Path) -> None:
        file = folder / "model.safetensors"
        tensors = load_file(file)
        change(tensors)
        save_file(tensors, file, {"format": "pt"})

    return break_


def cut(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])


def poisoned(tensors: dict) -> None:
    tensors["model.norm.weight"][0] = float("nan")


def narrower(tensors: dict) -> None:
    tensors["model.norm.weight"] = tensors["model.norm.weight"][:-1].clone()


def without_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def index_of_missing_shards(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    without_weights(folder)
    index = {"metadata": {}, "weight_map": dict.fromkeys(tensors, "model-00001-of-00002.safetensors")}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def pickled(folder: Path) -> None:
    import pickle

    without_weights(folder)
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps({"model.norm.weight": print}))


@pytest.mark.parametrize(
    ("damage", "line"),
    [
        (weights(lambda tensors: tensors.pop("model.norm.weight")), "it lacks the weights model.norm.weight"),
        (weights(poisoned), "has weights that are no finite numbers: model.norm.weight"),
        (weights(narrower), "model"),
        (cut, "could not be loaded"),
        (content("model.safetensors", b"garbage"), "could not be loaded"),
        (content("model.safetensors", struct.pack("<Q", 1 << 60) + b"{}"), "could not be loaded"),
        (without_weights, "could not be loaded"),
        (index_of_missing_shards, "could not be loaded"),
        (pickled, "could not be loaded"),
        (content("config.json", b"[]"), "could not be loaded"),
        (content("config.json", b"{"), "could not be loaded"),
        (edit("config.json", model_type="nothing_like_this", architectures=None), "could not be loaded"),
        (edit("config.json", hidden_size="wide"), "could not be loaded"),
        (edit("config.json", num_attention_heads=0), "could not be loaded"),
        (content("tokenizer.json", b"{}"), "tokenizer"),
        (content("tokenizer.json", b"\x00\xff"), "could not be loaded"),
    ],
    ids=lambda value: value if isinstance(value, str) else getattr(value, "__name__", "damage"),
)
def test_a_folder_that_is_not_whole_is_one_line(folder, damage, line):
    load(folder)
    damage(folder)
    with pytest.raises(InputError) as caught:
        load(folder)
    assert line in str(caught.value)
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_tokenizer_without_words_is_refused(folder):
    table = json.loads((folder / "tokenizer.json").read_text())
    table["model"] = {"type": "BPE", "vocab": {}, "merges": []}
    table["added_tokens"] = []
    (folder / "tokenizer.json").write_text(json.dumps(table))
    (folder / "tokenizer_config.json").write_text("{}")
    with pytest.raises(InputError, match="tokenizer"):
        load(folder)


@pytest.mark.parametrize(
    "config", [b"[]", b"{}", b"{", b'{"peft_type": "NOTHING_LIKE_THIS"}', b'{"peft_type": "LORA", "r": "many"}']
)
def test_an_adapter_that_is_none_is_one_line(folder, tmp_path, config):
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_bytes(config)
    base = policies.base_model(str(folder), None, quantized=False)
    with pytest.raises(InputError) as caught:
        policies.with_adapter(base, str(adapter), None, 0.0)
    assert str(adapter) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_infinite_weights_are_found_in_every_precision():
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        for wrong in (float("nan"), float("inf"), float("-inf")):
            layer = torch.nn.Linear(3, 3, dtype=dtype)
            assert list(not_finite(layer)) == []
            layer.weight.data[1, 1] = wrong
            assert list(not_finite(layer)) == ["weight"]


CODE = """
import sys
from alol.models import policies
from alol.base.errors import InputError
for call in (lambda: policies.tokenizer_of(sys.argv[1], None),
             lambda: policies.base_model(sys.argv[1], None, quantized=False)):
    try:
        call()
    except InputError as error:
        print("refused:", error)
"""


def test_code_of_a_model_folder_never_runs_whatever_is_answered(folder, tmp_path):
    """`yes |` answers the question that the library would ask on the terminal."""
    (folder / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    names = {"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model", "AutoTokenizer": ["own.Tokenizer", None]}
    edit("config.json", auto_map=names, model_type="of_its_own")(folder)
    edit("tokenizer_config.json", auto_map=names, tokenizer_class="Tokenizer")(folder)
    done = subprocess.run(
        ["bash", "-c", 'yes | "$0" -c "$1" "$2"', sys.executable, CODE, str(folder)],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "ran").exists()
    assert "refused: the model" in done.stdout
    assert "[y/N]" not in done.stdout + done.stderr


def test_every_loading_call_goes_through_the_one_that_refuses_foreign_code():
    """A `from_pretrained` is passed to `loading`, called there, or is peft's, which loads weights and settings."""
    for file in [*(ROOT / "alol").rglob("*.py"), *(ROOT / "stages").glob("*.py")]:
        for line in file.read_text(encoding="utf-8").splitlines():
            if "from_pretrained(" in line:
                peft = "PeftModel.from_pretrained(" in line or "PeftConfig.from_pretrained(" in line
                assert peft, f"{file}: {line.strip()}"
