"""The command line: flags, what they ask for, what happens.

`cli.main` runs one command line and gives its exit status; `options.parser` has the flags. Nothing
is imported here: `--help` and `--explain` must not wait for what only the chat needs.
"""
