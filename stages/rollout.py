"""Stage rollout: the reference's own responses to the validation and test prompts, unscored.

And, where `generate.rollout` asks for them, several sampled ones to each validation and each training prompt.
"""

from functools import partial
from pathlib import Path

from alol.base.files import write_json
from alol.base.work import Work
from alol.compute import shards
from alol.config import paths
from alol.config.params import SETTINGS, Params, plain
from alol.data import schema
from stages._cli import command

SPLITS = (schema.VALIDATION, schema.TEST)


def inputs(params: Params) -> list[Path]:
    """What the answers depend on beside the parameters."""
    splits = dict.fromkeys([*SPLITS, *_sampled(params)])
    return [paths.reference(params.task), *(_prompts(params, split) for split in splits)]


def _sampled(params: Params) -> dict[str, int]:
    """Split -> how many answers are sampled to each of its prompts."""
    asked = {schema.VALIDATION: params.generate.rollout.drawn, schema.TRAIN: params.generate.rollout.train_samples}
    return {split: count for split, count in asked.items() if count}


def _prompts(params: Params, split: str) -> Path:
    return paths.clean(params.task) / f"{split}.parquet"


@command("rollout", rows=True, inputs=inputs)
def main(params: Params, work: Work) -> None:
    """Let the reference policy answer the validation and test prompts."""
    from alol.compute.generate import Decoding  # not above: a process that only starts others needs no torch
    from alol.training import rollout

    recipe = partial(rollout.Answerer.load, paths.reference(params.task), params)
    with shards.Pool.of(recipe, params.launch, work) as pool, pool.output(paths.rollouts(params.task)) as folder:
        for split in SPLITS:
            prompts = rollout.prompt_rows(_prompts(params, split))
            decoding = Decoding(params.generate, params.generate.seed, name=split)
            rows = rollout.rollouts(pool, prompts, decoding, work.of(split))
            if pool.main:
                schema.write(folder / f"{split}.parquet", schema.ROLLOUTS, rows)
        for split, count in _sampled(params).items():
            prompts = rollout.prompt_rows(_prompts(params, split))
            rows = rollout.samples(pool, prompts, params, count, work.of("samples").of(split))
            if pool.main:
                schema.write(paths.samples(folder) / f"{split}.parquet", schema.SAMPLES, rows)
        if pool.main:
            made_with = {"generate": {"rollout": params.generate.rollout}}  # all that value reads of the section
            write_json(paths.samples(folder) / SETTINGS, plain(made_with))


if __name__ == "__main__":
    main()
