"""`kvchat --profiles`, `kvchat --forget MODEL` and `kvchat --forget-machine`."""

from __future__ import annotations

from pathlib import Path

from tui.command.output import tell, write
from tuner.errors import ExitCode, UsageError
from tuner.gguf.header import models_of
from tuner.profiles.profiles import Profile, Profiles
from tuner.safe_text import one_line, printable
from tuner.sampling import remembered, values_text
from tuner.units import tps_text

LONGEST = 200  # characters of a name


def list_profiles() -> int:
    """A line per saved profile on stdout."""
    profiles = Profiles()
    found = profiles.list()
    for profile in found:
        write(printable(_line(profile)) + "\n")
    if not found and not profiles.warnings:
        tell(f"No profiles are saved in {profiles.folder}.")
    _warn(profiles)
    return ExitCode.OK


def forget_profile(model: str) -> int:
    """Removes the profiles of a model, named as it is listed or by its file. Raises UsageError."""
    profiles = Profiles()
    removed = profiles.forget(model) or profiles.forget(models_of([Path(model)])[0])
    _warn(profiles)
    if not removed:
        raise UsageError(f"no profile of '{model}' is saved; kvchat --profiles lists them.")
    tell(f"Forgot {removed} profile{'s' if removed > 1 else ''} of {model}.")
    return ExitCode.OK


def forget_machine() -> int:
    """Forgets what loads have taught of this machine: the driver's share, and what it died of."""
    profiles = Profiles()
    forgotten = profiles.forget_machine()
    _warn(profiles)
    said = "Forgot what loads taught of" if forgotten else "Nothing is known of"
    tell(f"{said} this machine.")
    return ExitCode.ENGINE if profiles.warnings else ExitCode.OK


def _line(p: Profile) -> str:
    lines = [
        one_line(p.model_name)[:LONGEST],
        f"    {_settings(p)}",
        f"    {one_line(p.model_path)}",
    ]
    if p.sampling:
        lines.insert(2, f"    {one_line(values_text(remembered(p.sampling)))}")
    return "\n".join(lines)


def _settings(p: Profile) -> str:
    s, day = p.settings, one_line(p.saved_at)[:10]
    if s is None:
        return f"its cache types were measured, {day}"
    speed = f"{tps_text(p.decode_tps)} tokens/s" if p.decode_tps else "speed not measured"
    return (
        f"{s.n_ctx:,} tokens, K {s.type_k}, V {s.type_v}, {s.n_gpu_layers} GPU layers, {speed}, "
        f"{day}"
    )


def _warn(profiles: Profiles) -> None:
    for warning in profiles.warnings:
        tell(warning)
