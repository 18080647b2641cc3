"""The state of an optimizer is written and restored, whichever optimizer it is."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from alol.base.work import Work
from alol.compute.progress import Progress
from alol.config import params
from alol.training import loop


@pytest.mark.filterwarnings("ignore:Paged optimizers are not supported on CPU")
@pytest.mark.parametrize("name", ["adamw", "paged_adamw_32bit"])
def test_a_run_goes_on_with_the_moments_of_its_optimizer(tmp_path, name):
    settings = dataclasses.replace(params.load("demo").train.optimizer, name=name)

    def learner():
        torch.manual_seed(1)
        module = torch.nn.Linear(3, 2)
        return module, loop.make_optimizer(module, settings)

    def step(module, optimizer, number):
        optimizer.zero_grad()
        (module(torch.full((1, 3), 1.0 + number)) ** 2).sum().backward()
        optimizer.step()

    module, optimizer = learner()
    for number in range(3):
        step(module, optimizer, number)
        if number == 1:
            Progress(Work(tmp_path, 0.0)).write(module, optimizer, {"step": 2})

    again, restored = learner()
    values, _ = Progress(Work(tmp_path, 0.0)).restore(again, restored)
    assert values == {"step": 2}
    step(again, restored, 2)
    torch.testing.assert_close(again.weight, module.weight, rtol=0, atol=0)
    without, fresh = learner()
    without.load_state_dict(again.state_dict())
    step(without, fresh, 2)
    step(again, restored, 2)
    assert not torch.equal(without.weight, again.weight)  # for the moments of the first two steps count
