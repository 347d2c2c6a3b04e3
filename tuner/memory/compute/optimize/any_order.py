"""What a split takes at most where a backend's order of it cannot be told, because it is not known
what some of its nodes do.

The nodes stay as they are, but whatever another order could have in memory at one time is there at
one time. A backend takes a node ahead of others that it does not depend on, over some of them at
most. So two tensors can meet in some order only if each is made no further behind a reader of the
other, and not from what that reader makes. Each is kept until the last node of which this is true;
then all that meet in some order meet here too: spans of a line of which any two overlap have a
place in common (Helly). It is a bound of what is alive; holes between blocks are those of this
order.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

from tuner.memory.compute.graph import Node
from tuner.memory.compute.optimize.split import Split, base, is_view

# Over how many nodes one may be taken: Vulkan's NUM_TO_CHECK and what is fetched for those
# (ggml-vulkan.cpp); Metal's N_FORWARD, of groups of seldom more than two (ggml-metal-common.cpp).
REACH: Mapping[str, int] = {"Vulkan": 35, "Metal": 128}
_LONGEST = 16  # nodes that one kernel stands for, which keep what they read until the last


def held(split: Split, reach: int) -> None:
    """Notes what may have to be kept, and until when."""
    nodes = split.nodes
    behind = _dependent(nodes, reach)
    last = len(nodes) - 1
    until: dict[Node, int] = {}
    for i, node in enumerate(nodes):
        if is_view(node):  # which reads nothing
            continue
        n_within = min(reach, last - i) + 1
        others = ~behind[i] & ((1 << n_within) - 1)
        end = i + max(others.bit_length() - 1, 0)
        if not node.op:
            end = max(end, min(i + _LONGEST - 1, last))
        for home in (base(node), *map(base, node.srcs)):
            until[home] = max(until.get(home, i), end)
    read = {base(src) for node in nodes for src in node.srcs}
    for home, end in until.items():
        if home in read and not home.external:  # what nobody reads is never given back anyway
            split.keep(home, nodes[end])


def _dependent(nodes: list[Node], reach: int) -> list[int]:
    """For each node a bit for itself and each of the next `reach` ones: whether that is, or needs
    what it makes or must wait until it has read, directly or not."""
    wrote: dict[Node, int] = {}  # by memory: the last one to write there,
    read: dict[Node, list[int]] = defaultdict(list)  # and who has read it since
    behind = [1] * len(nodes)
    waits_for: list[set[int]] = []
    for i, node in enumerate(nodes):
        homes = {base(src) for src in node.srcs}
        found = {wrote[home] for home in {base(node), *homes} if home in wrote}
        if not is_view(node):
            found.update(read.pop(base(node), ()))
            wrote[base(node)] = i
            for home in homes:
                read[home].append(i)
        waits_for.append(found)
    mask = (1 << reach + 1) - 1
    for i, found in reversed([*enumerate(waits_for)]):
        for earlier in found:
            if i - earlier <= reach:
                behind[earlier] |= behind[i] << (i - earlier) & mask
    return behind
