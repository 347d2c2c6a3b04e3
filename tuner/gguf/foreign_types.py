"""Tensor types that files state and this llama.cpp does not have: whose they are, and what to do.

Sources: `enum ggml_type` in ggml/include/ggml.h of llama.cpp (the comments on what was removed), of
ik_llama.cpp and of the llama.cpp that bitnet.cpp carries; fs/ggml in Ollama.
"""

from __future__ import annotations

from typing import NamedTuple

from tuner.engine_version import ENGINE_VERSION
from tuner.gguf import package_names
from tuner.gguf.types import GGML_TYPES

MAX_TYPE = 1023  # no program numbers its types beyond 399


class Origin(NamedTuple):
    """Who has such types, and what a user can do with a file of them."""

    whose: str
    advice: str


_IK = Origin(
    "of ik_llama.cpp",
    "run it with ik_llama.cpp, or take a quantization that llama.cpp has, such as Q4_K_M",
)
_BITNET = Origin(
    "of bitnet.cpp", "run it with bitnet.cpp, or take a TQ1_0 or TQ2_0 file of this model"
)
_OLLAMA = Origin(
    "as Ollama once wrote it", "run it with Ollama, or take a GGUF of this model made for llama.cpp"
)
_REMOVED = Origin(
    "removed from llama.cpp", "take a newer quantization of this model, such as Q4_K_M"
)
_REPACKED = Origin(
    "removed from llama.cpp",
    "take the Q4_0 file of this model, which llama.cpp repacks by itself while it loads",
)
_IQ_REPACKED = Origin(
    "removed from llama.cpp",
    "take the IQ4_NL file of this model, which llama.cpp repacks by itself while it loads",
)


class ForeignType(NamedTuple):
    """One type. A number that two programs gave out has a row for each, the likelier first."""

    number: int
    name: str
    origin: Origin


FOREIGN_TYPES = (
    ForeignType(4, "MXFP4", _OLLAMA),
    ForeignType(4, "Q4_2", _REMOVED),
    ForeignType(5, "Q4_3", _REMOVED),
    ForeignType(31, "Q4_0_4_4", _REPACKED),
    ForeignType(32, "Q4_0_4_8", _REPACKED),
    ForeignType(33, "Q4_0_8_8", _REPACKED),
    ForeignType(36, "I2_S", _BITNET),
    ForeignType(36, "IQ4_NL_4_4", _IQ_REPACKED),
    ForeignType(37, "I8_S", _BITNET),
    ForeignType(37, "IQ4_NL_4_8", _IQ_REPACKED),
    ForeignType(38, "TL1", _BITNET),
    ForeignType(38, "IQ4_NL_8_8", _IQ_REPACKED),
    ForeignType(39, "TL2", _BITNET),  # MXFP4 in llama.cpp
    ForeignType(97, "Q8_0_X4", _IK),
    ForeignType(98, "Q8_1_X4", _IK),
    ForeignType(99, "Q8_2_X4", _IK),
    ForeignType(133, "Q6_0", _IK),
    ForeignType(134, "IQ1_BN", _IK),
    ForeignType(135, "IQ2_BN", _IK),
    ForeignType(136, "Q8_K64", _IK),
    ForeignType(137, "IQ2_K", _IK),
    ForeignType(138, "IQ3_K", _IK),
    ForeignType(139, "IQ4_K", _IK),
    ForeignType(140, "IQ5_K", _IK),
    ForeignType(141, "IQ6_K", _IK),
    ForeignType(142, "IQ2_TN", _IK),
    ForeignType(143, "IQ1_TN", _IK),
    ForeignType(144, "IQ4_KS", _IK),
    ForeignType(145, "IQ2_KS", _IK),
    ForeignType(146, "IQ4_KSS", _IK),
    ForeignType(147, "Q8_K16", _IK),
    ForeignType(148, "Q8_K32", _IK),
    ForeignType(149, "Q8_KR8", _IK),
    ForeignType(150, "Q8_K128", _IK),
    ForeignType(151, "Q8_KV", _IK),
    ForeignType(152, "IQ5_KS", _IK),
    ForeignType(153, "IQ2_KT", _IK),
    ForeignType(154, "IQ3_KT", _IK),
    ForeignType(155, "IQ4_KT", _IK),
    ForeignType(156, "IQ3_KS", _IK),
    ForeignType(157, "IQ2_KL", _IK),
    ForeignType(158, "IQ1_KT", _IK),
    ForeignType(202, "Q4_0_R8", _IK),
    ForeignType(206, "Q5_0_R4", _IK),
    ForeignType(208, "Q8_0_R8", _IK),
    ForeignType(210, "Q2_K_R4", _IK),
    ForeignType(211, "Q3_K_R4", _IK),
    ForeignType(212, "Q4_K_R4", _IK),
    ForeignType(213, "Q5_K_R4", _IK),
    ForeignType(214, "Q6_K_R4", _IK),
    ForeignType(216, "IQ2_XXS_R4", _IK),
    ForeignType(217, "IQ2_XS_R4", _IK),
    ForeignType(218, "IQ3_XXS_R4", _IK),
    ForeignType(219, "IQ1_S_R4", _IK),
    ForeignType(220, "IQ4_NL_R4", _IK),
    ForeignType(221, "IQ3_S_R4", _IK),
    ForeignType(222, "IQ2_S_R4", _IK),
    ForeignType(223, "IQ4_XS_R8", _IK),
    ForeignType(229, "IQ1_M_R4", _IK),
    ForeignType(230, "BF16_R16", _IK),
    ForeignType(233, "Q6_0_R4", _IK),
    ForeignType(335, "IQ2_BN_R4", _IK),
    ForeignType(337, "IQ2_K_R4", _IK),
    ForeignType(338, "IQ3_K_R4", _IK),
    ForeignType(339, "IQ4_K_R4", _IK),
    ForeignType(340, "IQ5_K_R4", _IK),
    ForeignType(344, "IQ4_KS_R4", _IK),
    ForeignType(352, "IQ5_KS_R4", _IK),
    ForeignType(353, "MXFP4_R8", _IK),
    ForeignType(397, "Q8_K_R16", _IK),
    ForeignType(398, "Q8_KV_R8", _IK),
    ForeignType(399, "Q8_K_R8", _IK),
)

_SHARED = {row.number for row in FOREIGN_TYPES} & GGML_TYPES.keys()

FROM_ELSEWHERE = "update kvchat, or take a file of this model that is made for llama.cpp"


def foreign_type(number: int) -> Origin:
    """What such a type is called and whose it is, as "type 144 (IQ4_KS of ik_llama.cpp)", and the
    advice for a file that has it."""
    rows = [row for row in FOREIGN_TYPES if row.number == number]
    if rows:
        named = ", or ".join(f"{row.name}, {row.origin.whose}" for row in rows)
        return Origin(f"type {number} ({named})", rows[0].origin.advice)
    newer = package_names.tensor_type(number)
    called = f" ({newer})" if newer else ""
    whose = (
        f"type {number}{called}, unknown to llama.cpp {ENGINE_VERSION}: it is newer, or another "
        "program's"
    )
    return Origin(whose, FROM_ELSEWHERE)


def is_shared(number: int) -> bool:
    """Whether llama.cpp and another program gave out the same number."""
    return number in _SHARED
