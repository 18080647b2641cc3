"""What an NVIDIA GPU is needed for, measured in one call on random weights of the published shapes.

LLaMA-7B in NF4 with LoRA: updates of A-LoL against the method written plainly, after a comparison of the loss and the
gradient; and a generation batch. GPT-2 XL in full: how much of the device's matrix rate goes into useful work. LLaMA
again: updates of DPO against TRL's trainer, where `trl` is installed. Needs neither dvc nor a hub, but 13 GB of disk.
The result is written after each part, so that what runs out of memory later takes nothing with it.

python -m benchmarks.gpu --out gpu.json
"""

from __future__ import annotations

import dataclasses
import json
import tempfile
import traceback
from pathlib import Path
from typing import Any

import click
import numpy as np

from alol.compute import launch
from alol.config import params
from benchmarks import measure
from benchmarks.gpu_llama import llama
from benchmarks.gpu_run import SOURCE, Run, Sizes, precision, tokenizer_of, words
from benchmarks.gpu_trl import against_trl
from benchmarks.gpu_xl import gpt2_xl


@click.command()
@click.option("--task", default="hha", help="Whose settings of adapter, optimizer and generation are used.")
@click.option("--layers", default=32, help="The defaults are LLaMA-7B's.")
@click.option("--width", default=4096)
@click.option("--heads", default=32)
@click.option("--intermediate", default=11008)
@click.option("--vocabulary", default=32000)
@click.option("--prompt", default=640, help="Tokens of a prompt, at most.")
@click.option("--response", default=128, help="Tokens of a response, at most.")
@click.option("--batch", default=16, help="Responses of an update, and prompts of the generation batch.")
@click.option("--micro", default=4, help="Responses of one pass of the plain method.")
@click.option("--tokens", type=int, help="Padded tokens of one of our passes; else half of the plain method's most.")
@click.option("--updates", default=8, help="Timed, on each side.")
@click.option("--recompute/--keep-activations", default=False, help="Gradient checkpointing, on both sides.")
@click.option("--xl-layers", default=48, help="The defaults are GPT-2 XL's.")
@click.option("--xl-width", default=1600)
@click.option("--xl-heads", default=25)
@click.option("--xl-vocabulary", default=50257)
@click.option("--xl-batch", default=64, help="Responses of an update.")
@click.option("--xl-tokens", type=int, help="Padded tokens of one pass; else launch.tokens of params.yaml.")
@click.option("--base", type=click.Path(path_type=Path), help="Folder in which LLaMA's base is kept; else in none.")
@click.option("--out", type=click.Path(path_type=Path), help="JSON file for the result.")
def main(base: Path | None, out: Path | None, **options: Any) -> None:
    """Measure updates and generation on random models of LLaMA-7B's and GPT-2 XL's shape.

    A part that fails is named in the result, and the others are measured.
    """
    sizes = Sizes(**options)
    result: dict[str, Any] = {**measure.machine(), "precision": precision(), "sizes": dataclasses.asdict(sizes)}
    settings = dataclasses.replace(params.load(sizes.task, "a_lol", SOURCE).launch, precision=precision())
    failed = []
    with tempfile.TemporaryDirectory() as folder:
        tokenizer = tokenizer_of(words(2 * sizes.vocabulary, np.random.default_rng(1)), sizes.vocabulary)
        run = Run(sizes, launch.accelerator(settings), tokenizer, base or Path(folder))
        for name, part in {"llama": llama, "gpt2_xl": gpt2_xl, "trl": against_trl}.items():
            try:
                result[name] = part(run)
            except Exception as error:
                traceback.print_exc()
                result[name] = {"failed": f"{type(error).__name__}: {error}"}
                failed.append(name)
            run.main.free_memory()
            text = json.dumps(result, indent=2)
            if out is not None:
                out.write_text(text + "\n", encoding="utf-8")
    click.echo(text)
    if failed:
        raise click.ClickException(f"{', '.join(failed)} failed, see above")


if __name__ == "__main__":
    main()
