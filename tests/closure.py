"""The project's own modules that a stage imports, directly or through others, wherever the import stands."""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = ("alol", "stages", "custom")
# No edit of these changes a result: what a stage says when it fails, how it is started, killed and taken up again, what
# it notes of the machine.
INERT = {
    "alol/base/errors.py", "alol/base/faults.py", "alol/base/locks.py", "alol/base/machine.py", "alol/base/memory.py",
    "alol/base/work.py", "stages/_cli.py", "stages/_launcher.py", "stages/_processes.py",
}  # fmt: skip
# Nor of these, which say who computes which rows; what they import is followed from elsewhere, where it counts.
DEALING = {"alol/compute/cluster.py", "alol/compute/shards.py"}
SCORING = ("annotate", "baseline", "train", "evaluate")  # stages that call reward functions, found by their dotted path
# Stages that read a file of templates/: the policy's, which later stages find with the reference, and those of rewards.
RENDERING = ("reference", "reward_model", *SCORING)
# Dependencies as a whole: what nearly every stage reads all of, what a format, a topic or a reward may be added to, and
# what only the stage aggregate reads, which takes seconds.
FOLDERS = ("alol/config", "alol/data/demo", "alol/data/formats", "alol/evaluation", "alol/models", "alol/rewards")


def module_file(name: str) -> Path | None:
    """The file of a dotted name, relative to the project; None when the name is not a module of ours."""
    path = Path(*name.split("."))
    for candidate in (path.with_suffix(".py"), path / "__init__.py"):
        if name.split(".")[0] in PACKAGES and (ROOT / candidate).exists():
            return candidate
    return None


def imports(file: Path) -> set[Path]:
    """First-party files that a file imports, packages included."""
    found: set[str] = set()
    for node in ast.walk(ast.parse((ROOT / file).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    parents = {".".join(name.split(".")[:i]) for name in found for i in range(1, len(name.split(".")) + 1)}
    return {path for name in parents if (path := module_file(name))}


def closure(start: Path) -> set[Path]:
    """All first-party files that importing `start` can reach, itself included."""
    seen: set[Path] = set()
    waiting = {start}
    while waiting:
        file = waiting.pop()
        seen.add(file)
        waiting |= (imports(file) if str(file) not in DEALING else set()) - seen
    return seen


def only_documents(file: Path) -> bool:
    """Whether a package's file holds its docstring, perhaps a `__version__`, and nothing that runs."""
    body = ast.parse(file.read_text(encoding="utf-8")).body
    return all(isinstance(node, ast.Expr) or _is_version(node) for node in body)


def _is_version(node: ast.stmt) -> bool:
    """Whether a statement sets `__version__`, on which no result depends."""
    return isinstance(node, ast.Assign) and [ast.unparse(target) for target in node.targets] == ["__version__"]


def dependencies(stage: str) -> set[str]:
    """What a stage's `deps` in dvc.yaml must list of code: files, but INERT ones, or one of FOLDERS for what is in it.

    Reward functions are reached by their dotted path, so the stages that call them depend on `custom` too, and on what
    is imported there. `templates` holds no code, but is read like it.
    """
    reached = closure(Path("stages", f"{stage}.py"))
    if stage in SCORING:
        reached |= {
            path
            for own in (ROOT / "custom").glob("*.py")
            for path in closure(own.relative_to(ROOT))
            if path.parts[0] != "custom"
        }
    files = {str(path) for path in reached} - INERT - DEALING - {"stages/__init__.py"}
    files -= {file for file in files if file.endswith("__init__.py") and only_documents(ROOT / file)}
    result = {next((folder for folder in FOLDERS if file.startswith(folder + "/")), file) for file in files}
    return result | ({"custom"} if stage in SCORING else set()) | ({"templates"} if stage in RENDERING else set())
