"""The command and the chat. `start.main` is where `kvchat` begins: `command` reads the flags, `app`
is the Textual program, `screens` and `widgets` what it shows, `answering` one conversation,
`storage` all that are kept, `keymap` what a key does.
"""
