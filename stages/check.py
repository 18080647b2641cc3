"""Before a run: mistakes in params.yaml, one line each, within seconds. Not a stage of the pipeline.

python -m stages.check
"""

import click

from alol.checks import parameters
from alol.config import params


@click.command()
def main() -> None:
    """Check parameters, names, sources and reward functions."""
    problems = parameters.problems()
    for line in problems:
        click.echo(f"Error: {line}", err=True)
    if problems:
        raise SystemExit(1)
    loaded = params.load()
    click.echo(f"params.yaml is fine: task {loaded.task}, algorithm {loaded.algorithm}, seed {loaded.seed}")


if __name__ == "__main__":
    main()
