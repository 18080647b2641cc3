"""Raw files to one table of prompts and responses per split, and the task's labelled texts."""

from alol.config import paths
from alol.config.params import Params
from alol.data.clean import clean
from stages._cli import command


@command("clean")
def main(params: Params) -> None:
    """Turn a task's raw files into data/clean/<task>/."""
    clean(params.task, params.clean, paths.raw(params.task), paths.clean(params.task))


if __name__ == "__main__":
    main()
