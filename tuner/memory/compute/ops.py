"""The operations that nodes of a graph stand for, as ggml names them (ggml/src/ggml.c).

A unary or gated operation goes by its own name, as `ggml_op_desc` says it. "" is one that nothing
asks about.
"""

from __future__ import annotations

from typing import Literal

Op = Literal[
    "", "ABS", "ADD", "ADD_ID", "ARANGE", "ARGSORT", "CLAMP", "CONCAT", "CONT", "CPY", "CUMSUM",
    "DIV", "DSV4_HC_COMB", "DSV4_HC_POST", "DSV4_HC_PRE", "EXP", "FILL", "FLASH_ATTN_EXT",
    "GATED_DELTA_NET", "GATED_LINEAR_ATTN", "GEGLU", "GELU", "GET_ROWS", "GLU", "L2_NORM",
    "LIGHTNING_INDEXER", "LOG", "MEAN", "MUL", "MUL_MAT", "MUL_MAT_ID", "NEG", "NORM", "PAD",
    "PERMUTE", "POOL_2D", "RELU", "REPEAT", "RESHAPE", "RMS_NORM", "ROPE", "ROPE_BACK",
    "RWKV_WKV6", "RWKV_WKV7", "SCALE", "SET_ROWS", "SGN", "SIGMOID", "SILU", "SIN", "SOFTPLUS",
    "SOFT_MAX", "SQR", "SQRT", "SSM_CONV", "SSM_SCAN", "SUB", "SUM_ROWS", "SWIGLU",
    "SWIGLU_CLAMP", "SWIGLU_OAI", "TANH", "TOP_K", "TRANSPOSE", "UNARY", "VIEW",
]  # fmt: skip

EMPTY = frozenset({"PERMUTE", "RESHAPE", "TRANSPOSE", "VIEW"})  # which compute nothing
UNARY = frozenset(
    {"ABS", "EXP", "GELU", "NEG", "RELU", "SGN", "SIGMOID", "SILU", "SOFTPLUS", "TANH"}
)
GLU = frozenset({"GEGLU", "SWIGLU", "SWIGLU_CLAMP", "SWIGLU_OAI"})


def family(op: str) -> str:
    """The operation as `ggml_op` has it: all unary ones are one, so are all gated ones."""
    return "UNARY" if op in UNARY else "GLU" if op in GLU else op
