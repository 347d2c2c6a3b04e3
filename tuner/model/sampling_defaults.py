"""The sampling that a file's makers recommend."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tuner.gguf.header import SkippedArray, Value
from tuner.sampling import values


def sampling_defaults(metadata: Mapping[str, Value | SkippedArray]) -> dict[str, Any]:
    """What the keys `general.sampling.*` state (`common_init_sampler_from_model`,
    common/common.cpp), by the names of `Sampling`. What makes no sense there is passed over."""
    found: dict[str, Any] = {}
    for value in values():
        stated = metadata.get(f"general.sampling.{value.row.key}") if value.row.key else None
        made = value.read(stated)
        if made is not None:
            found[value.name] = made
    return found
