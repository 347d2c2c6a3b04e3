"""What cache types cost a model, as it was measured: for people, and as JSON."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from tuner.memory.cache_losses import CacheLosses, PairLoss
from tuner.memory.cache_types import CACHE_TYPES
from tuner.model.model import Model
from tuner.planning.quality import CacheQuality
from tuner.report.table import Column, Row, Style, table, wrapped
from tuner.report.text import WIDTH, model_line
from tuner.safe_text import one_line
from tuner.units import tps_text

SCHEMA = 1
HIGH_PERPLEXITY = 100.0  # of f16: nearly everything that comes surprises the model

_COLUMNS = (
    Column("K / V", 13, right=False, gap=0),
    Column("loss", 6),
    Column("early", 6),
    Column("late", 6),
    Column("same top", 8),
    Column("size", 5),
    Column("tokens/s", 8),
    Column("", 4, right=False, gap=2),
)


def losses_text(
    model: Model, losses: CacheLosses, *, width: int = WIDTH, color: bool = False
) -> str:
    """All pairs as a table, at most `width` columns wide."""
    style, quality = Style(color), CacheQuality.of(model.hparams, losses)
    rows = [_row(pair, quality) for pair in losses.pairs]
    text = f"the text of {one_line(losses.text)}" if losses.text else "a text of kvchat's own"
    lines = wrapped(model_line(model), width, "", style.head)
    lines += [
        "",
        *wrapped(f"Read with each cache: {losses.n_tokens:,} tokens of {text}.", width, ""),
    ]
    lines += ["", *table(_COLUMNS, rows, width, style, "  "), ""]
    lines += wrapped(
        "loss: KL divergence from f16 in nats per token, early: over the first half of the text, "
        "late: over the second; same top: how often the likeliest next token is the same; size: "
        "the cache's, of f16; tokens/s: of decoding behind the text.",
        width,
        "",
    )
    lines += wrapped(
        f"f16 itself differs by {losses.noise:.4f} where it is read in other batches, which is "
        "what rounding makes of it. A loss of as much is none.",
        width,
        "",
    )
    lines += wrapped(f"Perplexity with f16: {losses.perplexity:.2f}.", width, "")
    if losses.perplexity > HIGH_PERPLEXITY:
        lines += wrapped(
            "That is high: either the text is of a kind that the model does not know, or the model "
            "is damaged, whatever its cache is.",
            width,
            "! ",
            lambda line: style(line, "33"),
        )
    return "\n".join(lines) + "\n"


def _row(pair: PairLoss, quality: CacheQuality) -> Row:
    return Row((
        f"{pair.type_k} / {pair.type_v}",
        f"{pair.loss:.4f}",
        f"{pair.loss_first:.4f}",
        f"{pair.loss_second:.4f}",
        f"{pair.same_top:.1%}",
        f"{size_share(pair):.0%}",
        tps_text(pair.decode_tps),
        quality.of_pair(pair.type_k, pair.type_v).words,
    ))  # fmt: skip


def size_share(pair: PairLoss) -> float:
    """Bytes of a cache of these types, of those of f16, where K and V are of one size."""
    bits = CACHE_TYPES[pair.type_k].bits + CACHE_TYPES[pair.type_v].bits
    return bits / (2 * CACHE_TYPES["f16"].bits)


def losses_json(model: Model, losses: CacheLosses) -> dict[str, Any]:
    """The same as one object; speeds in tokens/s."""
    quality = CacheQuality.of(model.hparams, losses)
    pairs = (
        {**asdict(pair), "words": quality.of_pair(pair.type_k, pair.type_v).words}
        for pair in losses.pairs
    )
    return {
        "schema": SCHEMA,
        "path": str(model.path),
        "fingerprint": model.fingerprint,
        **asdict(losses),
        "pairs": list(pairs),
    }
