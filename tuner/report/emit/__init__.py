"""A plan as another program takes it: its command, its code or its settings.

A new program is a row of `TARGETS` and a module that writes down what it can be told.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from tuner.report.emit.carried import Carried
from tuner.report.emit.koboldcpp import koboldcpp
from tuner.report.emit.llama_cpp_python import llama_cpp_python
from tuner.report.emit.llama_server import llama_cli, llama_server
from tuner.report.emit.lmstudio import lmstudio
from tuner.report.emit.ollama import ollama

__all__ = ["TARGETS", "Carried"]

# What each prints; comments say what it cannot be told, and what it takes beyond the plan.
TARGETS: Mapping[str, Callable[[Carried], str]] = {
    "llama-server": llama_server,
    "llama-cli": llama_cli,
    "llama-cpp-python": llama_cpp_python,
    "ollama": ollama,
    "lmstudio": lmstudio,
    "koboldcpp": koboldcpp,
}
