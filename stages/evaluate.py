"""Stage evaluate: the policy's responses to the test prompts, their rewards, and how far from the reference it went."""

from functools import partial
from pathlib import Path

from alol.base.work import Work
from alol.compute import shards
from alol.config import paths
from alol.config.params import Params
from alol.data import schema
from alol.rewards import scoring
from stages._cli import command


def inputs(params: Params) -> list[Path]:
    """What the answers and their scores depend on beside the parameters; an adapter also on the reference."""
    task = params.task
    models = [paths.policy(task, params.algorithm), paths.reference(task), paths.reward_model(task)]
    return [*models, _prompts(params), _logged(params)]


def _prompts(params: Params) -> Path:
    return paths.clean(params.task) / "test.parquet"


def _logged(params: Params) -> Path:
    return paths.advantages(params.task) / "test.parquet"


@command("evaluate", algorithm=True, rows=True, inputs=inputs)
def main(params: Params, work: Work) -> None:
    """Let the policy answer the test prompts, score the answers, measure their log-ratios and those of logged ones."""
    from alol.compute.generate import Decoding  # not above: a process that only starts others needs no torch
    from alol.training import distance, rollout

    task = params.task
    prompts, decoding = rollout.prompt_rows(_prompts(params)), Decoding(params.generate, params.seed, name="test")
    recipe = partial(distance.Compared.load, paths.policy(task, params.algorithm), paths.reference(task), params)
    with shards.Pool.of(recipe, params.launch, work) as pool:
        rows = rollout.rollouts_and_ids(pool, prompts, decoding, work.of("responses"))
        measured = distance.log_ratios(pool, rows, params.generate.part_rows, work.of("log_ratios"))
        logged = distance.logged(pool, _logged(params), params.generate.part_rows, work.of("logged"))
    by = scoring.Scoring.of(params, paths.reward_model(task), work.of("scores"), test=True)
    with by.pool, by.pool.output(paths.generations(task, params.algorithm)) as folder:
        scoring.score_rows(by, rows, folder / "test.parquet")
        if by.pool.main:
            schema.write(folder / "log_ratios.parquet", schema.LOG_RATIOS, measured)
            schema.write(folder / "logged.parquet", schema.LOG_RATIOS, logged)


if __name__ == "__main__":
    main()
