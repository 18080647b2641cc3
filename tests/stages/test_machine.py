"""What a stage notes of the machine: the device and processes that it used, not those that it was offered."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest

from alol.base import machine


@pytest.mark.parametrize(
    ("device", "available", "expected"),
    [("auto", True, "Some GPU"), ("auto", False, "Some CPU"), ("cpu", True, "Some CPU")],
)
def test_the_device_is_the_one_that_computed(monkeypatch, device, available, expected):
    cuda = SimpleNamespace(is_available=lambda: available, get_device_name=lambda: "Some GPU")
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda, get_num_threads=lambda: 3))
    monkeypatch.setattr(machine, "_processor", lambda: "Some CPU")
    monkeypatch.setenv("WORLD_SIZE", "2")
    found = machine.used({"device": device, "processes": 4, "micro_batch": 5})
    assert found.pop("python") == ".".join(map(str, sys.version_info[:3]))
    assert {name: found.pop(name).count(".") for name in machine.LIBRARIES} == {"torch": 2, "transformers": 2}
    assert found == {"device": expected, "processes": 2, "micro_batch": 5, "threads": 3}


def test_a_stage_without_torch_has_no_threads_of_it(monkeypatch):
    monkeypatch.delitem(sys.modules, "torch")
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    found = machine.used({"device": "auto", "processes": 4})
    assert (found["threads"], found["processes"]) == (None, 1)
    assert found["device"] not in ("", "auto")
