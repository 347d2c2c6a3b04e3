"""What drawing an answer needs, imported before the first one comes."""

from __future__ import annotations

# What models write most.
_USUAL = ("python", "bash", "json", "javascript", "typescript", "rust", "c", "cpp", "java", "go",
          "html", "sql", "yaml", "text")  # fmt: skip


def warm_up() -> None:
    """The parser, and the lexers that are needed soon: some 30 ms each, which no key should wait
    for. For a thread."""
    from tui.widgets.reading.code import coloured  # noqa: PLC0415
    from tui.widgets.reading.markdown import parse  # noqa: PLC0415

    parse("x")
    for language in _USUAL:
        coloured("x\n", language)
