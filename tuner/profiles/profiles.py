"""What is remembered: one readable JSON file per model and machine, and one per machine.

    CONFIG/profiles/tinyllama-1f2e3d4c5b6a.json     how a model was loaded, and what came of it
    CONFIG/machine-HOST.json                        what was learned about this machine

CONFIG is platformdirs' folder for kvchat, or KVCHAT_CONFIG_DIR. Files are written whole or not at
all. A file that cannot be read is set aside as *.bad, one of a newer kvchat is left alone; neither
that nor a folder that cannot be written raises: it adds a sentence to `Profiles.warnings`.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, TypeVar

from tuner.json_values import Bound, Speed, from_json, one_of, within
from tuner.memory.cache_losses import CacheLosses
from tuner.memory.cache_types import CACHE_TYPES
from tuner.memory.footprint import Buffer, DeviceUse
from tuner.private_files import kvchat_folder, private_folder, read_bounded, why
from tuner.profiles.beside import Growths, Overheads
from tuner.profiles.paces import Said
from tuner.profiles.shortfalls import Shortfall
from tuner.sampling import acceptable
from tuner.settings import MAX_CONTEXT, Settings
from tuner.wishes import THINK_LEVELS

SCHEMA = 1
_MAX_FILE = 1 << 20  # bytes; a profile has a few kilobytes
_REPLACE_ATTEMPTS = 5  # Windows refuses to replace a file that another program has open

T = TypeVar("T")


_TYPES_EXIST = Bound(
    lambda s: s.type_k in CACHE_TYPES and s.type_v in CACHE_TYPES, "settings with types that exist"
)
_SAMPLING = Bound(acceptable, "values of the sampling")
_GROWN = Annotated[int, within(-(1 << 62), 1 << 62)]  # bytes that a load took of a GPU
_DEPTH = Annotated[int, within(0, MAX_CONTEXT)]
_THREADS = Annotated[int, within(1, 4096)]
_BANDWIDTH = Annotated[float, within(1e8, 1e14)]  # bytes/s


@dataclass(frozen=True, slots=True)
class Profile:
    """How one model was loaded on one machine. Sizes in bytes, speeds in tokens/s."""

    fingerprint: str  # Model.fingerprint: recognises the file by content
    model_name: str
    model_path: str
    # What was chosen; None where the model was measured, and never loaded for a chat.
    settings: Annotated[Settings, _TYPES_EXIST] | None = None
    wishes: Mapping[str, Any] = field(default_factory=dict)  # what the user fixed: JSON values
    predicted: tuple[DeviceUse, ...] = ()
    predicted_decode_tps: float | None = None  # these two are for people who read the file
    predicted_prompt_tps: float | None = None
    buffers: tuple[Buffer, ...] = ()  # what the engine really allocated
    gpu_taken: Mapping[str, _GROWN] = field(default_factory=dict)  # by Device.id
    off_by: Mapping[str, float] = field(default_factory=dict)  # predicted / actual - 1, over 2 %
    decode_tps: Speed | None = None
    prompt_tps: Speed | None = None
    decode_depth: _DEPTH = 0  # tokens in the cache where these were measured
    prompt_depth: _DEPTH = 0
    engine_version: str = ""  # of llama-cpp-python, as it made the load
    saved_at: str = ""  # ISO 8601, UTC; `save` fills it in
    machine: str = ""  # `save` fills it in
    think: Annotated[str, one_of("", *THINK_LEVELS)] = ""  # the level that was last chosen
    # What flags said of the sampling, by the names of `Sampling`.
    sampling: Annotated[Mapping[str, Any], _SAMPLING] = field(default_factory=dict)
    # What the user chose in the fit explorer, to be loaded as it is while it fits.
    explored: Annotated[Settings, _TYPES_EXIST] | None = None
    explored_gpus: tuple[str, ...] | None = None  # on which GPUs; None: on all
    losses: CacheLosses | None = None  # what cache types cost, as it was measured


@dataclass(frozen=True, slots=True)
class MachineFacts:
    """What loads have taught about this machine."""

    # What loads took beside the engine's buffers, by `beside_key`: at once, and with a long prompt.
    overheads: Overheads = field(default_factory=dict)
    growths: Growths = field(default_factory=dict)
    engine_version: str = ""  # of the llama-cpp-python whose loads took these
    use_extra_bufts: bool = True  # False once that engine died of repacked CPU weights (AMX),
    extra_bufts_died_by: str = ""  # by this signal
    host_bandwidth: _BANDWIDTH | None = None  # bytes/s
    # What models said of each device's pace, by `device_key`, under a formula of this number.
    decode_paces: Mapping[str, tuple[Said, ...]] = field(default_factory=dict)
    prompt_paces: Mapping[str, tuple[Said, ...]] = field(default_factory=dict)
    speed_formula: int = 0
    # The number of threads that was the faster of two, by that of physical cores.
    faster_threads: Mapping[str, _THREADS] = field(default_factory=dict)
    # Memory that was said to be free and was not to be had, by `device_key`.
    shortfalls: Mapping[str, Shortfall] = field(default_factory=dict)
    saved_at: str = ""


def config_folder(environ: Mapping[str, str] = os.environ) -> Path:
    """Where kvchat keeps its settings."""
    return kvchat_folder("config", environ)


def machine_name() -> str:
    """Tells machines apart that share a home folder."""
    return _slug(platform.node()) or "this-machine"


@dataclass(frozen=True, slots=True)
class _File:
    """What every file states, whatever else it holds."""

    schema: int


class Profiles:
    """The files. `warnings` collects what the user should hear."""

    def __init__(self, folder: Path | None = None, machine: str | None = None):
        self.folder = config_folder() if folder is None else folder
        self.machine = machine_name() if machine is None else machine
        self.warnings: list[str] = []

    def load(self, fingerprint: str) -> Profile | None:
        """The profile of this model on this machine."""
        for path in self._of(fingerprint):
            profile = self._read(path, Profile)
            if profile and (profile.fingerprint, profile.machine) == (fingerprint, self.machine):
                return profile
        return None

    def save(self, profile: Profile) -> bool:
        """Writes a profile, replacing the one of the same model. False: it could not be kept."""
        profile = replace(profile, machine=self.machine, saved_at=profile.saved_at or _now())
        name = f"{_slug(profile.model_name) or 'model'}-{self._key(profile.fingerprint)}.json"
        path = next(iter(self._of(profile.fingerprint)), self.folder / "profiles" / name)
        return self._write(path, asdict(profile), "The profile of this model")

    def list(self) -> tuple[Profile, ...]:
        """All profiles, those of other machines included, by model name."""
        found = [self._read(path, Profile) for path in self._files()]
        ordered = sorted((p for p in found if p), key=lambda p: (p.model_name.lower(), p.machine))
        return tuple(ordered)

    def forget(self, model: str | Path) -> int:
        """Removes the profiles of a model, named by fingerprint, path or name; how many."""
        removed = 0
        for path in self._files():
            profile = self._read(path, Profile)
            if profile is None or not _is_about(profile, str(model)):
                continue
            try:
                path.unlink()
                removed += 1
            except FileNotFoundError:
                pass
            except OSError as error:
                self._warn(f"{path} could not be removed ({why(error)}).")
        return removed

    def machine_facts(self) -> MachineFacts:
        """What is known about this machine; nothing is known of a new one."""
        return self._read(self._machine_path, MachineFacts) or MachineFacts()

    def forget_machine(self) -> bool:
        """Forgets what was learned about this machine. False: nothing was, or it cannot be."""
        try:
            self._machine_path.unlink()
        except FileNotFoundError:
            return False
        except OSError as error:
            self._warn(f"{self._machine_path} could not be removed ({why(error)}).")
            return False
        return True

    def learn(self, change: Callable[[MachineFacts], MachineFacts]) -> bool:
        """Reads the machine's facts, changes them and writes them back. False: not kept.
        Of two programs learning at the same moment, the last one's facts stay."""
        facts = replace(change(self.machine_facts()), saved_at=_now())
        return self._write(self._machine_path, asdict(facts), "What was learned of this machine")

    # ------------------------------------------------ files

    @property
    def _machine_path(self) -> Path:
        return self.folder / f"machine-{self.machine}.json"

    def _key(self, fingerprint: str) -> str:
        return hashlib.sha256(f"{fingerprint}\0{self.machine}".encode()).hexdigest()[:12]

    def _of(self, fingerprint: str) -> tuple[Path, ...]:
        end = f"-{self._key(fingerprint)}.json"
        return tuple(path for path in self._files() if path.name.endswith(end))

    def _files(self) -> tuple[Path, ...]:
        try:
            return tuple(sorted((self.folder / "profiles").glob("*.json")))
        except OSError as error:
            self._warn(f"{self.folder} cannot be read ({why(error)}).")
            return ()

    def _read(self, path: Path, kind: type[T]) -> T | None:
        try:
            raw = read_bounded(path, _MAX_FILE)
        except FileNotFoundError:
            return None
        except OSError as error:
            self._warn(f"{path} cannot be read ({why(error)}).")
            return None
        try:
            if len(raw) > _MAX_FILE:
                raise ValueError("too long")
            body = json.loads(raw.decode("utf-8"))
            if from_json(_File, body).schema > SCHEMA:
                self._warn(f"{path} was written by a newer kvchat and is not used.")
                return None
            return from_json(kind, body)
        except (ValueError, RecursionError):
            self._set_aside(path)
            return None

    def _set_aside(self, path: Path) -> None:
        bad = path.with_name(path.name + ".bad")
        try:
            os.replace(path, bad)
            self._warn(f"{path} is damaged; it was renamed to {bad.name} and is not used.")
        except OSError:
            self._warn(f"{path} is damaged and is not used; remove it.")

    def _write(self, path: Path, body: dict[str, Any], what: str) -> bool:
        try:
            text = json.dumps({"schema": SCHEMA, **body}, indent=2, ensure_ascii=False)
            write_atomically(path, text + "\n")
        except (OSError, ValueError, TypeError) as error:
            reason = getattr(error, "strerror", None) or error
            self._warn(f"{what} could not be saved in {path.parent} ({reason}).")
            return False
        return True

    def _warn(self, sentence: str) -> None:
        if sentence not in self.warnings:
            self.warnings.append(sentence)


def write_atomically(path: Path, text: str) -> None:
    """Writes a file so that a reader, or a crash at any moment, meets the old one or the new
    one, whole. Raises OSError."""
    private_folder(path.parent)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    temporary = Path(name)
    try:
        # A name that is no UTF-8 holds halves of surrogate pairs: these become JSON's escapes.
        with os.fdopen(
            descriptor, "w", encoding="utf-8", errors="backslashreplace", newline="\n"
        ) as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        for attempt in range(_REPLACE_ATTEMPTS):
            try:
                os.replace(temporary, path)
                break
            except PermissionError:
                if attempt == _REPLACE_ATTEMPTS - 1:
                    raise
                time.sleep(0.02)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise
    with suppress(OSError):  # the new name survives a power cut; not every system can do this
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _is_about(profile: Profile, model: str) -> bool:
    if model in (profile.fingerprint, profile.model_name, profile.model_path):
        return True
    with suppress(OSError, ValueError):
        return Path(model).resolve() == Path(profile.model_path).resolve()
    return False


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9._-]+", "-", text.lower()).strip("-.")[:48]
