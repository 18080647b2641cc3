"""Stage evaluate: the policy's responses to the test prompts and their rewards."""

from alol import rewards
from alol.compute import launch
from alol.config import paths
from alol.config.params import Params
from alol.data import schema
from alol.models import policies
from alol.training import rollout, validation
from stages._cli import command


@command("evaluate", algorithm=True, distributed=True)
def main(params: Params) -> None:
    """Let the policy answer the test prompts and score the answers."""
    accelerator = launch.accelerator(params.launch)
    policy = policies.load(paths.policy(params.task, params.algorithm))
    prompts = rollout.prompt_rows(paths.clean(params.task) / "test.parquet")
    with launch.output(paths.generations(params.task, params.algorithm), accelerator) as folder:
        rows = rollout.rollouts(policy, prompts, params, accelerator, seed=params.seed, name="test")
        if folder is not None:
            scorer = rewards.load(params.test_rewards, paths.reward_model(params.task), params.launch)
            columns = schema.scored(schema.ROLLOUTS, scorer.names)
            schema.write(folder / "test.parquet", columns, validation.scored_rows(rows, scorer))


if __name__ == "__main__":
    main()
