"""The examples run as they stand."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.support.giants import AYA_35B, giant, giant_path
from tuner.machine.stated import stated
from tuner.planning import make_plan
from tuner.units import GIB, size_text
from tuner.wishes import Wishes

ROOT = Path(__file__).parents[1]


def test_plan_a_model() -> None:
    """The settings, a line per device, and why: what `make_plan` says of such a machine."""
    done = subprocess.run(
        [sys.executable, "examples/plan_a_model.py", str(giant_path(AYA_35B))],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
        timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    settings, card, host, *sentences = done.stdout.splitlines()
    where = stated([24 * GIB], 64 * GIB)
    expected = make_plan(giant(AYA_35B), where, Wishes())
    uses = expected.chosen.footprint.uses
    assert settings == str(expected.chosen.settings)
    assert card.startswith(f"GPU0: {size_text(uses[0].total)}, ")
    assert host.startswith(f"host: {size_text(uses[1].total)}, ")
    assert tuple(sentences) == expected.reasons
