"""The runs of a task in the columns of the published code's results: reports/results_<task>.csv."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from alol.evaluation.experiments import POLICY, Run
from alol.evaluation.summary import DISTANCE
from alol.evaluation.summary_tables import ordered


def table(runs: Sequence[Run], task: str) -> list[dict[str, str]]:
    """The columns of the published code's results, one row per run and one for the reference they share.

    best and worst: the evaluations while training with the largest and the smallest success measure, with epoch (e) and
    update (s). Then the final numbers on validation and test, of generated and gold responses. "NA" where a run has
    none. `seed` and `run` are added behind.
    """
    measures = {run.settings.get("train.success", "reward") for run in runs}
    title = _measure_title(measures.pop()) if len(measures) == 1 else "success"
    keys = ordered(sorted({key.split(".")[2] for run in runs for key in run.summary if key.startswith(POLICY)}))
    keys = [key for key in keys if key not in ("reward_low", "reward_high", DISTANCE)]
    ranked_runs = sorted(runs, key=lambda run: (run.algorithm, len(run.seed), run.seed, run.name))
    rows = [_result(run, task, run.algorithm, "policy", title, keys) for run in ranked_runs]
    return [_result(ranked_runs[0], task, "reference", "reference", title, keys), *rows] if rows else []


def _measure_title(measure: str) -> str:
    return "final_reward" if measure == "reward" else measure.removeprefix("reward_")


def _result(run: Run, task: str, algorithm: str, model: str, title: str, keys: Sequence[str]) -> dict[str, str]:
    found, measure = run.summary, run.settings.get("train.success", "reward")
    trained = model == "policy"
    row = {"task_name": task, "baseline_model": _baseline(run.settings), "algorithm": algorithm}
    for which in ("best", "worst"):
        at = {key: found.get(f"checkpoints.{which}.{key}") if trained else None for key in ("epoch", "update", "value")}
        row |= {f"{which} e": _three(at["epoch"]), f"{which} s": _three(at["update"])}
        row[f"{which} V {title}"] = _three(at["value"])
    row |= {f"val_{title}": _three(found.get(f"validation.{model}.{measure}"))}
    row |= {f"test_{title}": _three(found.get(f"{model}.all.{measure}"))}
    sources = {"val_gen": f"validation.{model}", "test_gen": f"{model}.all"}
    sources |= {"val_gold": "validation.gold", "test_gold": "gold.all"}
    for segment, source in sources.items():
        row |= {f"{segment} {key}": _three(found.get(f"{source}.{key}")) for key in keys}
    return {**row, "seed": run.seed if trained else "", "run": run.name if trained else ""}


def _baseline(settings: Mapping[str, str]) -> str:
    """What the reference was made from."""
    names = (settings.get("policy.model"), settings.get("policy.adapter"))
    return " + ".join(name for name in names if name and name != "None") or "NA"


def _three(value: float | None) -> str:
    """Three decimals; counts as they are."""
    if value is None:
        return "NA"
    return f"{value:.3f}".rstrip("0").rstrip(".") if value == int(value) else f"{value:.3f}"
