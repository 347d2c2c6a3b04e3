"""Numbers as people read and write them."""

from __future__ import annotations

import re

from tuner.errors import UsageError

KIB = 1 << 10
MIB = 1 << 20
GIB = 1 << 30
MAX_SIZE = 1 << 50  # bytes, 1,024 TiB: more than any machine or model has
UINT32, INT32 = (1 << 32) - 1, (1 << 31) - 1  # the largest numbers of these types

_WHOLE_RATE = 100  # GB/s from which on a decimal says nothing
_MINUTE = 60  # seconds
_LONG = 600  # of a unit, from which on the next larger one is told
_WHOLE_SECONDS = 10  # from which on a decimal says nothing
_WHOLE_K = 100  # k tokens from which on a decimal says nothing
_WHOLE_TPS = 10  # tokens/s from which on a decimal says nothing
_SIZE = re.compile(r"^\s*(\d{1,18}(?:\.\d{1,18})?)\s*([kmgt]?)(i?b?)\s*$", re.IGNORECASE)
_RATE = re.compile(r"^\s*(\d{1,18}(?:\.\d{1,18})?)\s*([kmgt])(i?)b?(?:/s|ps)?\s*$", re.IGNORECASE)
_MAX_RATE = 1e15  # bytes/s: more than any memory has
_FACTORS = {"": 1, "k": KIB, "m": MIB, "g": GIB, "t": 1 << 40}


def padded(size: int, unit: int) -> int:
    """`size` rounded up to a multiple of `unit`."""
    return -(-size // unit) * unit


def size_text(n_bytes: float) -> str:
    """12.3 GiB, 512 MiB, 34 KiB, 7 B."""
    n = abs(n_bytes)
    if n >= GIB:
        return f"{n_bytes / GIB:,.1f} GiB"
    if n >= MIB:
        return f"{n_bytes / MIB:.0f} MiB"
    if n >= KIB:
        return f"{n_bytes / KIB:.0f} KiB"
    return f"{n_bytes:.0f} B"


def count_text(n: int, noun: str) -> str:
    """How many of something: 1 token, 1,204 tokens."""
    return f"{n:,} {noun}{'' if n == 1 else 's'}"


def tps_text(tps: float) -> str:
    """Tokens/s with two or three digits: 3.4, 27, 1,520."""
    return f"{tps:.1f}" if tps < _WHOLE_TPS else f"{tps:,.0f}"


def tokens_text(n_tokens: int) -> str:
    """A number of tokens by thousands of 1,024, as contexts are named: 812, 11.9k, 32k, 1,024k."""
    if n_tokens < KIB:
        return f"{n_tokens:,}"
    thousands = f"{n_tokens / KIB:,.1f}" if n_tokens < _WHOLE_K * KIB else f"{n_tokens / KIB:,.0f}"
    return f"{thousands.removesuffix('.0')}k"


def seconds_text(seconds: float) -> str:
    """How long something takes, for people, so that what differs by a tenth reads differently:
    2.3 s, 45 s, 480 s, 12 min, 3 h."""
    if seconds < _WHOLE_SECONDS:
        return f"{seconds:.1f} s"
    for size, unit in ((1, "s"), (_MINUTE, "min")):
        if seconds < _LONG * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds / _MINUTE**2:,.0f} h"


def parse_size(text: str, flag: str = "") -> int:
    """Bytes of "24GiB", "512 MiB", "8G", "1000000"; units are powers of 1024. `flag`: whose value
    it is, which an error names.

    "GB" is read as GiB too: cards are sold that way. Raises UsageError.
    """
    match = _SIZE.match(text)
    said = f"{flag} '{text}'".lstrip()
    if not match:
        raise UsageError(f"{said} is not a size; write one like 24GiB or 512MiB.")
    if not match[2] and not match[3] and 0 < float(match[1]) < MIB:
        raise UsageError(f"{said} has no unit; write {text.strip()}GiB or {text.strip()}MiB.")
    size = int(float(match[1]) * _FACTORS[match[2].lower()])
    if size > MAX_SIZE:
        raise UsageError(f"{said} is more memory than there is; write a size like 24GiB.")
    return size


def rate_text(bytes_per_second: float) -> str:
    """936 GB/s, 89.6 GB/s, 1,790 GB/s; powers of 1000, as memory is sold."""
    gb = bytes_per_second / 1e9
    return f"{gb:,.0f} GB/s" if gb >= _WHOLE_RATE else f"{gb:.3g} GB/s"


def parse_rate(flag: str, text: str) -> float:
    """Bytes/s of "89.6GB/s" (powers of 1000) or "80GiB/s" (of 1024). Raises UsageError."""
    match = _RATE.match(text)
    if not match:
        wrong = "has no unit" if re.fullmatch(r"\s*\d+(\.\d+)?\s*", text) else "is no bandwidth"
        raise UsageError(f"{flag} '{text}' {wrong}; write one like 89.6GB/s.")
    power = "kmgt".index(match[2].lower()) + 1
    rate = float(match[1]) * float((1024 if match[3] else 1000) ** power)
    if not 0 < rate <= _MAX_RATE:
        wrong = "is no bandwidth at all" if rate <= 0 else "is more than any memory has"
        raise UsageError(f"{flag} '{text}' {wrong}; write one like 89.6GB/s.")
    return rate


def parse_tokens(text: str) -> int:
    """Tokens of "16384" or "32k" (k = 1024). Raises UsageError."""
    match = re.fullmatch(r"\s*(\d{1,18})\s*([kKmM]?)\s*", text)
    if not match:
        raise UsageError(f"'{text}' is not a number of tokens; write one like 16384 or 32k.")
    return int(match[1]) * _FACTORS[match[2].lower()]
