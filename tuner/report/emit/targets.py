"""What each program is given: comments say what it cannot be told, and what it takes beyond the
plan."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from tuner.report.emit.carried import Carried
from tuner.report.emit.koboldcpp import koboldcpp
from tuner.report.emit.llama_cpp_python import llama_cpp_python
from tuner.report.emit.llama_server import llama_cli, llama_server
from tuner.report.emit.lmstudio import lmstudio
from tuner.report.emit.ollama import ollama
from tuner.report.emit.programs import PROGRAMS

_WRITERS = (llama_server, llama_cli, llama_cpp_python, ollama, lmstudio, koboldcpp)

TARGETS: Mapping[str, Callable[[Carried], str]] = dict(zip(PROGRAMS, _WRITERS, strict=True))
