"""The compute graphs of llama.cpp's architectures by hand, as sizes alone.

`model_graph` is the door: it builds a whole model's graph out of the parts that the row of its
architecture names (`tuner/model/architectures.py`). `builder` has what all parts share,
`attention`, `feed_forward` and `common_layer` what most architectures are made of; the other
modules are named after the engine's files (src/models/*.cpp, as vendored in the release that
`tuner/engine_version.py` names) or, where several files share them, after the field's term.

In every function `b` is the builder of the graph in the making, `t` the tensors of one layer or of
the output by their plain names, and `g` the graph itself. Shapes are in ggml's order, the innermost
dimension first; `[n_embd, n_tokens] -> [n_embd, n_outputs]` says what a function takes and what
it returns.
"""
