"""Records what llama.cpp's loader asks of a file: keys, tensors and their shapes, by architecture.

    python -m bench.record_reads SOURCES       # SOURCES: the vendored llama.cpp, with src/

Writes tuner/model/engine_reads.json, which `tuner/model/loadable.py` explains and checks files
against. The loader (`load_hparams`, `load_arch_hparams`, `load_arch_tensors`) is run on symbols: a
key becomes the text `key('name', default)`, a condition is carried along as text, and what this
small reader of C++ does not understand becomes `unknown`, which neither requires nor forbids.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.cxx import CASTS, Expression, Node, Statement, Unreadable, lvalue
from bench.llama_sources import Sources
from bench.symbols import UNKNOWN, combined, logical, negated, pick, truth, words
from tuner.engine_version import ENGINE_VERSION
from tuner.model.architectures import KNOWN

OUT = Path(__file__).resolve().parent.parent / "tuner" / "model" / "engine_reads.json"
THROWS = "throws"
NAMED = 24  # characters of a value from which on it is named

# what the checks provide under these names, from `HParams` and the header
_GIVEN = frozenset({"n_layer_all", "n_embd", "n_expert", "n_vocab"})
_GIVEN_BY_LAYER = frozenset(
    {"n_head", "n_head_kv", "n_ff", "n_expert_used", "is_recr", "is_swa", "is_indexer_full"}
)
# members that those stand for: what the loader writes there is not followed
_GIVEN_MEMBERS = frozenset(
    {"n_head_arr", "n_head_kv_arr", "n_ff_arr", "n_expert_used_arr", "is_recr_impl", "is_swa_impl",
     "is_indexer_full_impl", "n_layer_nextn", *_GIVEN}
)  # fmt: skip
# functions of llama-hparams.cpp that the checks have too, and the members that they read
_ACCESSORS = {
    "n_ff_exp": ("n_ff_exp_arr",),
    "n_rot": ("n_rot_full", "n_rot_swa"),
    "n_embd_head_k": ("n_embd_head_k_full", "n_embd_head_k_swa"),
    "n_embd_head_v": ("n_embd_head_v_full", "n_embd_head_v_swa"),
    "n_embd_k_gqa": ("n_embd_head_k_full", "n_embd_head_k_swa"),
    "n_embd_v_gqa": ("n_embd_head_v_full", "n_embd_head_v_swa"),
    "is_mla": ("n_embd_head_k_mla_impl", "n_embd_head_v_mla_impl"),
    "n_embd_head_k_mla": (
        "n_embd_head_k_mla_impl", "n_embd_head_v_mla_impl", "n_embd_head_k_full",
        "n_embd_head_k_swa",
    ),
    "n_embd_head_v_mla": (
        "n_embd_head_k_mla_impl", "n_embd_head_v_mla_impl", "n_embd_head_v_full",
        "n_embd_head_v_swa",
    ),
    "n_embd_out": ("n_embd_out_impl",),
}  # fmt: skip
_RESERVED = _GIVEN | _GIVEN_BY_LAYER | _ACCESSORS.keys() | {"n_layer", "i"}
_FLAGS = {
    "TENSOR_NOT_REQUIRED": "1", "TENSOR_DUPLICATED": "0", "TENSOR_SKIP": "2",
    "TENSOR_SKIP_IF_VIRTUAL": "0", "TENSOR_ALLOW_RESHAPE": "4", "TENSOR_READ_LAZY": "0",
}  # fmt: skip
_CONSTANTS = {
    "true": "1", "false": "0", "nullptr": "0", "NULL": "0",
    "LLAMA_MAX_LAYERS": "512",
    "LLAMA_ROPE_SCALING_TYPE_LONGROPE": "'longrope'",
    "LLAMA_EXPERT_GATING_FUNC_TYPE_NONE": "0",
    "LLAMA_EXPERT_GATING_FUNC_TYPE_SOFTMAX": "1",
    "LLAMA_EXPERT_GATING_FUNC_TYPE_SIGMOID": "2",
    "LLAMA_EXPERT_GATING_FUNC_TYPE_SOFTMAX_WEIGHT": "3",
    "LLAMA_EXPERT_GATING_FUNC_TYPE_SQRT_SOFTPLUS": "4",
}  # fmt: skip
_TYPES = {
    "uint32_t": "u32", "float": "f32", "bool": "bool", "std::string": "str", "int32_t": "i32",
    "int": "i32", "llama_token": "i32", "uint64_t": "u64", "llama_pooling_type": "u32",
}  # fmt: skip


class Run:
    """One architecture's loader."""

    def __init__(self, sources: Sources, architecture: str):
        self.sources = sources
        self.name = sources.architectures[architecture]
        self.kind = sources.classes[architecture]
        self.keys: list[list[str]] = []
        self.tensors: list[list[str]] = []  # a row's first field is the layers that it is for
        self.named_values: dict[str, str] = {}
        self.members: dict[str, str] = {}
        self.used: set[str] = set()
        self.state: dict[str, str] = {}
        self.names: dict[str, str] = {}  # C++ types of what was declared here
        self.functions: dict[str, Statement] = {}
        self.refusals: list[list[str]] = []
        self.asserted = ""  # what an assertion says, in its own words
        self.path: list[str] = []
        self.layers = ""  # of the loop that runs: the condition on the layer `i`
        self.own = True
        self.inside = False  # of what is this architecture's alone
        self.stage = "keys"
        for name, value in sources.defaults.items():
            self.state[f"hparams.{name}"] = _CONSTANTS.get(value, value)

    def common(self) -> dict[str, Any]:
        """What is asked of every architecture."""
        self.own = False
        self.run_keys()
        self.used = {n for names in _ACCESSORS.values() for n in names}
        self.named_values["shares_layers"] = "0"
        self.scales()
        return self.found()

    def result(self, common: dict[str, Any]) -> dict[str, Any]:
        """What only this architecture is asked for."""
        self.run_keys()
        self.stage, self.inside = "tensors", True
        self.state, self.path = {}, []
        self.call_method("load_arch_tensors", [])
        self.plain("LLAMA_LOAD_LOCALS")  # `llm_graph_context` has the same
        for line in self.sources.graphs.get(self.kind, ()):
            self.plain(line)
        found = self.found()
        for part in ("keys", "refusals"):
            found[part] = [row for row in found[part] if row not in common[part]]
        found["values"] = {k: v for k, v in found["values"].items() if common["values"].get(k) != v}
        return found

    def run_keys(self) -> None:
        self.state["hparams.vocab_only"] = "0"
        self.block(self.sources.functions["llama_model_base::load_hparams"].body)
        self.members = {
            k.removeprefix("hparams."): v for k, v in self.state.items() if v != UNKNOWN
        }

    def found(self) -> dict[str, Any]:
        rows = {
            where: merged([row[1:] for row in self.tensors if row[0] == where])
            for where in ("tensors", "layers", "all_layers")
        }
        texts = [cell for part in rows.values() for row in part for cell in row[1:]]
        texts += [row[2] for row in self.refusals] + [cell for row in self.keys for cell in row[2:]]
        wanted = words(" ".join(texts)) | self.used
        values: dict[str, str] = {}
        all_values = {k: v for k, v in self.members.items() if k not in _RESERVED}
        all_values |= self.named_values
        waiting = sorted(wanted & all_values.keys())
        while waiting:
            name = waiting.pop()
            if name not in values:
                values[name] = all_values[name]
                waiting += words(values[name]) & all_values.keys()
        return {
            "keys": _unique(self.keys),
            "refusals": _unique(self.refusals),
            "values": dict(sorted(values.items())),
            **rows,
        }

    def scales(self) -> None:
        """The generic pass of `load_tensors`: factors of tensors that a model has."""
        body = self.sources.functions["llama_model_base::load_tensors"].body
        for statement in _all(body):
            if statement.kind != "plain":
                continue
            match = re.search(
                r'create_tensor\(tn\((LLM_TENSOR_\w+), *"(\w+)"(, i)?\), \{(\w+)\}', statement.text
            )
            if match and match[2] in ("scale", "input_scale"):
                base = self.sources.tensors[match[1]].removeprefix("blk.%d")
                name = f"{base}.{match[2]}"
                # of a tensor that is loaded, by a name that its layer may have none of itself where
                # layers share theirs; the output's, only where that is NVFP4
                when = f"(has('{base}.weight') | shares_layers)" if match[3] else UNKNOWN
                where = "all_layers" if match[3] else "tensors"
                self.tensors.append([where, name, match[4], "1", when])

    # ------------------------------------------------ statements

    def block(self, body: list[Statement]) -> str:
        """Runs statements; the condition (text) under which what follows them is not reached."""
        ended = "0"
        for statement in body:
            pushed = False
            if ended != "0":
                self.path.append(negated(ended))
                pushed = True
            stops = self.statement(statement)
            if pushed:
                self.path.pop()
            if stops in ("1", THROWS):
                return stops
            if stops != "0":
                ended = stops if ended == "0" else f"(({ended}) | ({stops}))"
        return ended

    def statement(self, statement: Statement) -> str:
        match statement.kind:
            case "if":
                return self.condition(statement)
            case "for":
                self.loop(statement)
            case "switch" | "other":
                self.maybe(statement.body)
            case "lambda":
                self.functions[statement.text] = statement
            case _:
                text = statement.text
                if text.startswith("throw"):
                    said = re.search(r'"((?:\\.|[^"\\])*)"', text)
                    self.refuse(said[1].replace("\\n", "") if said else "", "1")
                    return THROWS
                if text.startswith("return"):
                    self.value_of(text.removeprefix("return"))
                    return "1"
                if text == "break":  # of the layers behind it nothing is known
                    return UNKNOWN
                if text == "continue":
                    return "1"
                self.plain(text)
        return "0"

    def condition(self, statement: Statement) -> str:
        if statement.text == "true":
            return self.block(statement.body)
        first, _, text = statement.text.rpartition(";")
        if first:
            self.plain(first)
        declared = re.match(r"(?:const\s+)?auto\s*\*?\s*\w+\s*=\s*(.*)", text, re.S)
        condition = truth(self.value_of(declared[1] if declared else text))
        if condition in ("0", "1"):
            return self.block(statement.body if condition == "1" else statement.other)
        before = dict(self.state)
        ends = self.branch(condition, statement.body)
        after_yes, self.state = self.state, dict(before)
        other_ends = self.branch(negated(condition), statement.other)
        after_no = self.state
        if ends in ("1", THROWS):
            merged = after_no
        elif other_ends in ("1", THROWS):
            merged = after_yes
        else:
            merged = {
                name: pick(condition, after_yes.get(name, UNKNOWN), after_no.get(name, UNKNOWN))
                for name in before.keys() | after_yes.keys() | after_no.keys()
            }
        self.state = merged
        if ends == other_ends == THROWS:
            return THROWS
        # behind what gives up, nothing needs to be said of it
        ends, other_ends = (e.replace(THROWS, "0") for e in (ends, other_ends))
        if ends == other_ends == "0":
            return "0"
        parts = [
            c if e == "1" else f"(({c}) & ({e}))"
            for c, e in ((condition, ends), (negated(condition), other_ends))
            if e != "0"
        ]
        return parts[0] if len(parts) == 1 else f"(({parts[0]}) | ({parts[1]}))"

    def branch(self, condition: str, body: list[Statement]) -> str:
        self.path.append(condition)
        ends = self.block(body)
        self.path.pop()
        return ends

    def maybe(self, body: list[Statement]) -> None:
        """What may run, once or often or not at all."""
        before = dict(self.state)
        self.branch(UNKNOWN, body)
        for name in self.state:
            if self.state[name] != before.get(name):
                self.state[name] = UNKNOWN

    def loop(self, statement: Statement) -> None:
        head = re.fullmatch(
            r"\s*(?:const\s+)?\w+\s+(\w+)\s*=\s*([^;]*);\s*\1\s*<\s*([^;]*);\s*(?:\+\+\1|\1\+\+)\s*",
            statement.text,
        )
        if not head or self.layers:
            if head:
                self.state[head[1]] = UNKNOWN
            self.maybe(statement.body)
            return
        first, last = self.value_of(head[2]), self.value_of(head[3])
        before = dict(self.state)
        kept = len(self.keys), len(self.tensors), len(self.refusals)
        self.layers = "layers" if (first, last) == ("0", "n_layer") else "all_layers"
        bounds = [f"(i >= {first})"] * (first != "0")
        bounds += [f"(i < {last})"] * (last not in ("n_layer_all", "n_layer") or first != "0")
        if last == "n_layer_all":
            bounds = [b for b in bounds if b != "(i < n_layer_all)"]
        for final in (False, True):
            self.state[head[1]] = "i"
            self.path += bounds
            self.block(statement.body)
            del self.path[len(self.path) - len(bounds) :]
            if not final:  # what one layer leaves to the next is not followed
                del self.keys[kept[0] :], self.tensors[kept[1] :], self.refusals[kept[2] :]
                changed = {n for n in self.state if self.state[n] != before.get(n)}
                self.state = {
                    n: UNKNOWN if n in changed else v for n, v in (before | self.state).items()
                }
        for name in self.state:
            if self.state[name] != before.get(name):
                self.state[name] = UNKNOWN
        self.layers = ""

    def plain(self, text: str) -> None:
        if text == "LLAMA_LOAD_LOCALS":
            for name in ("n_head", "n_head_kv", "n_ff", "n_expert_used"):
                self.state[name] = f"{name}(0)"
            for name in ("n_embd_k_gqa", "n_embd_v_gqa", "n_embd_head_k", "n_embd_head_v", "n_rot"):
                self.state[name] = self.accessor(name, "0")
            self.state["n_embd_gqa"] = self.state["n_embd_v_gqa"]
            self.state["n_layer"] = "n_layer"
            self.state["n_layer_nextn"] = "(n_layer_all - n_layer)"
            return
        declared = re.fullmatch(
            r"(?:static\s+)?(?:const(?:expr)?\s+)?(?:enum\s+|struct\s+)?"
            r"([\w:]+(?:<[^=()]*>)?(?:\s+const)?)(?:\s*[&*]\s*|\s+)(?:const\s+)?(\w+)(?:\s*=\s*(.*))?",
            text,
            re.S,
        )
        built = re.fullmatch(r"(?:const\s+)?(std::string|llm_tensor)\s+(\w+)\((.*)\)", text, re.S)
        if built:
            self.names[built[2]], self.state[built[2]] = built[1], self.value_of(built[3])
            return
        if declared and declared[1] not in ("return", "delete", "throw", "else"):
            self.names[declared[2]] = declared[1]
            value = self.value_of(declared[3]) if declared[3] is not None else UNKNOWN
            self.state[declared[2]] = self.by_name(declared[2], value)
            return
        asserted = re.match(r"GGML_ASSERT\((.*?)(?: && \".*)?\)$", text, re.S)
        self.asserted = asserted[1].replace("hparams.", "") if asserted else ""
        self.value_of(text)

    def by_name(self, name: str, value: str) -> str:
        """A name for a long value, so that rows need not repeat it."""
        if self.stage == "keys" or len(value) < NAMED or value.startswith(("has(", "'")):
            return value
        while (
            self.named_values.get(name, value) != value or name in _RESERVED or name in self.members
        ):
            name += "_"
        self.named_values[name] = value
        return name

    def may_skip(self, flags: str) -> bool:
        """Whether a tensor with such flags may be left where it is, unused."""
        words = re.findall(r"\b\w+\b", flags)
        inner = (self.named_values[w] for w in words if w in self.named_values)
        return "2" in words or UNKNOWN in words or any(map(self.may_skip, inner))

    # ------------------------------------------------ expressions

    def value_of(self, text: str) -> str:
        try:
            node = Expression(text).parse()
        except Unreadable:
            if re.search(r"create_tensor|get_key|get_arr", text):
                print(f"{self.name}: not understood: {text}", file=sys.stderr)
            return UNKNOWN
        return self.value(node)

    def value(self, node: Node) -> str:
        match node:
            case ("num", text):
                return re.sub(r"[uUlLf]+$", "", text)
            case ("str", text):
                return f"'{text[1:-1].replace(chr(39), '')}'"
            case ("name", name):
                return self.named(name)
            case ("unary", "!", inner):
                return negated(truth(self.value(inner)))
            case ("unary", "-", inner):
                inside = self.value(inner)
                return UNKNOWN if inside == UNKNOWN else f"(-{inside})"
            case ("unary", op, inner):
                if op in ("++", "--"):
                    self.assign(inner, UNKNOWN)
                return self.value(inner) if op in ("*", "&", "+") else UNKNOWN
            case ("binary", op, left, right):
                return self.binary(op, left, right)
            case ("choice", condition, yes, no):
                chosen = truth(self.value(condition))
                return pick(chosen, self.value_if(chosen, yes), self.value_if(negated(chosen), no))
            case (
                "assign",
                "=",
                ("index", ("name", "layers"), _),
                ("index", ("name", "layers"), _),
            ):
                self.named_values["shares_layers"] = UNKNOWN
                self.used.add("shares_layers")
                return UNKNOWN
            case ("assign", op, target, right):
                value = self.value(right)
                if op == "|=":
                    value = combined("|", self.value(target), value)
                elif op != "=":
                    value = UNKNOWN
                self.assign(target, value)
                return value
            case ("member", ("name", "hparams"), name):
                return self.member(name)
            case ("member", ("name", "ml"), "load_mtp"):
                return "0"  # a chat loads no such blocks (llama_model_default_params)
            case ("member", _, _):
                return self.state.get(lvalue(node), UNKNOWN)
            case ("index", array, index):
                at, values = self.value(index), self.value(array)
                return UNKNOWN if UNKNOWN in (at, values) else f"at({values}, {at})"
            case ("call", function, arguments):
                return self.call(function, arguments)
        return UNKNOWN

    def value_if(self, condition: str, node: Node) -> str:
        """What is evaluated under a condition only."""
        self.path.append(condition)
        value = self.value(node)
        self.path.pop()
        return value

    def binary(self, op: str, left: Node, right: Node) -> str:
        a = self.value(left)
        if op in ("&&", "||"):
            a = truth(a)
            b = truth(self.value_if(a if op == "&&" else negated(a), right))
            return logical("&" if op == "&&" else "|", a, b)
        b = self.value(right)
        if op == "&":  # of a flag; as a condition, lest it be mistaken for one that `&` joins
            if UNKNOWN in (a, b):
                return UNKNOWN
            skips = b != _FLAGS["TENSOR_SKIP"] or self.may_skip(a)
            return f"(({a} {op} {b}) != 0)" if skips else "0"
        if op in ("==", "!=") and "0" in (a, b) and "has(" in a + b:
            found = a if b == "0" else b
            return negated(found) if op == "==" else found
        return combined({"/": "//"}.get(op, op), a, b)

    def named(self, name: str) -> str:
        if name in self.state:
            return self.state[name]
        if name in _CONSTANTS:
            return _CONSTANTS[name]
        if name in _FLAGS or name.removeprefix("llama_model_loader::") in _FLAGS:
            return _FLAGS[name.removeprefix("llama_model_loader::")]
        if name in _GIVEN:
            return name
        if name.startswith("LLM_TENSOR_"):
            return f"'{name}'"
        if name == "arch":
            return f"'{self.name}'" if self.inside else "arch"
        if name in self.sources.architectures:
            return f"'{self.sources.architectures[name]}'"
        if self.stage == "tensors" and name in self.members:
            self.used.add(name)
            return name
        return UNKNOWN

    def member(self, name: str) -> str:
        """A member of hparams; when tensors are created, by its name."""
        if name in _GIVEN:
            return name
        if name == "n_layer_nextn":
            return "(n_layer_all - n_layer)"
        if name in _GIVEN_MEMBERS:
            return UNKNOWN
        if self.stage == "keys":
            return self.state.get(f"hparams.{name}", UNKNOWN)
        if name not in self.members:
            return UNKNOWN
        value = self.members[name]
        if re.fullmatch(r"-?\d+", value):
            return value
        self.used.add(name)
        return name

    def accessor(self, name: str, i: str) -> str:
        """A function of hparams; those that read members only where all members are known."""
        if name == "n_layer":
            return "n_layer"
        if i == UNKNOWN:
            return UNKNOWN
        if name in _GIVEN_BY_LAYER:
            return f"{name}({i})"
        if name not in _ACCESSORS or self.stage == "keys":
            return UNKNOWN
        self.used.update(_ACCESSORS[name])
        return f"{name}({i})"

    def assign(self, target: Node, value: str) -> None:
        if target[0] == "index":
            target, value = target[1], UNKNOWN
        name = lvalue(target)
        if name.removeprefix("hparams.") in _GIVEN_MEMBERS and name.startswith("hparams."):
            return
        if name:
            self.state[name] = value

    # ------------------------------------------------ calls

    def call(self, function: Node, arguments: list[Node]) -> str:
        match function:
            case ("member", ("name", "ml"), ("get_weight" | "get_tensor_meta")):
                name = self.value(arguments[0])
                return UNKNOWN if name == UNKNOWN else f"has({name})"
            case ("member", ("name", "ml"), "get_arch"):
                return self.named("arch")
            case ("member", inner, "c_str"):
                return self.value(inner)
            case ("member", ("call", ("name", "tn"), parts), "str"):
                name, index = self.tensor_name(parts)
                return UNKNOWN if name.startswith(".") and index != "i" else f"'{name}'"
            case ("name", "std::to_string"):
                inner = self.value(arguments[0])
                return UNKNOWN if inner == UNKNOWN else f"str({inner})"
            case ("name", "GGML_ASSERT"):
                self.refuse(self.asserted, negated(truth(self.value(arguments[0]))))
                return UNKNOWN
            case ("member", ("name", "ml"), name) if name.startswith("get_"):
                return self.read(name, arguments)
            case ("member", ("name", "hparams"), name):
                i = self.value(arguments[0]) if arguments else "0"
                return self.accessor(name, i)
            case ("name", "create_tensor"):
                return self.create(arguments)
            case ("name", "load_arch_hparams"):
                if self.own:
                    self.inside = True
                    self.call_method("load_arch_hparams", [])
                    self.inside = False
                return UNKNOWN
            case (
                "name",
                ("create_tensor_qkv" | "create_tensor_gate_up_exps" | "load_swa_pattern") as name,
            ):
                self.call_method(name, arguments)
                return UNKNOWN
            case ("name", "llama_rope_scaling_type_from_string"):
                return self.value(arguments[0])
            case ("name", name) if name in self.functions:
                one = self.functions[name]
                self.inline(one.params, arguments, one.body)
                return UNKNOWN
            case ("name", "static_cast") if arguments:
                return self.value(arguments[0])
            case ("name", name) if name in CASTS and len(arguments) == 1:
                return self.value(arguments[0])
            case ("name", ("std::max" | "std::min") as name) if arguments[1:]:
                a, b = map(self.value, arguments[:2])
                op = ">" if name == "std::max" else "<"
                return UNKNOWN if UNKNOWN in (a, b) else f"pick({a} {op} {b}, {a}, {b})"
        for argument in (function, *arguments):
            if argument[0] in ("member", "call"):
                self.value(argument)
            if argument[0] == "unary" and argument[1] == "&":  # it may be changed there
                self.assign(argument[2], UNKNOWN)
        return UNKNOWN

    def call_method(self, name: str, arguments: list[Node]) -> None:
        found = self.sources.method(self.kind, name)
        if found:
            self.inline(found.params, arguments, found.body)

    def inline(self, params: dict[str, str], arguments: list[Node], body: list[Statement]) -> None:
        defaults = {"dense_first": "0"}
        given = {
            p: self.value(arguments[n]) if n < len(arguments) else defaults.get(p, UNKNOWN)
            for n, p in enumerate(params)
            if p != "ml"
        }
        self.names |= params
        hidden = {p: self.state.get(p) for p in given}
        self.state |= given
        self.block(body)
        for p, value in hidden.items():
            self.state.pop(p, None)
            if value is not None:
                self.state[p] = value

    def read(self, name: str, arguments: list[Node]) -> str:
        """`get_key` and its kin: a row, and the value where it goes."""
        if name not in ("get_key", "get_key_or_arr", "get_arr", "get_arr_n"):
            return UNKNOWN
        first = arguments[0]
        key = self.sources.keys.get(first[1], "") if first[0] == "name" else ""
        target = arguments[1]
        where = lvalue(target)
        stated = [a for a in arguments[2:] if a[0] != "name" or a[1] in ("true", "false")]
        number = next((a for a in arguments[2:3]), None)
        count = ""
        if (
            name == "get_key_or_arr"
            and number is not None
            and number not in (("name", "true"), ("name", "false"))
        ):
            count = self.value(number)
            stated = arguments[3:]
        required = "1"
        if stated:
            required = truth(self.value(stated[-1]))
        if not key:
            self.assign(target, UNKNOWN)
            return UNKNOWN
        short = key.removeprefix("%s.") if key.startswith("%s.") else f"/{key}"
        kind = self.kind_of(where)
        when = self.when()
        self.keys.append([short, self.form_of(name, where, kind, count), required, when])
        old = self.value(target)
        if name == "get_arr_n":
            self.assign(target, UNKNOWN)
            return f"has_array('{short}')"
        if name == "get_arr":
            self.assign(target, UNKNOWN)
            return f"has_array('{short}')"
        if kind == "?":
            self.assign(target, UNKNOWN)
        else:
            self.assign(target, f"key('{short}', {old})")
        return f"has_key('{short}')"

    def kind_of(self, where: str) -> str:
        name = where.removeprefix("hparams.")
        if name == "name":
            return "str"  # llama_model::name
        text = (
            self.sources.types.get(name, "")
            if where.startswith("hparams.")
            else self.names.get(name, self.sources.types.get(name, ""))
        )
        inner = re.search(r"std::(?:array|vector)<\s*(?:enum )?([\w:]+)", text)
        return _TYPES.get(inner[1] if inner else text, "?")

    def form_of(self, name: str, where: str, kind: str, count: str) -> str:
        if name == "get_arr_n":
            return "any array"
        if name == "get_key_or_arr":
            return f"each {kind} {count}" if count else f"one {kind}"
        if name == "get_arr":
            plain = where.removeprefix("hparams.")
            text = self.names.get(plain, "") or self.sources.types.get(plain, "")
            return f"{'list' if 'vector' in text else 'array'} {kind}"
        return kind

    def create(self, arguments: list[Node]) -> str:
        """`create_tensor(tn(...), {...}, flags)`: a row, and whether the file has it."""
        tn, dims, *rest = arguments
        if tn[0] != "call" or tn[1] != ("name", "tn") or dims[0] != "braces":
            print(f"{self.name}: {tn}", file=sys.stderr)
            return UNKNOWN
        name, index = self.tensor_name(tn[2])
        when = self.when()
        if not name or "%d" in name:
            print(f"{self.name}: {name}", file=sys.stderr)
            return UNKNOWN
        sizes = [self.value(d) for d in dims[1]]
        if name.startswith(".") and index != "i":  # then what depends on `i` is of some other count
            when = UNKNOWN
            sizes = [UNKNOWN if re.search(r"\bi\b", size) else size for size in sizes]
        shape = ", ".join(sizes)
        flags = self.value(rest[0]) if rest else "0"
        where = self.layers or "tensors"
        if where == "tensors" and name.startswith("."):
            where = "all_layers"
        self.tensors.append([where, name, shape, flags, when])
        if self.may_skip(flags):
            return UNKNOWN
        return f"has('{name}')"

    def tensor_name(self, parts: list[Node]) -> tuple[str, str]:
        """The name that `tn(...)` stands for, of a layer's without "blk.N", and that layer."""
        base = self.sources.tensors.get(self.value(parts[0]).strip("'"), "")
        suffix, index = "", ""
        for argument in parts[1:]:
            if argument[0] == "str":
                suffix = "." + argument[1].strip('"')
            elif "%d" in base:
                index = index or self.value(argument)
        return base.removeprefix("blk.%d") + suffix if base else "", index

    def refuse(self, text: str, condition: str) -> None:
        """A condition under which the loader gives up."""
        when = logical("&", self.when(), condition)
        if UNKNOWN not in when and when != "0":
            self.refusals.append([self.layers or "once", text, when])

    def when(self) -> str:
        text = "1"
        for condition in self.path:
            text = logical("&", text, condition)
        return text


def _all(body: list[Statement]) -> Iterator[Statement]:
    for one in body:
        yield one
        yield from _all(one.body)
        yield from _all(one.other)


def merged(rows: list[list[str]]) -> list[list[str]]:
    """Tensors that are created in several places as one row each, without what a former row has
    required already (an embedding that serves as output too)."""
    found: dict[tuple[str, ...], str] = {}
    for name, shape, flags, when in rows:
        if found.get((name, shape, "0")) == "1":
            continue
        before = found.get((name, shape, flags))
        found[name, shape, flags] = logical("|", before, when) if before else when
    return [[*row, when] for row, when in found.items()]


def _unique(rows: list[list[str]]) -> list[list[str]]:
    return [list(row) for row in dict.fromkeys(map(tuple, rows))]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("sources", type=Path)
    sources = Sources(parser.parse_args().sources)
    common = Run(sources, "LLM_ARCH_LLAMA").common()
    reads = {
        sources.architectures[arch]: Run(sources, arch).result(common)
        for arch in sources.classes
        if sources.architectures[arch] in KNOWN
    }
    simple = {
        "engine": ENGINE_VERSION,
        "tokenizers": sources.tokenizers,
        "with_own_pre": sources.with_own_pre,
        "pre_tokenizers": sources.pre_tokenizers,
        "rope_scalings": sources.rope_scalings,
    }
    parts = [f'"{name}": {json.dumps(value)}' for name, value in simple.items()]
    parts.append(f'"common": {text_of(common)}')
    each = ",\n".join(f'"{name}": {text_of(reads[name])}' for name in sorted(reads))
    parts.append(f'"architectures": {{\n{each}\n}}')
    OUT.write_text("{\n" + ",\n".join(parts) + "\n}\n", encoding="utf-8")
    print(f"{len(reads)} architectures in {OUT}")
    return 0


def text_of(section: dict[str, Any]) -> str:
    """The parts of an architecture as JSON, a row to a line."""
    parts = []
    for name, rows in section.items():
        if isinstance(rows, dict):
            lines = [f"{json.dumps(k)}: {json.dumps(v)}" for k, v in rows.items()]
        else:
            lines = [json.dumps(short(row)) for row in rows]
        start, end = "{}" if isinstance(rows, dict) else "[]"
        if lines:
            parts.append(f'"{name}": {start}\n' + ",\n".join(lines) + f"\n{end}")
    return "{\n" + ",\n".join(parts) + "\n}"


def short(row: list[str]) -> list[str]:
    """A row without what goes without saying: not required, and always."""
    _, _, *rest = row
    while len(rest) in (1, 2) and rest[-1] == ("0", "1")[len(rest) - 1]:
        rest.pop()
    return [*row[:2], *rest]


if __name__ == "__main__":
    sys.exit(main())
