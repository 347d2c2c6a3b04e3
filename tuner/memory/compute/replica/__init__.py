"""The compute graphs of llama.cpp's architectures as sizes alone, and the memory they need.

`graph` has nodes and their order, `model` builds a whole model's graph from `layers` and the
architectures' own modules, `traits` says how architectures differ, `allocator` replays what
ggml's allocator does, and `replays` keeps what was found.
"""
