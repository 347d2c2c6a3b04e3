"""What child processes inherit of the environment: what an engine and Python need, no secrets."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

# Names in full, and how names begin. Whoever needs another sets it under one of these.
_NAMES = """
PATH HOME USER LOGNAME SHELL TMPDIR TEMP TMP LANG LANGUAGE TZ VIRTUAL_ENV CONDA_PREFIX
DISPLAY WAYLAND_DISPLAY DRI_PRIME GLIBC_TUNABLES
SYSTEMROOT SYSTEMDRIVE WINDIR COMSPEC PATHEXT USERPROFILE HOMEDRIVE HOMEPATH APPDATA LOCALAPPDATA
PROGRAMDATA ALLUSERSPROFILE OS NUMBER_OF_PROCESSORS
"""
_BEGINNINGS = """
LC_ XDG_ LD_ DYLD_ PYTHON KVCHAT_ PROGRAMFILES COMMONPROGRAM PROCESSOR_
GGML_ LLAMA_ CUDA_ NVIDIA_ HIP_ ROCR_ ROCM_ HSA_ GPU_ AMD_ VK_ MESA_ RADV_ ANV_ MUSA_ MTL_ METAL_
ONEAPI_ SYCL_ ZE_ ASCEND_
OMP_ GOMP_ KMP_ OPENBLAS_ GOTO_ MKL_ BLIS_ MALLOC_
"""
# Some that begin so are for talking to a service.
_SECRET = re.compile(r"(^|_)(API|KEY|TOKEN|SECRET|PASSWORD|PASSWD|PASS|CREDENTIALS?|AUTH)S?(_|$)")


def child_environment(environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The part of `environ` that a child process is given."""
    return {name: value for name, value in environ.items() if _is_given(name.upper())}


def _is_given(name: str) -> bool:
    known = name in _NAMES.split() or name.startswith(tuple(_BEGINNINGS.split()))
    return known and not _SECRET.search(name)
