"""Stage rollout: the reference's own responses to the validation and test prompts, unscored."""

from pathlib import Path

from alol.base.work import Work
from alol.compute import launch
from alol.config import paths
from alol.config.params import Params
from alol.data import schema
from alol.models import policies
from alol.training import rollout
from stages._cli import command

SPLITS = (schema.VALIDATION, schema.TEST)


def inputs(params: Params) -> list[Path]:
    """What the answers depend on beside the parameters."""
    return [paths.reference(params.task), *(_prompts(params, split) for split in SPLITS)]


def _prompts(params: Params, split: str) -> Path:
    return paths.clean(params.task) / f"{split}.parquet"


@command("rollout", distributed=True, inputs=inputs)
def main(params: Params, work: Work) -> None:
    """Let the reference policy answer the validation and test prompts."""
    accelerator = launch.accelerator(params.launch)
    policy = policies.load(paths.reference(params.task))
    with launch.output(paths.rollouts(params.task), accelerator) as folder:
        for split in SPLITS:
            rows = rollout.rollouts(
                policy, rollout.prompt_rows(_prompts(params, split)), params, accelerator,
                seed=params.generate.seed, name=split, work=work.of(split),
            )  # fmt: skip
            if folder is not None:
                schema.write(folder / f"{split}.parquet", schema.ROLLOUTS, rows)


if __name__ == "__main__":
    main()
