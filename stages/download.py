"""Fetches what a task's `source` names: files, archives (unpacked), hub data sets, or the demo's generated corpus."""

from alol.config import paths
from alol.config.params import Params
from alol.data.download import fetch
from stages._cli import command


@command("download")
def main(params: Params) -> None:
    """Fetch a task's sources into data/raw/<task>/."""
    fetch(params.task, params.source, paths.raw(params.task), paths.work("downloads"))


if __name__ == "__main__":
    main()
