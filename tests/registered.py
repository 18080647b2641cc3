"""The constants of the registered algorithms, as params.yaml has them."""

from __future__ import annotations

from typing import Any

import pytest

from alol.checks import additions
from alol.config import yaml_files
from tests.closure import ROOT


def constants(name: str) -> dict[str, Any]:
    """The entry of an algorithm; a test fails in words where there is none."""
    entries = yaml_files.read_params(ROOT)["algorithms"]
    if name not in entries:
        pytest.fail(next(line for line in additions.missing(ROOT) if f"lacks {name};" in line))
    return entries[name]
