"""Scores the reference's rollouts: data/rollouts -> data/baselines, one column per reward component."""

from alol import rewards
from alol.base.work import Work
from alol.config import paths
from alol.config.params import Params
from alol.rewards import scoring
from stages._cli import command


@command("baseline", inputs=lambda params: [paths.rollouts(params.task), paths.reward_model(params.task)])
def main(params: Params, work: Work) -> None:
    """Score the reference's responses with every reward component."""
    components, test = rewards.load_both(params, paths.reward_model(params.task))
    scoring.score_rollouts(components, test, paths.rollouts(params.task), paths.baselines(params.task), work)


if __name__ == "__main__":
    main()
