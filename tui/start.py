"""Where `kvchat` begins: an interrupt while the program is still being read ends it in silence."""

from __future__ import annotations

import sys

INTERRUPTED = 130  # ExitCode.INTERRUPTED, before anything is imported


def main() -> int:
    """Runs the command line; returns its exit status."""
    try:
        from tui.command.cli import main as run  # noqa: PLC0415

        return run()
    except KeyboardInterrupt:
        return INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
