"""What is said beside the conversation: as a colour of a text's own style."""

from __future__ import annotations

from textual.color import BLACK, WHITE
from textual.theme import Theme

_SHARES = {"muted": 0.60, "faint": 0.38}  # as $text-muted and $text-disabled have them


def tones(theme: Theme) -> dict[str, str]:
    """`$muted` and `$faint`, for the styles of `Content`. There `$text-muted`, which is "auto 60%",
    loses its share (textual/markup.py, `parse_style`), and what is to be dim comes out brighter
    than the text."""
    if theme.ansi:  # no grey is to be had from its sixteen colours
        return dict.fromkeys(_SHARES, "ansi_default dim")
    ink = WHITE if theme.dark else BLACK
    return {name: ink.with_alpha(share).hex for name, share in _SHARES.items()}
