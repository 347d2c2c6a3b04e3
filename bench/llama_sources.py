"""The parts of llama.cpp's sources that load a model, taken apart."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from pathlib import Path

from bench.cxx import Statement, Unreadable, closing, params_of, source, statements


@dataclass
class Function:
    params: dict[str, str]
    body: list[Statement]


class Sources:
    """The parts of llama.cpp that load a model."""

    def __init__(self, root: Path):
        src = root / "src"
        self.arch_text = source(src / "llama-arch.cpp")
        self.architectures = self._names("LLM_ARCH_NAMES", r"(LLM_ARCH_\w+)")
        self.keys = self._names("LLM_KV_NAMES", r"(LLM_KV_\w+)")
        self.tensors = self._names("LLM_TENSOR_NAMES", r"(LLM_TENSOR_\w+)")
        model = source(src / "llama-model.cpp")
        header = source(src / "models" / "models.h")
        self.classes = dict(
            re.findall(r"case (LLM_ARCH_\w+):\s*return new (llama_model_\w+)\(", model)
        )
        self.bases = dict(
            re.findall(r"struct (llama_model_\w+) : public (llama_model_\w+)", header)
        )
        self.functions: dict[str, Function] = {}
        self.graphs: dict[str, list[str]] = {}  # how the graph of a class begins
        for path in (src / "llama-model.cpp", *sorted((src / "models").glob("*.cpp"))):
            text = source(path)
            self.functions |= self._functions(text)
            self.graphs |= self._graphs(text)
        hparams = source(src / "llama-hparams.h")
        self.types = {
            name: kind
            for kind, name in re.findall(
                r"\b([\w:]+(?:<[^;=(]*>)?)\s+(\w+)\s*(?:=[^;]*)?;", hparams
            )
        }
        self.types |= {
            name: kind
            for kind, name in re.findall(
                r"\b(uint32_t|float|bool|int)\s+(\w+)\s*(?:=[^;]*)?;", header
            )
            if name not in self.types
        }
        self.defaults: dict[str, str] = dict(
            re.findall(r"\b(\w+)\s*=\s*(-?\d+|true|false);", hparams)
        )
        vocab = source(src / "llama-vocab.cpp")
        branches = re.split(
            r"\bif \((?=tokenizer_model ==)", vocab[vocab.index("void llama_vocab::impl::load(") :]
        )
        self.tokenizers: dict[str, str] = {}  # each with its type (`llama_vocab_type`)
        self.with_own_pre: list[str] = []  # those that have their pre-tokenizer, whatever is stated
        for branch in branches:
            kind = re.search(r"\btype = LLAMA_VOCAB_TYPE_(\w+);", branch)
            names = re.findall(r'tokenizer_model == "([^"]+)"', branch.partition("{")[0])
            self.tokenizers |= {name: kind[1] for name in names if kind}
            self.with_own_pre += names if "tokenizer_pre = " in branch else []
        self.pre_tokenizers = sorted(set(re.findall(r'tokenizer_pre == "([^"]+)"', vocab)))
        self.rope_scalings = re.findall(r'\{\s*LLAMA_ROPE_SCALING_TYPE_\w+,\s*"(\w+)"', model)

    def _names(self, table: str, pattern: str) -> dict[str, str]:
        start = self.arch_text.index(f"{table} = {{")
        text = self.arch_text[start : closing(self.arch_text, self.arch_text.index("{", start))]
        return dict(re.findall(rf'\{{\s*{pattern},\s*"([^"]*)"', text))

    def _functions(self, text: str) -> dict[str, Function]:
        found = {}
        wanted = re.compile(
            r"\bllama_model_(\w+)::(load_arch_hparams|load_arch_tensors|load_hparams|load_tensors"
            r"|load_swa_pattern|create_tensor_qkv|create_tensor_gate_up_exps)\("
        )
        for match in wanted.finditer(text):
            end = closing(text, match.end() - 1)
            start = re.compile(r"\s*\{").match(text, end + 1)
            if not start:
                continue
            last = closing(text, start.end() - 1)
            try:
                body = statements(text[start.end() : last])
            except Unreadable as error:
                print(f"{match[0]}: {error}", file=sys.stderr)
                continue
            found[f"llama_model_{match[1]}::{match[2]}"] = Function(
                params_of(text[match.end() : end]), body
            )
        return found

    def _graphs(self, text: str) -> dict[str, list[str]]:
        """The sizes and the assertions with which graphs begin, of classes that have one graph."""
        starts: dict[str, list[list[str]]] = {}
        for match in re.finditer(r"\b(llama_model_\w+)::graph(?:<\w+>)?::graph\(", text):
            at = text.index("{", closing(text, match.end() - 1)) + 1
            line = re.compile(r"\s*(const int64_t \w+ = [^;{]*|GGML_ASSERT\([^;{]*\));")
            lines = []
            while found := line.match(text, at):
                lines.append(found[1])
                at = found.end()
            starts.setdefault(match[1], []).append(lines)
        return {kind: graphs[0] for kind, graphs in starts.items() if not graphs[1:]}

    def method(self, kind: str, name: str) -> Function | None:
        """Of a class, or of the nearest that it comes from."""
        while kind:
            found = self.functions.get(f"{kind}::{name}")
            if found:
                return found
            kind = self.bases.get(kind, "llama_model_base" if kind != "llama_model_base" else "")
        return None
