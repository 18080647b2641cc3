"""Two processes (gloo, on the CPU) against one: uneven micro-batches, fewer rows than processes, dropout."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys

import numpy as np
import pytest

from tests import small

pytestmark = pytest.mark.slow


def run(folder, processes, module="ranks"):
    """What each process of a module beside this one saw."""
    folder.mkdir()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    started = []
    for rank in range(processes):
        own = {**os.environ, "PYTHONPATH": str(small.ROOT), "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
        if processes > 1:
            own |= {"WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes), "RANK": str(rank)}
            own |= {"LOCAL_RANK": str(rank), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        command = [sys.executable, "-m", f"tests.training.{module}", str(folder)]
        started.append(subprocess.Popen(command, cwd=small.ROOT, env=own, stderr=subprocess.PIPE, text=True))
    for process in started:
        said = process.communicate(timeout=1200)[1]
        assert process.returncode == 0, said[-3000:]
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(processes)]


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    return run(folder / "one", 1)[0], run(folder / "two", 2)


@pytest.mark.parametrize("name", ["uneven", "fewer"])
def test_the_loop_has_the_losses_of_one_process(found, name):
    one, two = found
    assert len(one[name]["loss"]) == 3
    for key in ("loss", "norm", "validation"):
        np.testing.assert_allclose(two[0][name][key], one[name][key], rtol=1e-4)
    assert two[0][name] == two[1][name]


@pytest.mark.parametrize("name", ["ppo", "ppo_fewer"])
def test_ppo_has_the_losses_of_one_process(found, name):
    one, two = found
    assert len(one[name]["curve"]) == 2
    for key in ("loss", "policy_loss", "value_loss", "ratio", "reward", "kl", "length"):
        expected = one[name]["curve"][0][key]
        assert two[0][name]["curve"][0][key] == pytest.approx(expected, rel=1e-4, abs=1e-4), key
    assert two[0][name]["weights"] == two[1][name]["weights"]


def test_each_process_measures_its_share_of_a_rollout(found):
    one, two = found
    assert one["ppo"]["measured"] == 3
    assert [process["ppo"]["measured"] for process in two] == [1, 2]  # the longest, and two shorter ones
    assert [process["ppo_fewer"]["measured"] for process in two] == [1, 0]


def test_each_process_draws_its_own_dropout_and_the_first_that_of_one_process(found):
    one, two = found
    assert two[0]["drawn"] == one["drawn"]
    assert not set(two[0]["drawn"]) & set(two[1]["drawn"])


def test_weights_of_a_model_on_the_processor_stay_where_they_were_loaded(found):
    """How a product is rounded depends on where they begin, modulo 16 bytes: mapped from a file, or copied."""
    one, two = found
    assert [process["moved"] for process in (one, *two)] == [False] * 3


def test_a_run_with_dropout_in_two_processes_repeats_itself(found):
    _, two = found
    first, again = two[0]["dropout"]
    assert first == again
    assert first["loss"] != two[0]["uneven"]["loss"]
