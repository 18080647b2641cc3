"""Scores the data's own responses: data/clean -> data/annotated, one column per reward component."""

from alol.base.work import Work
from alol.config import paths
from alol.config.params import Params, keep
from alol.rewards import scoring
from stages._cli import command


@command("annotate", rows=True, inputs=lambda params: [paths.clean(params.task), paths.reward_model(params.task)])
def main(params: Params, work: Work) -> None:
    """Score the data's responses with every reward component."""
    task = params.task
    by = scoring.Scoring.of(params, paths.reward_model(task), work)
    with by.pool, by.pool.output(paths.annotated(task)) as folder:
        scoring.annotate(by, paths.clean(task), folder, paths.logged(task).name, same=params.same_test_rewards)
        if by.pool.main:
            keep(params, ["rewards", "test_rewards", "scoring"], folder)


if __name__ == "__main__":
    main()
