"""The styles of the transcript, by name."""

from __future__ import annotations

from rich.style import Style
from textual.widget import Widget

# Each is a component class, `transcript--NAME`, in styles/messages.tcss.
NAMES = (
    "page", "user", "user-mark", "thought", "footer", "notice", "warning", "error", "faded",
    "em", "strong", "strike", "link", "inline-code", "maths", "mark", "quote", "quote-mark",
    "h1", "h2", "h3", "h4", "h5", "h6", "rule", "label", "language", "head", "code",
    "comment", "keyword", "string", "number", "function", "class", "builtin", "deleted", "inserted",
    "selected", "found", "differs", "cursor", "more",
)  # fmt: skip
_PREFIX = "transcript--"
CLASSES = {_PREFIX + name for name in NAMES}


class WidgetLook:
    """What the style sheets and the theme say, remembered until they say something else."""

    def __init__(self, widget: Widget) -> None:
        self._widget = widget
        self._styles: dict[tuple[str, ...], Style] = {}
        self._sample: tuple[Style, ...] = ()

    def __call__(self, *names: str) -> Style:
        style = self._styles.get(names)
        if style is None:
            classes = (_PREFIX + name for name in ("page", *names))
            style = self._styles[names] = self._widget.get_visual_style(*classes).rich_style
        return style

    def changed(self) -> bool:
        """Whether styles are others than at the last call: what was drawn is to be drawn again. A
        mouse that comes or goes is told like a new theme."""
        self._styles.clear()
        before, self._sample = self._sample, tuple(self(name) for name in NAMES)
        return before != self._sample
