"""Stage value: V(x) of the reference, from its own rewards on the validation prompts."""

from alol.base.files import replacing
from alol.compute import launch
from alol.config import paths
from alol.config.params import Params, keep
from alol.models import policies
from alol.training import value
from stages._cli import command


@command("value")
def main(params: Params) -> None:
    """Fit the value head to the reference's rewards on the validation prompts."""
    policy = policies.load(paths.reference(params.task))
    accelerator = launch.accelerator(params.launch)
    fit = value.from_rollouts(policy, paths.baselines(params.task) / "validation.parquet", params, accelerator.device)
    with replacing(paths.value(params.task)) as folder:
        value.save(fit, folder, params.value)
        keep(params, ["reward"], folder)
    value.save_error(fit, paths.METRICS / "value.json")


if __name__ == "__main__":
    main()
