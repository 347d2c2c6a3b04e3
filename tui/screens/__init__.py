"""The screens, each with its keys from the table in keymap.py.

What a screen does in threads is beside it: `loads`, `measuring` and `making_room` for the chat,
`exploring` for the fit explorer.
"""

from tui.screens.branches import BranchesScreen
from tui.screens.chat import ChatScreen
from tui.screens.compare import CompareScreen
from tui.screens.context import ContextScreen
from tui.screens.conversations import ConversationsScreen
from tui.screens.explorer import Choice, ExplorerScreen
from tui.screens.history import HistoryScreen
from tui.screens.keys import KeysScreen
from tui.screens.report import ReportScreen

__all__ = [
    "BranchesScreen",
    "ChatScreen",
    "Choice",
    "CompareScreen",
    "ContextScreen",
    "ConversationsScreen",
    "ExplorerScreen",
    "HistoryScreen",
    "KeysScreen",
    "ReportScreen",
]
