"""Several files in a table, best first: which of them fit, and how."""

from __future__ import annotations

from collections.abc import Sequence

from tuner.engine_version import other_engine_text
from tuner.errors import KvchatError
from tuner.planning import Plan
from tuner.report.ranking import RULE, TAKE, Ranked, Result, lacking, ranked
from tuner.report.table import Column, Row, Style, table, wrapped
from tuner.report.text import LEAST_WIDTH, WIDTH, warning_lines
from tuner.safe_text import one_line
from tuner.units import seconds_text, size_text, tps_text

MAX_NAME = 60  # cells


def overview_text(
    results: Sequence[tuple[str, Result]], *, width: int = WIDTH, color: bool = False
) -> str:
    """The table over several files, best first, at most `width` columns wide: which of them fit,
    and how; then what holds for all."""
    style = Style(color)
    width = max(LEAST_WIDTH, width)
    others = (
        Column("size", 8),
        Column("layers", 7),
        Column("context", 7),
        Column("K / V", 5, right=False),
        Column("turn", 5),
        Column("tok/s", 5),
    )
    rows = sorted(ranked(results), key=lambda row: row.rank)
    name = Column("    model", MAX_NAME, right=False, gap=0)
    lines = table((name, *others), list(map(_row, rows)), width, style)
    lines += ["", *wrapped(RULE, width, "")]
    if any(row.take for row in rows):
        lines += wrapped(TAKE, width, "")
    engines = (p.machine.engine_version for _, p in results if isinstance(p, Plan))
    for warning in dict.fromkeys(map(other_engine_text, engines)):
        lines += ["", *warning_lines(warning, width, style)] if warning else []
    return "\n".join(lines) + "\n"


def _row(row: Ranked) -> Row:
    place = f"{row.rank:2} {'*' if row.take else ' '}"
    if isinstance(row.result, KvchatError):
        name = row.path.replace("\\", "/").rsplit("/", 1)[-1]
        said = str(row.result).removeprefix(f"{row.path} ")  # the name stands before it
        return Row((f"{place}{one_line(name)}",), one_line(said))
    model, c = row.result.model, row.result.chosen
    s, n_items = c.settings, model.n_items
    named = (f"{place}{one_line(model.path.name)}", size_text(model.size_bytes))
    if not c.fits:
        return Row(named, f"does not fit by {size_text(lacking(row.result))}")
    pair = s.type_k if s.type_k == s.type_v else f"{s.type_k}/{s.type_v}"
    layers = f"{min(s.n_gpu_layers, n_items)}/{n_items}"
    turn, decode = seconds_text(c.speed.turn_seconds), tps_text(c.speed.decode_tps)
    return Row((*named, layers, f"{s.n_ctx:,}", pair, turn, decode))
