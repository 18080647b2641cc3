"""Scores the data's own responses: data/clean -> data/annotated, one column per reward component."""

from alol import rewards
from alol.base.files import replacing
from alol.base.work import Work
from alol.config import paths
from alol.config.params import Params, keep
from alol.rewards import scoring
from stages._cli import command


@command("annotate", inputs=lambda params: [paths.clean(params.task), paths.reward_model(params.task)])
def main(params: Params, work: Work) -> None:
    """Score the data's responses with every reward component."""
    components, test = rewards.load_both(params, paths.reward_model(params.task))
    with replacing(paths.annotated(params.task)) as folder:
        scoring.annotate(components, test, paths.clean(params.task), folder, work)
        keep(params, ["rewards", "test_rewards"], folder)


if __name__ == "__main__":
    main()
