"""Stage rollout: the reference's own responses to the validation and test prompts, unscored."""

from alol.compute import launch
from alol.config import paths
from alol.config.params import Params
from alol.data import schema
from alol.models import policies
from alol.training import rollout
from stages._cli import command


@command("rollout", distributed=True)
def main(params: Params) -> None:
    """Let the reference policy answer the validation and test prompts."""
    accelerator = launch.accelerator(params.launch)
    policy = policies.load(paths.reference(params.task))
    with launch.output(paths.rollouts(params.task), accelerator) as folder:
        for split in (schema.VALIDATION, schema.TEST):
            prompts = rollout.prompt_rows(paths.clean(params.task) / f"{split}.parquet")
            rows = rollout.rollouts(policy, prompts, params, accelerator, seed=params.generate.seed, name=split)
            if folder is not None:
                schema.write(folder / f"{split}.parquet", schema.ROLLOUTS, rows)


if __name__ == "__main__":
    main()
