"""The screens, each with its keys from the table in keymap.py.

`chat` is the one that is there from the beginning; `opening` opens those over it. What a screen
does in threads is beside it: `loads`, `measuring` and `making_room` for the chat, `exploring` for
the fit explorer.

Nothing is imported here: a screen is, when it opens.
"""
