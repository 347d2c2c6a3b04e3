"""The engine's own choice of types for a quantization, from its library, without any weights.

The functions are those of src/llama-ext.h that llama.cpp keeps for a test of its own
(tests/test-quant-type-selection.cpp). They are C++'s, named as gcc and clang name them.
"""

from __future__ import annotations

import ctypes
import importlib.util
from collections.abc import Sequence
from ctypes import POINTER, byref, c_bool, c_char_p, c_int, c_int64, c_size_t, c_uint32, c_void_p
from functools import cache
from pathlib import Path
from typing import Any

from tuner.engine.probe import open_library
from tuner.gguf.header import TensorInfo
from tuner.gguf.types import FILE_TYPES
from tuner.model.model import Model

_F32 = 0
_OVERHEAD = 1024  # bytes that ggml keeps of a tensor, generously


class _Description(ctypes.Structure):
    """`llama_quant_model_desc`"""

    _fields_ = [
        ("architecture", c_char_p),
        ("n_embd", c_uint32),
        ("n_ff", c_uint32),
        ("n_layer", c_uint32),
        ("n_head", c_uint32),
        ("n_head_kv", c_uint32),
        ("n_expert", c_uint32),
        ("head_k", c_uint32),
        ("head_v", c_uint32),
    ]


class _Init(ctypes.Structure):
    """`ggml_init_params`"""

    _fields_ = [("mem_size", c_size_t), ("mem_buffer", c_void_p), ("no_alloc", c_bool)]


class Quantizer:
    """What `llama-quantize` would make of a model's tensors."""

    def __init__(self, folder: Path) -> None:
        self._base = open_library("ggml-base", folder)
        self._base.ggml_init.argtypes, self._base.ggml_init.restype = [_Init], c_void_p
        self._base.ggml_free.argtypes = [c_void_p]
        new = self._base.ggml_new_tensor
        new.argtypes, new.restype = [c_void_p, c_int, c_int, POINTER(c_int64)], c_void_p
        self._base.ggml_set_name.argtypes = [c_void_p, c_char_p]
        self._llama = llama = open_library("llama", folder)
        llama.llama_model_free.argtypes = [c_void_p]
        of = self._function
        self._describe = of("_Z31llama_quant_model_from_metadataPK22llama_quant_model_desc")
        self._init = of("_Z16llama_quant_initPK11llama_modelPK27llama_model_quantize_params")
        self._free = of("_Z16llama_quant_freeP19quantize_state_impl")
        self._allows = of(
            "_Z38llama_quant_tensor_allows_quantizationPK19quantize_state_implPK11ggml_tensor"
        )
        self._types = of(
            "_Z25llama_quant_compute_typesP19quantize_state_impl11llama_ftypePP11ggml_tensor"
            "P9ggml_typem"
        )
        self._describe.restype = self._init.restype = c_void_p
        self._init.argtypes = self._allows.argtypes = [c_void_p, c_void_p]
        self._allows.restype, self._free.argtypes = c_bool, [c_void_p]
        pointers, kinds = POINTER(c_void_p), POINTER(c_int)
        self._types.argtypes = [c_void_p, c_int, pointers, kinds, c_size_t]

    def _function(self, name: str) -> Any:
        return self._llama[name]

    def types(self, model: Model, tensors: Sequence[TensorInfo], mix: str) -> list[int]:
        """The types that these tensors get, in their order; those that are left alone keep theirs.
        Without an importance matrix."""
        hp, ftype = model.hparams, {name: number for number, name in FILE_TYPES.items()}[mix]
        its = _Description(
            model.architecture.encode(), model.n_embd, 0, model.n_layer_all, hp.n_head[0],
            hp.n_head_kv[0], model.n_expert, hp.head_k[0], hp.head_v[0],
        )  # fmt: skip
        from tuner.engine.bindings import llama_cpp  # noqa: PLC0415  # heavy, and here alone

        mock = self._describe(byref(its))
        usual = llama_cpp.llama_model_quantize_default_params()
        state = self._init(mock, ctypes.addressof(usual))
        context = self._base.ggml_init(_Init(_OVERHEAD * (len(tensors) + 1), None, True))
        try:
            handles = [self._tensor(context, t) for t in tensors]
            allowed = [self._allows(state, handle) for handle in handles]
            some = [h for h, allows in zip(handles, allowed, strict=True) if allows]
            found = (c_int * len(some))()
            self._types(state, ftype, (c_void_p * len(some))(*some), found, len(some))
            kinds = iter(found)
            return [
                next(kinds) if allows else t.ggml_type
                for t, allows in zip(tensors, allowed, strict=True)
            ]
        finally:
            self._base.ggml_free(context)
            self._free(state)
            self._llama.llama_model_free(mock)

    def _tensor(self, context: int, tensor: TensorInfo) -> int:
        shape = (c_int64 * len(tensor.shape))(*tensor.shape)
        handle: int = self._base.ggml_new_tensor(context, _F32, len(tensor.shape), shape)
        self._base.ggml_set_name(handle, tensor.name.encode())
        return handle


@cache
def quantizer() -> Quantizer | None:
    """The installed engine's; None where its library has no such functions."""
    found = importlib.util.find_spec("llama_cpp")
    assert found is not None
    assert found.origin is not None
    try:
        return Quantizer(Path(found.origin).parent / "lib")
    except AttributeError:
        return None
