"""stages.export: what it writes loads in plain transformers and answers as the pipeline; the card; the push."""

from __future__ import annotations

import json
import re
import shutil
import threading
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from huggingface_hub import ModelCard, constants
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from alol.config import model_names, params, paths
from alol.evaluation import exporting
from alol.models import policies
from alol.training import rollout
from stages.export import main
from tests import small
from tests.stages.hub_server import Hub


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """The small demo with adapters on a LLaMA; its folder is the current one."""
    folder = tmp_path_factory.mktemp("exported")
    changes = {"tuning": "lora", "lora": {"r": 4, "alpha": 8}, "scratch__architecture": "llama", "scratch__width": 64}
    small.write(folder, **{f"tasks__demo__policy__{key}": value for key, value in changes.items()})
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("ALOL_STATE", str(folder / "state"))
        small.run([*small.BEFORE_TRAIN, *small.FROM_TRAIN[:2]])
        yield folder


def invoke(*arguments: str):
    return CliRunner().invoke(main, arguments)


def export(target: Path, *arguments: str, run: str = "a_lol") -> Path:
    result = invoke(run, "--to", str(target), *arguments)
    assert result.exit_code == 0, f"{result.output} {result.exception!r}"
    assert "plain transformers answers 8 test prompts as the pipeline does" in result.output
    return target


def texts(folder: Path) -> str:
    """All that an export says, but for its vocabulary."""
    files = [path for path in folder.rglob("*") if path.suffix in (".md", ".json", ".jinja")]
    return "\n".join(path.read_text(encoding="utf-8") for path in files if path.name != "tokenizer.json")


def logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model(torch.tensor([[5, 6, 7, 9]])).logits


@pytest.mark.parametrize(
    ("dtype", "kind"), [("fp32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)]
)
def test_a_merged_model_is_a_whole_one(project, tmp_path, dtype, kind):
    folder = export(tmp_path / "out", "--merge", "--dtype", dtype)
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert model.dtype == kind
    assert not (folder / "adapter_config.json").exists()
    near = {"fp32": 1e-5, "fp16": 1e-2, "bf16": 1e-1}[dtype]
    own = logits(policies.load(paths.policy("demo", "a_lol")).model)
    torch.testing.assert_close(logits(model.float()), own, rtol=near, atol=near)
    assert AutoTokenizer.from_pretrained(folder)("why?")["input_ids"]
    ends = model.generation_config
    assert (ends.eos_token_id, ends.pad_token_id, ends.do_sample) == ([1], 0, False)


def test_an_adapter_comes_with_the_base_that_no_hub_has(project, tmp_path):
    folder = export(tmp_path / "out")
    assert json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"] == "base"
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(folder / "base"), folder)
    own = policies.load(paths.policy("demo", "a_lol")).model
    torch.testing.assert_close(logits(model.eval()), logits(own), rtol=1e-5, atol=1e-5)
    assert all(tensor.dtype == torch.float32 for tensor in load_file(folder / "adapter_model.safetensors").values())
    half = export(tmp_path / "half", "--dtype", "bf16")
    assert all(tensor.dtype == torch.bfloat16 for tensor in load_file(half / "adapter_model.safetensors").values())


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("merge", [True, False])
def test_a_4_bit_adapter_answers_the_same(project, tmp_path, merge, dtype):
    """Merged into what its 4-bit base unpacks to."""
    shutil.copytree("models/demo/a_lol", tmp_path / "qlora")
    pointer = json.loads((tmp_path / "qlora/policy.json").read_text())
    pointer |= {"quantized": True, "base": str(Path("models/demo/reference/base").absolute())}
    (tmp_path / "qlora/policy.json").write_text(json.dumps(pointer))
    p = params.load("demo")
    rows = rollout.prompt_rows(paths.clean("demo") / "test.parquet")
    exported = exporting.write(tmp_path / "qlora", tmp_path / "out", rows, p, merge=merge, dtype=dtype)
    assert exported.base == (None if merge else "base")
    assert str(project) not in texts(tmp_path / "out")


def test_a_whole_model_and_the_reference_are_exported_too(project, tmp_path):
    folder = export(tmp_path / "reference", run="reference")
    assert "The supervised reference policy of the task `demo`." in (folder / "README.md").read_text()
    whole = policies.load(paths.reference("demo"))
    merged = policies.LoadedPolicy(whole.model.merge_and_unload(), whole.tokenizer, {**whole.pointer, "base": None})
    policies.save(merged, tmp_path / "whole")
    rows = rollout.prompt_rows(paths.clean("demo") / "test.parquet")
    exported = exporting.write(
        tmp_path / "whole", tmp_path / "out", rows, params.load("demo"), merge=False, dtype="fp32"
    )
    assert exported.base is None
    torch.testing.assert_close(logits(AutoModelForCausalLM.from_pretrained(tmp_path / "out")), logits(merged.model))


def test_the_card_says_what_it_is(project, tmp_path):
    folder = export(tmp_path / "out", "--merge")
    card = ModelCard.load(folder / "README.md")
    assert (card.data.library_name, card.data.pipeline_tag) == ("transformers", "text-generation")
    text = card.text
    for title in ("Load it", "Data", "Test results", "What was discarded", "Licence of the base", "Limits", "Settings"):
        assert f"\n## {title}\n" in text
    small.run(["aggregate"])
    numbers = small.summary()
    reward = numbers["policy"]["all"]
    assert (
        f"| all | policy | {reward['reward']:.3f} [{reward['reward_low']:.3f}, {reward['reward_high']:.3f}] |" in text
    )
    assert f"{100 * small.read_training()['discarded']:.1f} % of what it could have learned from" in text
    assert f"(p = {numbers['delta']['all']['p_value']}, paired sign flips)" in text
    assert "It has no base: it was trained from nothing" in text
    assert "train: 60 prompts, 180 responses" in text
    from ruamel.yaml import YAML

    settings = YAML(typ="safe").load(re.search(r"```yaml\n(.*)```", text, re.DOTALL)[1])
    kept = params.plain(vars(params.load("demo", "a_lol")))
    assert settings == {key: value for key, value in kept.items() if key != "launch"}


def test_nothing_of_the_machine_is_in_an_export(project, tmp_path):
    for arguments in (["--merge"], []):
        said = texts(export(tmp_path / f"out{len(arguments)}", *arguments))
        for place in (str(project), str(tmp_path), str(Path.home()) + "/", "/tmp/", "../reference"):
            assert place not in said


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_an_adapter_on_a_hub_model_names_it(project, tmp_path, monkeypatch, dtype):
    """A relative folder that the library takes for the id, and this project for a hub's."""
    shutil.copytree("models/demo/reference/base", "org/tiny", dirs_exist_ok=True)
    shutil.copytree("models/demo/a_lol", tmp_path / "run")
    pointer = json.loads((tmp_path / "run/policy.json").read_text())
    (tmp_path / "run/policy.json").write_text(json.dumps({**pointer, "base": "org/tiny", "revision": "v1"}))
    find = model_names.find
    monkeypatch.setattr(model_names, "find", lambda name: (None, None) if name == "org/tiny" else find(name))
    rows = rollout.prompt_rows(paths.clean("demo") / "test.parquet")
    exported = exporting.write(tmp_path / "run", tmp_path / "out", rows, params.load("demo"), merge=False, dtype=dtype)
    assert (exported.base, exported.revision) == ("org/tiny", "v1")
    config = json.loads((tmp_path / "out/adapter_config.json").read_text())
    assert (config["base_model_name_or_path"], config["revision"]) == ("org/tiny", "v1")
    assert [path.name for path in (tmp_path / "out").rglob("*.safetensors")] == ["adapter_model.safetensors"]


@pytest.mark.parametrize("arguments", [["--merge"], []])
def test_the_code_of_the_card_loads_it(project, tmp_path, arguments):
    folder = export(tmp_path / "out", *arguments)
    code = re.search(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)[1]
    names: dict = {}
    exec(code.replace('"..."', repr(str(folder))), names)
    own = logits(policies.load(paths.policy("demo", "a_lol")).model)
    torch.testing.assert_close(logits(names["model"].eval()), own, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["nope", "--to", "x"], "unknown run of task 'demo' 'nope'; known: a_lol, reference"),
        (["a_lol", "--to", "models"], "models is there already; name a new folder, or remove it"),
        (["a_lol", "--to", "params.yaml"], "params.yaml is there already"),
        (["a_lol", "--to", "x", "--task", "nope"], "unknown task 'nope'"),
    ],
)
def test_what_is_refused(project, arguments, line):
    result = invoke(*arguments)
    assert result.exit_code == 1
    assert [said for said in result.stderr.splitlines() if said.startswith("Error")] == result.stderr.splitlines()[-1:]
    assert line in result.stderr
    assert not Path("x").exists()


def test_an_export_that_answers_otherwise_is_none(project, tmp_path, monkeypatch):
    """As if the library had saved other weights."""
    plain = exporting._plain

    def other(*arguments):
        model = plain(*arguments)
        with torch.no_grad():
            model.get_output_embeddings().weight.copy_(model.get_output_embeddings().weight.flip(0))
        return model

    monkeypatch.setattr(exporting, "_plain", other)
    result = invoke("a_lol", "--to", str(tmp_path / "out"), "--merge")
    assert result.exit_code == 1
    assert "otherwise than the pipeline, so nothing was written" in result.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def hub(serving, monkeypatch):
    """Starts a stand-in hub, to which the library's calls go."""

    def start(**answers: int) -> Hub:
        server = serving(Hub(**answers))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        return server

    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    return start


def test_a_push_brings_every_file_to_the_hub(project, tmp_path, hub):
    server = hub()
    result = invoke("a_lol", "--to", str(tmp_path / "out"), "--merge", "--push", "me/polite")
    assert result.exit_code == 0, f"{result.output} {result.exception!r}"
    assert f"pushed to {server.url}/me/polite" in result.output
    assert (server.repo["name"], server.repo["organization"], server.repo["visibility"]) == ("polite", "me", "private")
    assert server.files == {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert "README.md" in server.files
    assert server.tokens == {"Bearer hf_secret"}


@pytest.mark.parametrize("answers", [{"status": 401}, {"status": 403}, {"late": 403}, {"late": 409}])
def test_a_push_that_is_refused_leaves_the_folder(project, tmp_path, hub, answers):
    hub(**answers)
    result = invoke("a_lol", "--to", str(tmp_path / "out"), "--merge", "--push", "me/polite")
    assert result.exit_code == 1
    (line,) = (line for line in result.stderr.splitlines() if line.startswith("Error"))
    assert f"{tmp_path / 'out'} is written, but could not be pushed to me/polite: " in line
    assert "hf_secret" not in result.output
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "out").dtype == torch.float32


@pytest.mark.parametrize("name", ["a/b/c", "../x", "me/po lite", ""])
def test_a_name_that_no_hub_takes_is_refused_before_anything_is_written(project, tmp_path, name):
    result = invoke("a_lol", "--to", str(tmp_path / "out"), "--push", name)
    assert result.exit_code == 1
    assert f"--push is '{name}', but must be OWNER/NAME" in result.stderr
    assert not (tmp_path / "out").exists()
