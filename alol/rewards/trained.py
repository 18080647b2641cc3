"""Rewards that stage reward_model trained: every weight, adapters, or linear heads on one frozen model."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from alol.base.errors import InputError
from alol.base.files import read_json, write_json
from alol.config import model_names
from alol.rewards import adapters, backbones, heads
from alol.rewards.network import Network, NetworkReward
from alol.rewards.options import objective

ABOUT = "trained.json"


def note(folder: Path, outputs: int, backbone: str | None, scale: tuple[float, float] | None) -> None:
    """Writes what the weights do not hold: mean and standard deviation of the learnt numbers, and the base model."""
    mean, std = scale or (None, None)
    write_json(folder / ABOUT, {"outputs": outputs, "backbone": backbone, "mean": mean, "std": std})


class TrainedReward(NetworkReward):
    """A component that this pipeline may have trained. Its models of all folds share one base.

    Subclasses build the network from `train.init`, as it was built for training.
    """

    @abstractmethod
    def start(self, tokenizer: Any, outputs: int) -> Any:
        """Builds the network of `train.init` with a new head."""

    @abstractmethod
    def frozen(self) -> Any:
        """Builds the network of `train.init` without a head."""

    def trained(self, folder: Path) -> Network:
        tuning = self._options.train.tuning
        if tuning == "head":
            network, backbone, how = self._shared(self._head_base)
            head = heads.load(folder, network.model.config.hidden_size, backbone, self._where)
            return backbones.HeadNetwork(network, how, head)
        if tuning == "lora":
            about = read_json(folder / ABOUT, dict[str, Any])
            base, backbone = self._shared(lambda: self._adapter_base(about["outputs"]))
            if backbone != about["backbone"]:
                raise InputError(
                    f"{self._where}.train.init is not the model that {folder} was made for; run `dvc repro`"
                )
            return base.load(folder)
        return super().trained(folder)

    def _shared(self, make: Callable[[], Any]) -> Any:
        """The base that all models of the component share: made when it is first asked for."""
        if getattr(self, "_base", None) is None:
            train = self._options.train
            model_names.check_sha256(train.init, train.init_sha256, f"{self._where}.train.init_sha256")
            self._base = make()
        return self._base

    def _head_base(self) -> tuple[Any, str, str]:
        network = self.frozen()
        backbone = backbones.identity(self._options, self._where, network.model.config)
        return network, backbone, backbones.pooling(self._options, network.model)

    def _adapter_base(self, outputs: int) -> tuple[adapters.Adapted, str]:
        with torch.random.fork_rng():  # for the new head, which the adapters' replaces
            network = self.start(backbones.checkpoint_tokenizer(self._options, self._where), outputs)
        backbone = backbones.identity(self._options, self._where, network.model.config)
        return adapters.Adapted(network, self._where), backbone

    def scores(self, logits: np.ndarray, name: str) -> np.ndarray:
        """Scores [N] from logits; learnt numbers are scaled back to the column's units and clipped to the bounds."""
        options = self._options
        if options.train is None or objective(options) != "scores":
            return self.output(logits)
        about = read_json(self._folder / name / ABOUT, dict[str, Any])
        return np.clip(logits[:, 0] * about["std"] + about["mean"], options.low, options.high)
