"""Trains the reward components that have a `train` section; an (almost) empty folder when there is none."""

from alol.base.files import write_json
from alol.base.work import Work
from alol.config import paths
from alol.config.params import Params
from alol.rewards import training
from stages._cli import command


@command("reward_model", inputs=lambda params: [paths.clean(params.task)])
def main(params: Params, work: Work) -> None:
    """Train the reward models of the task."""
    clean, folder = paths.clean(params.task), paths.reward_model(params.task)
    metrics = training.train(params.rewards, clean, folder, params.launch, work)
    write_json(paths.METRICS / "reward_model.json", metrics)


if __name__ == "__main__":
    main()
