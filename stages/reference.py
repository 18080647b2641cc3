"""Stage reference: the supervised policy that everything is measured against."""

from pathlib import Path

from alol.base.work import Work
from alol.config import paths
from alol.config.params import Params, keep
from stages._cli import command


def inputs(params: Params) -> list[Path]:
    """What the reference depends on beside the parameters."""
    return [paths.clean(params.task)]


@command("reference", distributed=True, inputs=inputs)
def main(params: Params, work: Work) -> None:
    """Train the reference policy with NLL, or point to a published one."""
    from alol.compute import launch  # not above: a process that only starts others needs no torch
    from alol.training import reference

    accelerator = launch.accelerator(params.launch, work)
    with launch.output(paths.reference(params.task), accelerator) as folder:
        reference.make(params, paths.clean(params.task), folder, accelerator, work)
        if folder is not None:
            keep(params, ["policy"], folder)


if __name__ == "__main__":
    main()
