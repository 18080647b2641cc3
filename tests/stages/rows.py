"""What test_rows runs in several processes at once: the stages over rows, one after the other, in the current folder.

`python -m tests.stages.rows`, with the environment of one of several processes.
"""

from __future__ import annotations

from tests import small

STAGES = ("annotate", "rollout", "baseline", "advantage", "evaluate")


def main() -> None:
    import torch
    from accelerate import PartialState

    torch.set_num_threads(1)
    for name in STAGES:
        small.run([name])
        PartialState().wait_for_everyone()  # the next one reads what the main process has written


if __name__ == "__main__":
    main()
