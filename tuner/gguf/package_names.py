"""Names for what is newer than this program's tables, out of the gguf package.

It is loaded only where such a name is asked for: importing it brings numpy and takes 0.3 s. Without
the package, or where it does not know either, there is no name.
"""

from __future__ import annotations


def tensor_type(number: int) -> str | None:
    """The name of a ggml type, like "q4_K"; None where nobody knows it."""
    try:
        from gguf import GGMLQuantizationType  # noqa: PLC0415

        return str(GGMLQuantizationType(number).name)
    except (ImportError, ValueError):
        return None


def file_type(number: int) -> str | None:
    """The name of a mix, like "Q4_K_M"; None where nobody knows it."""
    try:
        from gguf import LlamaFileType  # noqa: PLC0415

        return str(LlamaFileType(number).name).removeprefix("MOSTLY_").removeprefix("ALL_")
    except (ImportError, ValueError):
        return None


def is_architecture(name: str) -> bool:
    """Whether the package has heard of such an architecture."""
    try:
        from gguf import MODEL_ARCH_NAMES  # noqa: PLC0415
    except ImportError:
        return False
    return name in MODEL_ARCH_NAMES.values()
