"""What the user asked for, from settings and back."""

from __future__ import annotations
