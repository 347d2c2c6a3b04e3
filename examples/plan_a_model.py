"""The tuner as a library: how a model would be loaded on a machine with one card of 24 GiB.

python examples/plan_a_model.py model.gguf
"""

import sys

from tuner.gguf.header import read_header
from tuner.machine.stated import stated
from tuner.model.model import describe
from tuner.planning import make_plan
from tuner.units import GIB, size_text
from tuner.wishes import Wishes

model = describe(read_header(sys.argv[1]))
machine = stated([24 * GIB], ram=64 * GIB)
plan = make_plan(model, machine, Wishes(prefer="balanced"))
print(plan.chosen.settings)
for use in plan.chosen.footprint.uses:
    print(f"{use.device}: {size_text(use.total)}, of which cache {size_text(use.kv_cache)}")
for sentence in (*plan.reasons, *plan.warnings):
    print(sentence)
