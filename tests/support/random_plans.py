"""Models, machines and wishes that nobody picked, as hypothesis strategies.

A model is drawn as what it is made from, so that a failing example can be read and a model that was
made already is used again. A machine is drawn with the model, of a size that makes it decide: from
hardly anything to more than all of it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hypothesis import strategies as st

from tests.support.gguf_files import F32, Q4_0, Tensor
from tests.support.giants import gpu, machine
from tests.support.headers import made_up
from tuner.machine.machine import Device, Machine
from tuner.model.model import Model
from tuner.units import GIB, MIB
from tuner.wishes import PREFERENCES, Wishes

_SCRATCH = TemporaryDirectory(prefix="kvchat-random-")  # gone when the tests end
_WINDOW = 1024  # tokens


@dataclass(frozen=True, slots=True)
class Made:
    """What a model is made from."""

    kind: str  # "dense" | "experts" | "window"
    n_layer: int
    n_embd: int
    n_head_kv: int  # of n_embd / head heads
    head: int
    n_ctx: int  # tokens that it was trained for

    @property
    def model(self) -> Model:
        return _model(self)


@cache
def _model(made: Made) -> Model:
    keys: dict[str, Any] = {"context_length": made.n_ctx}
    shape: dict[str, Any] = {
        "n_layer": made.n_layer,
        "n_embd": made.n_embd,
        "n_head": max(made.n_head_kv, made.n_embd // made.head),
        "n_head_kv": made.n_head_kv,
        "head": made.head,
        "n_ff": 3 * made.n_embd,
        "n_vocab": 16_384,
    }
    path = Path(_SCRATCH.name) / "model.gguf"
    if made.kind == "window":
        keys["attention.sliding_window"] = _WINDOW
        norms = ("attn_q_norm", "attn_k_norm", "post_attention_norm", "post_ffw_norm")
        return made_up(path, "gemma3", keys, tied=True, norms=norms, **shape)
    if made.kind == "dense":
        return made_up(path, "llama", keys, **shape)
    keys |= {"expert_count": 16, "expert_used_count": 2}
    up, down = (made.n_embd, made.n_embd, 16), (made.n_embd, made.n_embd, 16)
    parts = {"ffn_gate_exps": up, "ffn_up_exps": up, "ffn_down_exps": down}
    experts = [
        tensor
        for il in range(made.n_layer)
        for tensor in (
            Tensor(f"blk.{il}.ffn_gate_inp.weight", (made.n_embd, 16), F32),
            *(Tensor(f"blk.{il}.{name}.weight", dims, Q4_0) for name, dims in parts.items()),
        )
    ]
    return made_up(path, "llama", keys, tuple(experts), dense=False, **shape)


def models(
    most_layers: int = 16,
    widths: tuple[int, ...] = (1024, 2048, 4096),
    *,
    contexts: tuple[int, ...] = (6144, 40_960, 131_072),
) -> st.SearchStrategy[Made]:
    """Models of a few MiB to some GiB."""
    return st.builds(
        Made,
        kind=st.sampled_from(["dense", "experts", "window"]),
        n_layer=st.integers(2, most_layers),
        n_embd=st.sampled_from(widths),
        n_head_kv=st.sampled_from([1, 2, 8]),
        head=st.sampled_from([64, 128, 256]),
        n_ctx=st.sampled_from(contexts),
    )


def cards(model: Model) -> st.SearchStrategy[Device]:
    """A GPU with room for nothing up to all of a model, slow or fast."""

    def card(share: float, gb_per_s: int) -> Device:
        gib = (1024 * MIB + share * model.size_bytes) / GIB
        return replace(gpu(gib, bandwidth=gb_per_s * 1e9), flops=gb_per_s * 80e9)

    tiny, usual = st.floats(0, 0.05), st.floats(0.05, 1.4)
    return st.builds(card, st.one_of(tiny, usual, usual), st.sampled_from([60, 300, 1000]))


def numbered(gpus: list[Device]) -> tuple[Device, ...]:
    """The same GPUs under their ids."""
    return tuple(
        replace(one, id=f"GPU{i}", engine_name=f"{one.backend}{i}") for i, one in enumerate(gpus)
    )


@st.composite
def machines(draw: st.DrawFn, model: Model, most_gpus: int = 3) -> Machine:
    """Up to so many GPUs, or one that draws from the RAM, and RAM for a part of the model up to
    several times of it."""
    gpus = draw(st.lists(cards(model), max_size=most_gpus))
    ram = 1.3 + draw(st.floats(0.2, 4)) * model.size_bytes / GIB
    where = machine(*numbered(gpus), ram=ram)
    if len(gpus) == 1 and draw(st.booleans()):
        chip = replace(
            gpus[0], backend="Metal", unified=True, overhead=128 * MIB, engine_name="MTL0"
        )
        return replace(where, gpus=(chip,))
    return where


wishes = st.builds(
    Wishes,
    n_ctx=st.sampled_from([None, None, 1000, 8192]),
    type_k=st.sampled_from([None, None, "f16", "q8_0"]),
    type_v=st.sampled_from([None, None, "f16", "q5_1"]),
    n_gpu_layers=st.sampled_from([None, None, 0, 3, 99]),
    n_cpu_moe=st.sampled_from([None, None, 0, 2]),
    n_ubatch=st.sampled_from([None, None, 64, 1024]),
    flash_attn=st.sampled_from([None, None, "on", "auto"]),
    prefer=st.sampled_from(PREFERENCES),
)


@st.composite
def cases(draw: st.DrawFn, /, most_gpus: int = 3, **kinds: Any) -> tuple[Made, Machine]:
    """A model and a machine for it."""
    made = draw(models(**kinds))
    return made, draw(machines(made.model, most_gpus))
