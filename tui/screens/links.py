"""The addresses of an answer: each is shown before it is opened."""

from __future__ import annotations

import time
from urllib.parse import urlsplit

from textual.app import App

from tuner.safe_text import one_line

SCHEMES = ("http", "https")
ASK_SECONDS = 15.0  # within which the second click must come


def may_open(address: str) -> bool:
    """Whether it leads to the web: anything else (a file, a program's own scheme) could do
    whatever that program does."""
    if address != one_line(address):
        return False
    try:
        parts = urlsplit(address)
    except ValueError:
        return False
    return parts.scheme in SCHEMES and bool(parts.netloc)


class Links:
    """What an answer calls a link may lead anywhere: the first click shows where, the second one
    opens it."""

    def __init__(self) -> None:
        self._shown = ""
        self._until = 0.0

    def clicked(self, app: App[object], address: str) -> None:
        """Shows or opens an address."""
        if not may_open(address):
            title, self._shown = "Only http and https are opened, not", ""
        elif address == self._shown and time.monotonic() < self._until:
            self._shown = ""
            app.open_url(address)
            return
        else:
            title, self._shown = "Another click opens", address
            self._until = time.monotonic() + ASK_SECONDS
        app.notify(one_line(address), title=title, timeout=ASK_SECONDS, markup=False)
