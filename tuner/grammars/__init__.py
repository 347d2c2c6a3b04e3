"""Grammars of llama.cpp (GBNF) that are made from something else.

`json_schema.grammar_of` makes one of a parsed JSON Schema, with `json_pattern` for its regular
expressions. Nothing here knows the engine, which says of any grammar whether it understands it
(`tuner.engine.grammar_check`).
"""
