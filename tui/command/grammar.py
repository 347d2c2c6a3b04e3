"""`--grammar FILE` and `--json-schema FILE`: what they hold, as a grammar."""

from __future__ import annotations

import json
from pathlib import Path

from tuner.errors import UsageError
from tuner.private_files import read_bounded, why
from tuner.safe_text import one_line
from tuner.sampling import MAX_GRAMMAR


def grammar(grammar_file: str | None, schema_file: str | None) -> str:
    """The grammar of an answer; "" for none. Raises UsageError for a file that cannot be used."""
    if grammar_file is not None and schema_file is not None:
        raise UsageError("--grammar and --json-schema both say what an answer may be; use one.")
    if grammar_file is not None:
        return _text("--grammar", grammar_file)
    if schema_file is not None:
        return _schema(schema_file)
    return ""


def _schema(file: str) -> str:
    from tuner.grammars.json_schema import SchemaError, grammar_of  # noqa: PLC0415 - seldom

    named = f"--json-schema {one_line(file)}"
    text = _text("--json-schema", file)
    try:
        found = grammar_of(json.loads(text))
    except SchemaError as error:
        raise UsageError(f"{named}: {error}.") from error
    except RecursionError:
        raise UsageError(f"{named}: it is deeper than a grammar can be.") from None
    except ValueError as error:
        raise UsageError(f"{named} is no JSON ({one_line(str(error))}).") from error
    if len(found) > MAX_GRAMMAR:
        raise UsageError(f"{named}: its grammar would be longer than {MAX_GRAMMAR:,} characters.")
    return found


def _text(flag: str, file: str) -> str:
    named = f"{flag} {one_line(file)}"
    try:
        raw = read_bounded(Path(file), MAX_GRAMMAR)
    except (OSError, ValueError) as error:
        reason = why(error) if isinstance(error, OSError) else str(error)
        raise UsageError(f"{named} cannot be read ({one_line(reason)}).") from error
    if len(raw) > MAX_GRAMMAR:
        raise UsageError(f"{named} is longer than the {MAX_GRAMMAR:,} bytes that there may be.")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise UsageError(f"{named} is no text in UTF-8.") from None
    if not text.strip() or "\0" in text:
        raise UsageError(f"{named} {'is empty' if not text.strip() else 'is no text'}.")
    return text
