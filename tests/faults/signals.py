# SPDX-License-Identifier: GPL-2.0-or-later
"""Signals at random moments of a run."""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING

from tests.faults.judge import faults_of

if TYPE_CHECKING:
    import signal

    from tests.faults.injection import Stage


def duration(stage: Stage) -> float:
    """How many seconds a run takes."""
    start = time.monotonic()
    stage.run()
    return time.monotonic() - start


def try_signal(stage: Stage, number: signal.Signals, seconds: float) -> tuple[bool, list[str]]:
    """Send a signal after so many seconds; return whether it came before the end, and what is wrong then."""
    outcome = stage.run(kill=(number, seconds))
    if outcome.code == 124:
        return True, [f"goes on after {number.name}"]
    is_hit = outcome.is_hit
    return is_hit, faults_of(
        stage.scenario, stage.folder, outcome.code, outcome.stderr, stage.wanted, is_killed=is_hit, texts=stage.texts
    )


def moments(seconds: float, n: int, seed: int) -> list[float]:
    """Random moments of a run."""
    chance = random.Random(seed)
    return [chance.uniform(0, seconds * 1.1) for _ in range(n)]
