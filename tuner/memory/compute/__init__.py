"""The compute buffer: one graph as sizes alone, and what ggml's allocator makes of it."""
