"""The report of one run: metrics/report.html as one self-contained page, and its main sentences for the terminal.

Figures are embedded, texts are escaped, and nothing in it depends on the day or the folder, so that equal runs give
equal bytes; what a run took, and when and by which commit it was made, is in `alol.evaluation.provenance`. What the
numbers are is settled in `alol.evaluation.summary`.
"""

from __future__ import annotations

from pathlib import Path

from alol.base.text import show
from alol.evaluation import metrics, report_figures, report_tables, verdict
from alol.evaluation.provenance import FILE
from alol.evaluation.report_run import Run
from alol.evaluation.report_tables import difference
from alol.evaluation.summary import ALL
from alol.evaluation.summary_tables import resampled

TEMPLATE = Path(__file__).with_name("report.html.j2")


def judged(run: Run) -> verdict.Verdict:
    return verdict.verdict(run.params.algorithm, run.summary, run.measured)


def lines(run: Run) -> list[str]:
    """What one has to know, the verdict first: on the terminal, and at the page's top."""
    failures = verdict.failures(run.history, run.summary, run.measured)
    return [judged(run).line, *failures, headline(run), *doubts(run)]


def headline(run: Run) -> str:
    """Policy against reference, in one sentence."""
    policy, reference, delta = (run.summary[name][ALL] for name in ("policy", "reference", "delta"))
    interval = "95 % interval {reward_low:.3f} to {reward_high:.3f}"
    return (
        f"On {len(run.rows['policy'])} test prompts, {run.params.algorithm} reaches a mean reward of "
        f"{policy['reward']:.3f} ({interval.format(**policy)}) and the reference {reference['reward']:.3f} "
        f"({interval.format(**reference)}): a difference of {difference(delta)}."
    )


def doubts(run: Run) -> list[str]:
    """One sentence for each simple rule that a trained reward is not better than: its lead's interval reaches 0."""
    found = []
    for component, measured in run.reward_model.items():
        name = "accuracy" if "accuracy" in measured else "spearman"
        figure = "accuracy" if name == "accuracy" else "rank correlation"
        for rule, what in (("length", "the number of words"), ("words", "a bag of words")):
            lead = f"{name}_over_{rule}"
            if measured.get(f"{lead}_low", 1.0) > 0:
                continue
            ends = f"{measured[f'{lead}_low']:+.3f} to {measured[f'{lead}_high']:+.3f}"
            found.append(
                f"The reward '{component}' is not shown to be better than {what}: {figure} {measured[name]:.3f} "
                f"against {measured[f'{rule}_{name}']:.3f} on {measured['rows']:,.0f} unseen examples, a lead of "
                f"{measured[lead]:+.3f} (95 % interval {ends})."
            )
    return found


def render(run: Run) -> str:
    """The page. Every text goes through the template's escaping."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["show"] = show
    environment.filters["shown"] = report_tables.shown
    columns = run.training.columns
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        params=run.params,
        summary=run.summary,
        verdict=judged(run),
        failures=verdict.failures(run.history, run.summary, run.measured),
        headline=headline(run),
        doubts=doubts(run),
        formula=report_tables.formula(run.params.reward),
        kept=report_figures.kept_checkpoint(bool(run.summary["selected"])),
        learned=report_figures.learned(run),
        names=[report_tables.short(name) for name in report_tables.score_names(run)],
        scores=report_tables.scores(run),
        resampled=resampled(run.measured["policy"].conversations),
        figures=report_figures.drawn(run),
        levels=metrics.PERCENTILES,
        percentiles=[(name, metrics.percentiles(values)) for name, values in run.training.groups.items()],
        examples=run.training.examples,
        responses=len(columns["advantage"]),
        below=int((columns["advantage"] <= 0).sum()),
        off_policy=report_tables.off_policy(run),
        samples=report_tables.samples(run),
        facts=report_tables.facts(run),
        sizes=report_tables.sizes(run),
        settings=run.settings,
        provenance=FILE,
    )
