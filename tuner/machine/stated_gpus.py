"""The GPUs that a user describes, by name or by size."""

from __future__ import annotations

from collections.abc import Sequence

from tuner.errors import UsageError
from tuner.machine import cards
from tuner.safe_text import cut
from tuner.units import parse_size, size_text
from tuner.wishes import StatedGpu

NONE = "none"  # a machine without a GPU


def parse_gpus(texts: Sequence[str], ram: int | None = None) -> tuple[StatedGpu, ...]:
    """The GPUs of "RTX 3090", "RTX 3090,RTX 3060:12GiB", "M4 Pro:48GiB" or "none".

    `ram`: the machine's bytes of RAM, where they are stated. Raises UsageError.
    """
    names = [part.strip() for text in texts for part in text.split(",")]
    if [name.lower() for name in names] == [NONE]:
        return ()
    gpus = tuple(_parsed(name, ram) for name in names)
    sharing = [gpu for gpu in gpus if card_of(gpu).unified]
    if len(sharing) > 1:
        raise UsageError(
            f"{sharing[0].name} and {sharing[1].name} are machines of their own: each has its GPU "
            "and its RAM in one; name one of them."
        )
    if sharing and len(gpus) > 1 and card_of(sharing[0]).backend == "Metal":
        raise UsageError(
            f"no other card works in a machine with {sharing[0].name}: macOS has no driver for "
            "one; name it alone."
        )
    if sharing and ram is not None and ram != sharing[0].size:
        raise UsageError(
            f"{sharing[0].name} has no memory of its own: --gpu gives the machine "
            f"{size_text(sharing[0].size)} of RAM, --ram {size_text(ram)}; leave one of them out."
        )
    return gpus


def _parsed(text: str, ram: int | None) -> StatedGpu:
    name, colon, size_part = (part.strip() for part in text.partition(":"))
    size = parse_size(size_part, "--gpu") if colon else cards.size_in(name)
    row = cards.row_of(name, size)
    if row is None:
        if not name:
            raise UsageError("--gpu needs the name of a card, like 'RTX 3090', or none.")
        if name.lower() == NONE:
            raise UsageError("--gpu none is a machine without a GPU: name no other beside it.")
        near = ", ".join(cards.nearest(name))
        raise UsageError(
            f"--gpu knows no card '{cut(name)}'; the nearest names are {near}; --vram 24GiB plans "
            "for any card of that size."
        )
    if size == 0:
        raise UsageError(f"--gpu '{cut(text)}' has no memory; write a size like {row.name}:12GiB.")
    if size is None and row.unified and ram is not None:
        row, size = cards.row_of(name, ram) or row, ram
    return StatedGpu(size or row.memory[0], row.name, usual=size is None)


def card_of(gpu: StatedGpu) -> cards.CardRow:
    """What is known of its card. Raises UsageError where it has no name that is known."""
    row = cards.row_of(gpu.name, gpu.size)
    if row is None:
        raise UsageError(f"there is no card '{cut(gpu.name)}' in the table of cards.")
    return row
