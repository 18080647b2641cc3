"""4-bit adapters through the stages: a scratch base in NF4, an SFT adapter as reference, every algorithm on it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from alol.algorithms.registry import FROM_DATA, NAMES
from alol.models import policies
from tests import small

REFERENCE = Path("models/demo/reference")


def digests(folder: Path) -> dict[str, str]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """The small demo up to its advantages, with adapters on a LLaMA base; its folder is the current one."""
    folder = tmp_path_factory.mktemp("qlora")
    small.write(
        folder,
        tasks__demo__policy__tuning="qlora",
        tasks__demo__policy__lora={"r": 4, "alpha": 8},
        tasks__demo__policy__scratch__architecture="llama",
        tasks__demo__policy__scratch__width=64,
        defaults__generate__rollout__train_samples=2,  # for a_star and qrpo
        tasks__demo__reference__pretrain={"epochs": None, "updates": 6, "evaluations": 2, "optimizer": {"warmup": 2}},
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        small.run(small.BEFORE_TRAIN)
        yield folder


def test_the_reference_is_an_adapter_on_a_base_of_its_own(project):
    weights = sorted(str(path.relative_to(REFERENCE)) for path in REFERENCE.rglob("*.safetensors"))
    assert weights == ["adapter_model.safetensors", "base/model.safetensors"]
    pointer = json.loads((REFERENCE / "policy.json").read_text())
    assert (pointer["base"], pointer["quantized"]) == ("./base", True)
    assert json.loads((REFERENCE / "adapter_config.json").read_text())["base_model_name_or_path"] == "./base"
    before = json.loads((REFERENCE / "base" / "training.json").read_text())["validation"]
    assert before[-1]["nll"] < before[0]["nll"]


@pytest.mark.parametrize("name", NAMES)
def test_every_algorithm_trains_an_adapter_and_nothing_else(project, name):
    before = digests(REFERENCE)
    small.run(["train"], name)
    assert digests(REFERENCE) == before
    folder = Path("models/demo", name)
    assert [path.name for path in folder.rglob("*.safetensors")] == ["adapter_model.safetensors"]
    assert json.loads((folder / "policy.json").read_text())["base"] == "../reference/base"
    first = small.read_training(name)["curve"][0]
    if name in FROM_DATA and "ref_logp" in FROM_DATA[name].columns:
        assert first["abs_log_ratio"] < 1e-3
    old, new = (policies.load(path).model.state_dict() for path in (REFERENCE, folder))
    moved = {key for key in old if not old[key].equal(new[key])}
    assert moved == {key for key in old if "lora_" in key}


def test_a_run_over_pairs_ends_in_the_table(project):
    small.run(["train", "evaluate", "aggregate"], "dpo")
    assert 0 < small.summary()["policy"]["all"]["length"] < 30
    assert small.read_training("dpo")["curve"][0]["loss"] == pytest.approx(0.693147, rel=1e-3)
