"""Scores the reference's rollouts: data/rollouts -> data/baselines, one column per reward component."""

from alol.base.work import Work
from alol.config import paths
from alol.config.params import Params
from alol.rewards import scoring
from stages._cli import command


@command("baseline", rows=True, inputs=lambda params: [paths.rollouts(params.task), paths.reward_model(params.task)])
def main(params: Params, work: Work) -> None:
    """Score the reference's responses with every reward component."""
    task = params.task
    by = scoring.Scoring.of(params, paths.reward_model(task), work)
    with by.pool, by.pool.output(paths.baselines(task)) as folder:
        scoring.score_rollouts(by, paths.rollouts(task), folder)


if __name__ == "__main__":
    main()
