"""When a model whose process died is loaded again without being asked for."""

from __future__ import annotations


class Deaths:
    """Those since an answer was whole. After the first the model comes back by itself; what kills
    it twice in a row would do so again."""

    def __init__(self) -> None:
        self._n = 0

    def died(self) -> bool:
        """One more; whether the model is to be loaded again at once."""
        self._n += 1
        return self._n == 1

    def answered(self) -> None:
        """The model lives, and has done what it was asked."""
        self._n = 0
