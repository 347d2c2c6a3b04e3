"""How a model is best loaded in the memory that is free, and the process that runs it. No screen.

The folders are in the order of the data: `gguf` reads a file's own words, `model` says what the
engine will build from them, `machine` what there is, `memory` what settings take, `planning` which
are best, `profiles` what loads have taught, `report` says a plan, `engine` runs the model. `tuning`
takes one model through them on one machine, `launch` on to a running model. As a library:
examples/plan_a_model.py.
"""
