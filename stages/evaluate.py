"""Stage evaluate: the policy's responses to the test prompts, their rewards, and how far from the reference it went."""

from pathlib import Path

from alol import rewards
from alol.base.work import Work
from alol.compute import launch
from alol.compute.generate import Decoding
from alol.config import paths
from alol.config.params import Params
from alol.data import schema
from alol.models import policies
from alol.rewards import scoring
from alol.training import distance, rollout
from stages._cli import command


def inputs(params: Params) -> list[Path]:
    """What the answers and their scores depend on beside the parameters; an adapter also on the reference."""
    task = params.task
    return [paths.policy(task, params.algorithm), paths.reference(task), paths.reward_model(task), _prompts(params)]


def _prompts(params: Params) -> Path:
    return paths.clean(params.task) / "test.parquet"


@command("evaluate", algorithm=True, distributed=True, inputs=inputs)
def main(params: Params, work: Work) -> None:
    """Let the policy answer the test prompts, score the answers and measure their log-ratios to the reference."""
    accelerator = launch.accelerator(params.launch, work)
    policy = policies.load(paths.policy(params.task, params.algorithm))
    prompts = rollout.prompt_rows(_prompts(params))
    with launch.output(paths.generations(params.task, params.algorithm), accelerator) as folder:
        decoding = Decoding(params.generate, params.seed, name="test")
        rows, ids = rollout.rollouts_and_ids(policy, prompts, params, accelerator, decoding, work.of("responses"))
        if folder is not None:
            scorer = rewards.load(params.test_rewards, paths.reward_model(params.task), params.launch)
            scoring.score_rows(scorer, rows, folder / "test.parquet", work.of("scores"))
            measured = distance.log_ratios(
                policy, paths.reference(params.task), rows, ids, params, accelerator, work.of("log_ratios")
            )
            schema.write(folder / "log_ratios.parquet", schema.LOG_RATIOS, measured)


if __name__ == "__main__":
    main()
