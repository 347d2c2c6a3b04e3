"""Feed-forward parts as graph nodes: dense ones and experts.

Mirrors `build_ffn` and `build_moe_ffn` (src/llama-graph.cpp).
"""

from __future__ import annotations

from tuner.memory.compute.graph import F32, HOST, I32, Node
from tuner.memory.compute.replica.builder import Parts, Tensors


class FeedForward(Parts):
    """Builds whatever feed-forward part a layer has."""

    def ffn(self, t: Tensors, x: Node, suffix: str = "") -> Node:
        """The dense feed-forward part (`build_ffn`)."""
        g = self.g
        up_name, gate_name, down_name = (f"ffn_{p}{suffix}" for p in ("up", "gate", "down"))
        up = self.mm(t, up_name, x)
        if self.has(t, gate_name):
            y = self._gated(self.mm(t, gate_name, x), up, self.hp.clamped_shared)
        elif self.has(t, down_name) and up.shape[0] == 2 * t[f"{down_name}.weight"].shape[0]:
            y = g.new(up.shape[0] // 2, *up.shape[1:], of=(up,))
        else:
            y = g.over(up)
        if self.has(t, "ffn_sub_norm"):
            y = self.norm(t, "ffn_sub_norm", y)
        return self.mm(t, down_name, y)

    def _gated(self, gate: Node, up: Node, clamped: tuple[bool, ...]) -> Node:
        """A gated unit: one operation, but for "situ" and limited ones, made of several."""
        g = self.g
        if any(clamped[self.layer : self.layer + 1]):
            return g.over(g.over(g.over(g.over(gate))), g.over(up))
        if self.traits.situ_gate:
            bent = g.over(g.over(g.over(gate)))
            return g.over(g.over(bent, g.over(gate)), g.over(up))
        return g.new(*up.shape, of=(gate, up))

    def moe(self, t: Tensors, x: Node, logits: Node | None = None, kind: str = "exps") -> Node:
        """The routed experts (`build_moe_ffn`). `logits`: the router's word where it does not
        judge by x. `kind`: "chexps" for grovemoe's second, smaller experts, one for a group."""
        g, hp = self.g, self.hp
        n_expert, u = hp.n_expert, x.shape[-1]
        chunks = t[f"ffn_up_{kind}.weight"].shape[-1] if kind == "chexps" else n_expert
        used = min(hp.n_expert_used, chunks)
        if logits is None:
            logits = self.mm(t, "ffn_gate_inp", x)
        probs = logits if self.traits.expert_weights == "softmax" else g.over(logits)
        chosen = logits if self.traits.expert_choice == "logits" else probs
        if "exp_probs_b.bias" in t or "exp_probs_b" in t:
            chosen = g.over(probs, weighted=True)
        if self.traits.expert_choice == "sigmoid":
            chosen = g.over(logits)
        if hp.n_expert_groups > 1:
            chosen = self._of_best_groups(chosen)
        order = g.new(n_expert, u, of=(chosen,), element=I32)
        top = self.routed or g.view(order, used, u, contiguous=False, stride=n_expert)
        if chunks != n_expert:  # from experts to groups, by way of a division in F32
            divided = g.over(g.new(used, u, of=(top,)))
            top = g.new(used, u, of=(divided,), element=I32)
        weights = g.new(1, used, u, of=(g.view(probs, 1, n_expert, u), top))
        sums_up = self.traits.expert_weights
        if sums_up == "softmax":
            weights = g.view(g.over(g.view(weights, used, u)), 1, used, u)
        elif sums_up == "sum" or (sums_up == "stated" and hp.expert_weights_norm):
            flat = g.view(weights, used, u)
            total = g.over(g.new(1, u, of=(flat,)))
            weights = g.view(g.over(flat, total), 1, used, u)
        g.expand(weights)
        x = g.view(x, x.shape[0], 1, u)
        n_embd = x.shape[0]
        if self.traits.weighted_input:
            x = g.over(g.new(n_embd, used, u, of=(x,)), weights)
        if self.has(t, "ffn_gate_up_exps"):
            both = self._experts(t, "ffn_gate_up_exps", x, top)
            f = both.shape[0] // 2
            gate = g.view(both, f, used, u, contiguous=False)
            up = g.view(both, f, used, u, contiguous=False)
            y = g.new(f, used, u, of=(gate, up))
        else:
            up = self._experts(t, f"ffn_up_{kind}", x, top)
            if self.has(t, f"ffn_gate_{kind}"):
                gate = self._experts(t, f"ffn_gate_{kind}", x, top)
                y = self._gated(gate, up, hp.clamped)
            else:
                y = g.over(up)
        experts = self._experts(t, f"ffn_down_{kind}", y, top)
        if not self.traits.weighted_input:
            experts = g.over(experts, weights)
        g.expand(experts)
        parts = [
            g.view(experts, n_embd, u, contiguous=used == 1, stride=used * n_embd)
            for _ in range(hp.n_expert_used)
        ]
        g.expand(*parts)
        total = parts[0]
        for part in parts[1:]:
            total = Node((n_embd, u), F32, (total, part), inplace=True)
            g.expand(total)
        if hp.n_expert_used == 1:
            total = g.new(n_embd, u, of=(total,))
        return total

    def _of_best_groups(self, scores: Node) -> Node:
        """The scores of experts, all hidden but those of the groups with the best two."""
        g, n_groups, used = self.g, self.hp.n_expert_groups, self.hp.n_groups_used
        n_expert, u = scores.shape
        n = n_expert // n_groups
        grouped = g.view(scores, n, n_groups, u)
        order = g.new(n, n_groups, u, of=(grouped,), element=I32)
        best = g.new(1, 2, n_groups, u, of=(g.view(scores, 1, n, n_groups, u),
                                            g.view(order, 2, n_groups, u)))  # fmt: skip
        total = g.view(g.new(1, n_groups, u, of=(g.view(best, 2, n_groups, u),)), n_groups, u)
        order = g.new(n_groups, u, of=(total,), element=I32)
        chosen = g.view(order, used, u, contiguous=False, stride=n_groups)
        shown = g.new(n, used, u, of=(grouped, chosen))
        hidden = g.over(grouped)
        rows = Node((0,), 0, (shown, chosen, hidden), root=hidden)
        return g.view(rows, n_expert, u)

    def _experts(self, t: Tensors, name: str, x: Node, top: Node) -> Node:
        w = t[f"{name}.weight"]
        device = 0 if self.experts_on_host else None
        shape = (w.shape[1], top.shape[0], x.shape[-1])
        g = self.g
        y = g.weighted(shape, (x, top), w.n_bytes, device)
        if f"{name}.scale" in t and self.hp.row.scaled_experts:
            factors = self.g.outside(t[f"{name}.scale"].n_bytes, y.device)
            scales = self.g.new(1, self.hp.n_expert, x.shape[-1], of=(factors,))
            y = g.over(y, g.new(1, *shape[1:], of=(scales, top)))
        bias = t.get(f"{name}.bias")
        if bias is not None:  # added where the experts run, borrowed like them
            borrowed = self.experts_on_host and y.device != HOST
            more = (g.outside(bias.n_bytes, HOST),) if borrowed else ()
            y = Node(y.shape, F32, (y, top, *more), inplace=True, device=y.device)
        return y

    def feed_forward(self, t: Tensors, x: Node, logits: Node | None = None) -> Node | None:
        """Whatever feed-forward part a layer has: dense, experts, shared experts, both."""
        g = self.g
        routed = self.has(t, "ffn_gate_inp") and any(
            self.has(t, n) for n in ("ffn_up_exps", "ffn_gate_up_exps")
        )
        if routed and not self.traits.experts:
            return g.over(x)  # nothing but the activation
        y: Node | None
        if routed and self.has(t, "ffn_up_chexps"):
            logits = self.mm(t, "ffn_gate_inp", x)
            y = self.moe(t, x, logits)
            return g.over(y, g.over(self.moe(t, y, logits, "chexps")))
        y = None
        if routed:
            y = self.moe(t, x, logits)
            if self.has(t, "ffn_up_shexp"):
                shared = self.ffn(t, x, "_shexp")
                if self.has(t, "ffn_gate_inp_shexp"):
                    gate = g.over(g.mm(1, x))
                    shared = g.over(shared, gate)
                y = g.over(y, shared)
        if self.has(t, "ffn_up") and (y is None or self.traits.dense_beside_experts):
            dense = self.ffn(t, x)
            y = dense if y is None else g.over(dense, y)
        return y
