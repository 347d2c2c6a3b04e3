"""What is best: plans, their worth, the search, the reasons.

    plan = make_plan(model, machine, Wishes())      # computed, and confirmed by exact footprints
    plan = verified(plan, dry_run)                  # the same by the engine's own figures

The way through the room: `objective` says what a plan is worth, `constraints` what the engine would
refuse, `budgets` what a plan may take, `speed` (by the devices' `rates`), `quality` and `fitting`
what settings would give and take, `solver` finds the best of them by a `search`, `planner` makes
that the whole answer (`fewer_gpus`, `reasons`, `shortage`, and `later` the `alternatives`),
`verify` holds it against the engine, `differences` says how two plans differ; `advice` is what
else would help, `explorer` is for trying out settings by hand.
"""

from tuner.planning.differences import difference_text
from tuner.planning.explorer import Dial, Explorer
from tuner.planning.plan import Candidate, Plan
from tuner.planning.planner import make_plan, moved_to, with_choice
from tuner.planning.solver import Solver
from tuner.planning.speed import Calibration
from tuner.planning.verify import DryRunner, verified

__all__ = [
    "Calibration",
    "Candidate",
    "Dial",
    "DryRunner",
    "Explorer",
    "Plan",
    "Solver",
    "difference_text",
    "make_plan",
    "moved_to",
    "verified",
    "with_choice",
]
