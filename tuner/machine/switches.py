"""What of the user's environment changes the sizes of the engine's compute buffers.

Not heeded, since hardly anybody sets them but to find a fault: what changes the order of nodes
alone (`GGML_CUDA_GRAPH_OPT`, `GGML_METAL_GRAPH_OPTIMIZE_DISABLE`) and what takes kernels away
(`GGML_SYCL_ENABLE_FLASH_ATTN`, `GGML_SYCL_FA_ONEDNN`, `GGML_VK_DISABLE_F16`,
`GGML_METAL_BF16_DISABLE`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

OFFLOADED = 32  # rows, if nothing is said (`op_offload_min_batch_size` and its like)

# by variable: whose way of arranging graphs it ends, by being set or by being a number but 0
_IF_SET = {"GGML_VK_DISABLE_GRAPH_OPTIMIZE": "Vulkan"}
_IF_TRUE = {"GGML_CUDA_DISABLE_FUSION": "CUDA"}


@dataclass(frozen=True, slots=True)
class Switches:
    """What the engine goes by on this machine, where that is the user's to say."""

    # rows of a result from which on a GPU borrows a weight in RAM for it; 0 or less would bring it
    # the embeddings too, which is not followed
    offloaded: int = OFFLOADED
    unarranged: frozenset[str] = frozenset()  # optimisers (`Backend.optimizer`) that are off


USUAL = Switches()


def read_switches(environ: Mapping[str, str]) -> Switches:
    """What the engine makes of an environment (`getenv` in ggml/src/ggml-*/*)."""
    rows = environ.get("GGML_OP_OFFLOAD_MIN_BATCH")
    off = {whose for name, whose in _IF_SET.items() if name in environ}
    off |= {whose for name, whose in _IF_TRUE.items() if as_number(environ.get(name, ""))}
    return Switches(OFFLOADED if rows is None else as_number(rows), frozenset(off))


def as_number(text: str) -> int:
    """As C's atoi reads it: 0 where no number begins."""
    found = re.match(r"\s*([+-]?)0*([0-9]{1,9})", text)
    return int(found[1] + found[2]) if found else 0
