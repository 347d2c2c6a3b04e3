"""The command line: flags, what they ask for, what happens."""
