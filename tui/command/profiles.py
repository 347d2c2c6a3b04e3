"""`kvchat --profiles`, `kvchat --forget MODEL` and `kvchat --forget-machine`."""

from __future__ import annotations

import sys

from tuner.errors import ExitCode, UsageError
from tuner.profiles.profiles import Profile, Profiles
from tuner.safe_text import one_line
from tuner.units import tps_text


def list_profiles() -> int:
    """A line per saved profile on stdout."""
    profiles = Profiles()
    found = profiles.list()
    for profile in found:
        print(_line(profile))
    if not found and not profiles.warnings:
        print(f"No profiles are saved in {profiles.folder}.", file=sys.stderr)
    _warn(profiles)
    return ExitCode.OK


def forget_profile(model: str) -> int:
    """Removes the profiles of a model, named as it is listed or by its file. Raises UsageError."""
    profiles = Profiles()
    removed = profiles.forget(model)
    _warn(profiles)
    if not removed:
        raise UsageError(f"no profile of '{model}' is saved; kvchat --profiles lists them.")
    print(f"Forgot {removed} profile{'s' if removed > 1 else ''} of {model}.", file=sys.stderr)
    return ExitCode.OK


def forget_machine() -> int:
    """Forgets what loads have taught of this machine: the driver's share, and what it died of."""
    profiles = Profiles()
    forgotten = profiles.forget_machine()
    _warn(profiles)
    said = "Forgot what loads taught of" if forgotten else "Nothing is known of"
    print(f"{said} this machine.", file=sys.stderr)
    return ExitCode.ENGINE if profiles.warnings else ExitCode.OK


def _line(p: Profile) -> str:
    s = p.settings
    speed = f"{tps_text(p.decode_tps)} tokens/s" if p.decode_tps else "speed not measured"
    return (
        f"{one_line(p.model_name)}\n"
        f"    {s.n_ctx:,} tokens, K {s.type_k}, V {s.type_v}, {s.n_gpu_layers} GPU layers, "
        f"{speed}, {p.saved_at[:10]}\n"
        f"    {one_line(p.model_path)}"
    )


def _warn(profiles: Profiles) -> None:
    for warning in profiles.warnings:
        print(f"kvchat: {one_line(warning)}", file=sys.stderr)
