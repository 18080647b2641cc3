"""Raw files to one table of prompts and responses per split, and the task's labelled texts."""

from alol import paths
from alol.clean import clean
from alol.params import Params
from stages._cli import command


@command("clean")
def main(params: Params) -> None:
    """Turn a task's raw files into data/clean/<task>/."""
    clean(params.task, params.clean, paths.raw(params.task), paths.clean(params.task))


if __name__ == "__main__":
    main()
