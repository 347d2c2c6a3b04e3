"""How much RAM a conversation's states may take beside the plan.

One checkpoint is part of a plan's footprint, where the cache needs any (`memory/checkpoints.py`)
and its RAM is not worth more as something else (`objective.py`). What is beyond that is room that
the plan leaves: it is never missed, only used where it is there.
"""

from __future__ import annotations

from dataclasses import dataclass

from tuner.memory.footprint import Footprint
from tuner.planning.budgets import Budgets
from tuner.units import GIB

MOST_CHECKPOINTS = 8  # that a conversation has use for: as many turns can be gone back to
MOST_KEPT = 2 * GIB  # of other branches: a few of a large model, many of a small one
# What is left of the RAM's budget is not all taken: other programs will want some of it.
_FOR_CHECKPOINTS = 2  # a half at most
_FOR_BRANCHES = 4  # a quarter at most


@dataclass(frozen=True, slots=True)
class KeptStates:
    """Bytes of RAM that checkpoints and the states of other branches may take together."""

    size: int
    checkpoint: int  # bytes of one; 0: the cache can be cut anywhere, or there is no room

    @classmethod
    def of(cls, footprint: Footprint, budgets: Budgets) -> KeptStates:
        """What a plan of this footprint leaves under these budgets."""
        totals, checkpoint = footprint.totals, footprint.host.checkpoint
        left = max(0, budgets.room(totals, len(totals) - 1))
        more = min((MOST_CHECKPOINTS - 1) * checkpoint, left // _FOR_CHECKPOINTS)
        branches = min(MOST_KEPT, left // _FOR_BRANCHES)
        return cls(checkpoint + max(more, branches), checkpoint)

    @property
    def n_checkpoints(self) -> int:
        """Checkpoints that there is room for, as many as are of use."""
        return min(MOST_CHECKPOINTS, self.size // self.checkpoint) if self.checkpoint else 0
