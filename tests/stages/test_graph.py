"""dvc.yaml against the code: each stage's code dependencies, its parameters, and where it writes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, ClassVar

import pytest
from ruamel.yaml import YAML

from alol.algorithms.registry import NAMES
from alol.base.files import read_json
from alol.config import params, paths, yaml_files
from alol.evaluation import report_run
from tests import small
from tests.closure import FOLDERS, ROOT, dependencies

GRAPH = YAML(typ="safe").load(ROOT / "dvc.yaml")
STAGES = GRAPH["stages"]
LIGHT = ("check", "download", "clean", "aggregate", "compare", "judge", "sweep")
STARTING = ("annotate", "baseline", "reference", "rollout", "advantage", "train", "evaluate")  # several processes


SECTION = {"algorithms": "hyperparameters"}  # a field of Params, by the first part of a key where it is another name
DEFAULTS, TASK = "tasks/defaults.yaml", "tasks/${task}.yaml"


def filled(text: str) -> str:
    return text.replace("${task}", "demo").replace("${algorithm}", "a_lol")


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_depends_on_the_code_that_it_imports(name):
    code = {
        dep for dep in STAGES[name]["deps"] if dep in (*FOLDERS, "custom", "templates") or dep.endswith((".py", ".j2"))
    }
    assert code == dependencies(name)


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_is_described_and_called_by_its_name(name):
    assert STAGES[name]["desc"]
    assert STAGES[name]["cmd"].startswith(f"python -m stages.{name} --task ${{task}}")
    assert (ROOT / "stages" / f"{name}.py").exists()


def listed(stage: dict[str, Any]) -> dict[str, list[str]]:
    """File -> the keys that a stage's `params` name."""
    found: dict[str, list[str]] = {}
    for entry in stage.get("params", []):
        for file, keys in (entry if isinstance(entry, dict) else {"params.yaml": [entry]}).items():
            found.setdefault(file, []).extend(keys)
    return found


@pytest.mark.parametrize("name", STAGES)
def test_parameters_are_narrow_and_exist(name):
    given = listed(STAGES[name])
    for file, keys in given.items():
        raw = yaml_files.read(ROOT / filled(file))
        for key in map(filled, keys):
            table = raw
            for part in key.split("."):
                table = table[part]
    assert all(key == "seed" or key.startswith("algorithms.") for key in given.get("params.yaml", []))
    assert ("rewards" in given.get(TASK, [])) == (str(yaml_files.REWARDS) in STAGES[name]["deps"])
    assert (name == "clean") == (str(yaml_files.CLEAN) in STAGES[name]["deps"])
    # what a stage reads of the defaults, a task may change
    assert {key.partition(".")[0] for key in given.get(DEFAULTS, [])} <= set(given.get(TASK, []))


class Watched(params.Params):
    """Parameters that note which of them are read."""

    read: ClassVar[set[str]] = set()

    def __getattribute__(self, name: str) -> Any:
        if name in params.Params.__dataclass_fields__:
            Watched.read.add(name)
        return super().__getattribute__(name)


def test_a_stage_depends_on_the_parameters_that_it_reads(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    small.write(tmp_path)
    load = params.load
    monkeypatch.setattr(params, "load", lambda *given: Watched(**vars(load(*given))))
    order = (*small.BEFORE_TRAIN, *small.FROM_TRAIN)
    assert set(order) == set(STAGES)
    for name, stage in ((name, STAGES[name]) for name in order):
        Watched.read.clear()
        small.run([name])
        inputs = [Path(filled(dep)) for dep in stage["deps"]]
        made_with = [path if path.name == params.SETTINGS else path / params.SETTINGS for path in inputs]
        known = {key for path in made_with if path.exists() for key in read_json(path)}
        known |= {
            SECTION.get(first, first) for keys in listed(stage).values() for first in (k.split(".")[0] for k in keys)
        }
        known |= {"scoring"} if str(yaml_files.REWARDS) in stage["deps"] else set()  # which stands in that file
        assert Watched.read - {"task", "algorithm", "launch"} <= known, name


def test_paths_are_those_of_the_graph():
    outs = {
        filled(out if isinstance(out, str) else next(iter(out)))
        for stage in STAGES.values()
        for kind in ("outs", "metrics", "plots")
        for out in stage.get(kind, [])
    }
    expected = {
        str(path("demo")) for path in (paths.raw, paths.clean, paths.annotated, paths.rollouts, paths.baselines)
    }
    expected |= {str(path("demo")) for path in (paths.advantages, paths.reward_model, paths.reference, paths.value)}
    expected |= {str(path("demo", "a_lol")) for path in (paths.policy, paths.generations)}
    expected |= {
        f"metrics/{name}"
        for name in ("reward_model.json", "value.json", "headline.json", "summary.json", "results.csv")
    }
    expected |= {str(paths.PLOTS / name) for name in report_run.PLOT_COLUMNS}
    expected |= {str(paths.launch(name)) for name in small.MODELS}
    assert outs == expected | {"metrics/report.html"}


def test_dvc_writes_the_graph_as_it_is():
    from dvc.utils.serialize import dumps_yaml, parse_yaml_for_update

    text = (ROOT / "dvc.yaml").read_text(encoding="utf-8")
    assert dumps_yaml(parse_yaml_for_update(text, "dvc.yaml")) == text


def test_every_algorithm_has_an_entry_in_the_parameters():
    assert set(yaml_files.read_params(ROOT)["algorithms"]) == set(NAMES)


def test_what_torchs_libraries_read_of_the_environment_is_set_before_torch_is_loaded():
    import subprocess
    import sys

    code = (
        "import os, sys, importlib.abc\n"
        "class Watch(importlib.abc.MetaPathFinder):\n"
        "    def find_spec(self, name, path, target=None):\n"
        "        if name == 'torch':\n"
        "            got = [os.environ.get(key) for key in ('OMP_WAIT_POLICY', 'ONEDNN_PRIMITIVE_CACHE_CAPACITY')]\n"
        "            sys.exit(got != ['PASSIVE', '16'])\n"
        "sys.meta_path.insert(0, Watch())\n"
        "import stages.train, alol.training.train_policy\n"
        "sys.exit(2)"
    )
    ours = ("OMP_WAIT_POLICY", "ONEDNN_PRIMITIVE_CACHE_CAPACITY")
    environment = {key: value for key, value in os.environ.items() if key not in ours}
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, check=False).returncode == 0


def test_no_code_asks_for_an_algorithms_name():
    for file in [*(ROOT / "alol").rglob("*.py"), *(ROOT / "stages").glob("*.py")]:
        assert "algorithm ==" not in file.read_text(encoding="utf-8"), file


@pytest.mark.parametrize("stage", [*LIGHT, *STARTING])
def test_light_stages_start_without_torch(stage):
    import subprocess
    import sys

    code = f"import sys, stages.{stage}; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_checking_the_parameters_needs_no_torch():
    import subprocess
    import sys

    code = (
        "import sys; from alol.checks import parameters\n"
        "assert parameters.problems() == [] and 'torch' not in sys.modules"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
