"""What a conversation's cache holds, moved: to a file and back, to a context of another shape."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import cast

from tuner.engine import state_file
from tuner.engine.blocks import Block, Room, in_ram_or
from tuner.engine.kept import ALL, Branch, Checkpoint, State
from tuner.engine.llama import DECODE_OK, Context, LlamaError, libraries
from tuner.engine.prefix_cache import PrefixCache
from tuner.engine.protocol import RestoreState, SaveState, StateRestored, StateSaved
from tuner.engine.sequence_state import (
    Pair,
    Rotation,
    StateError,
    convert,
    converted_size,
    has_caches,
    seen_rotations,
)
from tuner.engine.state_file import Layout, Source, StateFile, StateFileError
from tuner.engine_version import installed_engine_version
from tuner.settings import CONTEXT_PADDING, Settings

_LOOKED_AT = 32  # tokens, that are read twice to see how a model's cache is rotated

NO_ROOM = "this machine has not enough free memory for a copy"


def pair_of(settings: Settings) -> Pair:
    """The types of its cache."""
    return Pair.named(settings.type_k, settings.type_v)


class Mover:
    """Of one loaded model."""

    def __init__(
        self,
        fingerprint: str,
        open_context: Callable[[Settings], Context],
        n_threads: int,
        tell: Callable[[float], None] = lambda _: None,
    ):
        """`open_context` raises LlamaError. `tell` hears how far a conversion is, and may raise to
        end it."""
        self._fingerprint, self._open, self._n_threads = fingerprint, open_context, n_threads
        self._tell = tell
        self._rotations: tuple[Rotation, ...] | str = ()  # or why they cannot be known

    def layout(self, settings: Settings) -> Layout:
        """What a state of a context with these settings is like."""
        engine, flash = installed_engine_version() or "", settings.flash_attn == "on"
        s = settings
        return Layout(self._fingerprint, engine, s.type_k, s.type_v, flash, s.swa_full)

    def _between(self) -> None:
        self._tell(0.0)

    # ------------------------------------------------------------ files

    def save(
        self, request: SaveState, context: Context, cache: PrefixCache, settings: Settings
    ) -> StateSaved:
        """Writes what the cache holds."""
        began = time.monotonic()
        if not cache.tokens:
            return StateSaved(0, 0, 0.0, "the cache is empty")
        whole = Source(
            len(cache.tokens),
            context.state_bytes(partial=False),
            partial(context.write_state, partial=False),
        )
        points = [
            Source(point.n_tokens, point.state.n_bytes, cast(Block, point.state).copy_to)
            for point in cache.checkpoints_kept
        ]
        try:
            n_bytes = state_file.write(
                Path(request.path),
                self.layout(settings),
                cache.tokens,
                cache.n_exact,
                [whole, *points],
                request.most_bytes,
                is_memory=request.is_memory,
                between=self._between,
            )
        except StateFileError as error:
            return StateSaved(0, 0, time.monotonic() - began, str(error))
        return StateSaved(len(cache.tokens), n_bytes, time.monotonic() - began)

    def restore(
        self, request: RestoreState, context: Context, cache: PrefixCache, settings: Settings
    ) -> StateRestored:
        """Fills the cache with what a file holds, in place of what it has. It stays as it is where
        the file does not fit."""
        began, why = time.monotonic(), ""
        try:
            if not cache.put(self._from_file(Path(request.path), context.n_ctx, settings)):
                why = "the engine did not take it"
        except FileNotFoundError:
            why = "there is none"
        except (StateFileError, StateError) as error:
            why = str(error)
        return StateRestored(0 if why else len(cache.tokens), time.monotonic() - began, why)

    def _from_file(self, path: Path, n_ctx: int, settings: Settings) -> Branch:
        """What a file holds, for a cache with these settings. Raises StateFileError, StateError or
        FileNotFoundError."""
        file = StateFile(path)
        before, now = file.described.layout, self.layout(settings)
        if misfit := before.fits(now):
            raise StateFileError(misfit)
        if len(file.tokens) >= n_ctx:
            raise StateFileError("it has more tokens than the context holds")
        (_, whole), *points = file.states(self._between)
        kept = [(n, point.copy()) for n, point in points]  # the file may be deleted
        branch = Branch(
            tuple(file.tokens),
            whole,
            tuple(Checkpoint(n, state) for n, state in kept if state is not None),
            ALL if file.described.n_exact == len(file.tokens) else file.described.n_exact,
        )
        was, is_ = (Pair.named(each.type_k, each.type_v) for each in (before, now))
        return self.moved(branch, was, is_, in_ram_or(str(path.parent)))

    # ------------------------------------------------------------ other types

    def fitted(self, branch: Branch, before: Settings, after: Settings) -> Branch:
        """The same for a cache with other settings. Raises StateError."""
        if misfit := self.layout(before).fits(self.layout(after)):
            raise StateError(misfit)
        return self.moved(branch, pair_of(before), pair_of(after))

    def moved(self, branch: Branch, before: Pair, after: Pair, room: Room = Block.in_ram) -> Branch:
        """The same for a cache of other types. Raises StateError."""
        with cast(Block, branch.state).view() as state:
            # A recurrent state is the same with any types; what is not known, the engine refuses.
            if before == after or not has_caches(state, before):
                return branch
        rotations = self._seen(branch.tokens, room)
        one = partial(self._converted, before=before, after=after, rotations=rotations, room=room)
        points = tuple(replace(point, state=one(point.state)) for point in branch.checkpoints)
        return Branch(branch.tokens, one(branch.state), points, n_exact=0)

    def _converted(
        self, state: State, before: Pair, after: Pair, rotations: Sequence[Rotation], room: Room
    ) -> State:
        state = cast(Block, state)  # nothing else comes from a context
        with state.view() as source:
            n_caches = has_caches(source, before)
            if not n_caches:  # that of a hybrid
                return state
            out = room(converted_size(source, before, after))
            if out is None:
                raise StateError(NO_ROOM)
            with out.view() as target:
                # A part of a state has its last caches.
                some = rotations[-n_caches:]
                convert(source, before, after, some, libraries, target, self._n_threads, self._tell)
        return out

    def _seen(self, tokens: Sequence[int], room: Room) -> tuple[Rotation, ...]:
        """How this model's caches are rotated; looked at once. Raises StateError."""
        if not self._rotations:
            try:
                self._rotations = self._looked_at(tokens[:_LOOKED_AT], room)
            except LlamaError as error:  # for want of memory, say: the next time there may be some
                raise StateError(str(error)) from error
        if isinstance(self._rotations, str):
            raise StateError(self._rotations)
        return self._rotations

    def _looked_at(self, tokens: Sequence[int], room: Room) -> tuple[Rotation, ...] | str:
        """That, or why it will never be known. Raises StateError or LlamaError where only this
        time it could not be seen."""
        with ExitStack() as stack:
            states = []
            for name in ("f16", "q8_0"):
                settings = Settings(CONTEXT_PADDING, name, name, n_ubatch=_LOOKED_AT)
                context = stack.enter_context(closing(self._open(settings)))
                if context.decode(tokens) != DECODE_OK:
                    self._tell(0.0)  # it was stopped
                    raise StateError("the engine could not show how its cache is written")
                context.synchronize()
                state = context.state(partial=False, room=room)
                if state is None:
                    raise StateError(NO_ROOM)
                states.append(stack.enter_context(state.view()))
            try:
                return seen_rotations(states[0], states[1], libraries)
            except StateError as error:
                return str(error)
