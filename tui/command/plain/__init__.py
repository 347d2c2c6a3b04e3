"""The chat in lines: for terminals that cannot be drawn on, and for whoever listens to them.

`chat_in_lines` opens it, `Session` is the conversation, `Keyboard` the lines that are typed.
Nothing here draws, moves a cursor or imports Textual.
"""

from tui.command.plain.opening import chat_in_lines

__all__ = ["chat_in_lines"]
