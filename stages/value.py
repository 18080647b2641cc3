"""Stage value: V(x) of the reference, from its own rewards on the validation prompts."""

from pathlib import Path

from alol.base.files import replacing
from alol.base.work import Work
from alol.compute import launch
from alol.config import paths
from alol.config.params import Params, keep
from alol.models import policies
from alol.training import value
from stages._cli import command


def inputs(params: Params) -> list[Path]:
    """What V(x) depends on beside the parameters."""
    answers = paths.baselines(params.task)
    return [paths.reference(params.task), answers / "validation.parquet", paths.samples(answers)]


@command("value", inputs=inputs)
def main(params: Params, work: Work) -> None:
    """Fit the value head to the reference's rewards on the validation prompts."""
    policy = policies.load(paths.reference(params.task))
    accelerator = launch.accelerator(params.launch)
    launch.placed(policy.model, accelerator, trained=False)
    with replacing(paths.value(params.task)) as folder:
        with accelerator.autocast():  # the states that advantage gives the head; it and its training are in fp32
            fit = value.from_rollouts(policy, paths.baselines(params.task), params, accelerator, work)
        value.save(fit, folder, params.value)
        keep(params, ["reward", "value"], folder)
    value.save_error(fit, paths.METRICS / "value.json")


if __name__ == "__main__":
    main()
