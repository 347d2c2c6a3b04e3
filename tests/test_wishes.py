"""What the user asked for, from settings and back."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest

from tests.support.giants import LLAMA_8B, giant
from tuner.errors import UsageError
