"""Tiny models and projects, built here: nothing is downloaded."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import custom
from alol.config.sections import Scratch
from alol.models import scratch

# Reward functions lie in custom/: those of the tests are found there too.
custom.__path__.append(str(Path(__file__).parent / "rewards"))

TEXTS = [
    "User: what is the capital of France?\nAssistant:",
    "The capital of France is Paris, thank you for asking!",
    "User: name the opposite of hot\nAssistant:",
    "cold",
    "I do not know, look it up yourself.",
]


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """Equal numbers whatever else the machine does."""
    torch.set_num_threads(1)


@pytest.fixture
def serving():
    """Keeps local servers until the test's end, and ends them."""
    servers = []

    def start(server):
        servers.append(server)
        return server

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture(scope="session")
def tokenizer():
    return scratch.train_tokenizer(TEXTS * 3, 400)


@pytest.fixture(scope="session", params=["gpt2", "llama"])
def architecture(request):
    return request.param


def tiny_model(architecture: str, tokenizer, seed: int = 0, layers: int = 2, init_scale: float = 5.0):
    """Two layers of width 64 (NF4 works in blocks of 64), its weights large enough to differ from uniform."""
    settings = Scratch(
        architecture=architecture, layers=layers, width=64, heads=4, context=128, vocabulary=400, init_scale=init_scale
    )
    return scratch.new_model(settings, tokenizer, seed)


@pytest.fixture(scope="session")
def model(architecture, tokenizer):
    return tiny_model(architecture, tokenizer)


def pytest_collection_modifyitems(items):
    """Files that take minutes start first, so that no worker waits for one of them at the end."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)
