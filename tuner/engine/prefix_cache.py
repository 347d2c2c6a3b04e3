"""Which tokens the engine's cache holds, and how much of it a new prompt can keep.

A thought is not in the next prompt, so that the cache must go back behind it. A recurrent state
cannot, and a sliding window only as far as it reaches: for these checkpoints are kept, as
llama-server keeps some (`n_ctx_checkpoints`, common/common.h), where later prompts will go back to.
And where a conversation goes another way, what the cache held is set aside, in case it comes back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

from tuner.engine.beside import LEAST, Aside, AsideMemory, Found, Run, Stays, staying
from tuner.engine.kept import ALL, Branch, Checkpoint, Kept, State, nearest, shared
from tuner.settings import Settings
from tuner.units import MIB

# Tokens: more than a prompt's last ones, which open an answer and are written otherwise once that
# is an earlier one.
_OPENING = 16

# Of its tokens, that must be lost for a state to be copied: reading takes far longer than copying.
# Few tokens are not worth the RAM.
_WORTH_COPYING = 1 / 16
_END = 24  # tokens by which an answer is known again


class CacheMemory(AsideMemory, Protocol):
    """What is asked of the engine's memory (llama_memory_*, llama_state_seq_*); positions of one
    sequence. `partial`: of what cannot be cut."""

    @property
    def first_position(self) -> int: ...

    @property
    def end_position(self) -> int: ...  # the one that comes next

    def clear(self) -> None: ...

    def state_bytes(self, *, partial: bool) -> int: ...

    def state(self, *, partial: bool) -> State | None: ...  # None: there is no room for it

    def restore(self, state: Any, *, partial: bool) -> bool: ...  # False: now it holds anything


class PrefixCache:
    """`tokens` always names exactly what the engine's cache was given and can go on from."""

    def __init__(
        self,
        memory: CacheMemory,
        window: int,
        keeps_a_state: bool,
        most_bytes: int = 256 * MIB,
        settings: Settings | None = None,
        fitted: Callable[[Branch], Branch | None] = lambda branch: branch,
    ):
        """`window`: tokens of the model's sliding window, 0 for none. `keeps_a_state`: a
        recurrent or hybrid model, whose state only goes forward. `most_bytes`: of RAM, for all
        that is kept. `settings`: of the context. `fitted`: a branch of a context with others as
        this one can have it; None: it cannot. It may take seconds, and raise to end that."""
        self._memory = memory
        self._window = window
        self._keeps_a_state = keeps_a_state
        self._kept = Kept(most_bytes)
        self._parted = 0  # where the last prompt left what there was
        self._n_exact = ALL  # tokens up to which it holds what reading them anew would give
        self._settings, self._fitted = settings, fitted
        self._aside = Aside(memory)
        self.tokens: list[int] = []
        self.why = ""  # some of the last prompt is read again that was read before
        self._why_gone = ""  # what was to come back

    @property
    def kept_bytes(self) -> int:
        """Of RAM, beside the engine's cache."""
        return self._kept.n_bytes

    @property
    def n_exact(self) -> int:
        """Tokens up to which it holds what reading them anew would give."""
        return min(self._n_exact, len(self.tokens))

    @property
    def needs_checkpoints(self) -> bool:
        """Else the cache can be cut anywhere."""
        return self._window > 0 or self._keeps_a_state

    @property
    def checkpoints_kept(self) -> tuple[Checkpoint, ...]:
        """Of what the cache holds, in order."""
        return (*self._kept.checkpoints,)

    def reuse(
        self,
        prompt: Sequence[int],
        *,
        stays: Stays | None = None,
        exact: bool = False,
        room_aside: int | None = None,
    ) -> int:
        """Cuts the cache back to what it has in common with the prompt, or brings back what it
        held before where that has more, and returns that many tokens. At least the prompt's last
        token stays to be computed, for its logits. What else was read of it is joined once it is
        read up to `joins_at`.

        `stays`: turns were let go, and these may move, though they were computed with those before
        them. `exact`: only what reading it anew would give counts, neither what was moved nor what
        was converted. `room_aside`: what the cache holds behind the prompt comes back soon, and so
        many cells may go on holding it; None: it does not."""
        self.why = ""
        self._reconcile()
        keep = self._same(prompt, exact)
        found = self._found(prompt, keep, stays, exact)
        if self._bring_back(prompt, keep + (found.run.n if found else 0), stays, exact):
            self.why = ""
            keep = self._same(prompt, exact)
            found = self._found(prompt, keep, stays, exact)
        self._parted = keep
        if found is not None:
            return self._arrange(keep, found)
        if stays is not None and not exact:
            self.why = self.why or self._why_gone
        self._why_gone = ""
        room = 0 if self.needs_checkpoints or not self._memory.moves else room_aside
        if room and self._aside.lay_rest(self.tokens, keep, self._n_exact, room):
            self._cut_to(keep)
            return keep
        self._aside.drop()
        if keep == len(self.tokens):
            return keep
        if not self._goes_on(prompt, keep):
            kept = self._set_aside(keep)
            if room_aside is not None and not kept and len(self.tokens) - keep >= LEAST:
                self._why_gone = "there was no room for what stays while a summary was written"
        if keep and self._window_reaches(keep) and self._memory.cut(keep):
            self._cut_to(keep)
            return keep
        reached = self._go_back(keep)
        if keep - reached > _OPENING and not self.why:
            what = "a recurrent state" if self._keeps_a_state else "a sliding window"
            self.why = (
                f"{what} cannot go back by itself, and there was no checkpoint in the last "
                f"{keep - reached:,} tokens"
            )
        return reached

    @property
    def joins_at(self) -> int | None:
        """After how many of the prompt's tokens `join` is to be called."""
        return self._aside.joins_at

    @property
    def n_joining(self) -> int:
        """Tokens that it will bring."""
        return self._aside.n_joining

    def join(self) -> int:
        """What lies beside what the cache holds goes on from that. Returns how many tokens there
        are then."""
        tokens, n_exact = self._aside.join()
        self.tokens += tokens
        self._n_exact = min(self._n_exact, n_exact)
        return len(self.tokens)

    def checkpoints(self, prompt: Sequence[int], starts: Iterable[int] = ()) -> list[int]:
        """After how many of a prompt's tokens `keep_checkpoint` is to be called, once it is known
        what is reused of it, in order. `starts`: where later prompts may part from this one."""
        if not self.needs_checkpoints:
            return []
        read = len(self.tokens)
        last = max(0, len(prompt) - _OPENING)
        wanted = {self._parted, last, *(at for at in starts if at <= last)}
        kept = {point.n_tokens for point in self._kept.checkpoints}
        found = sorted(at for at in wanted - kept if 0 < at < len(prompt) and at >= read)
        # Of a prompt of which little is new, the end is read already.
        return found or ([read] if read and not kept else [])

    def keep_checkpoint(self) -> None:
        """Keeps what the engine's memory holds now."""
        size = self._memory.state_bytes(partial=True)
        if size and self._kept.room_for_checkpoint(size):
            state = self._memory.state(partial=True)
            if state is not None:
                self._kept.add(Checkpoint(len(self.tokens), state))

    def repair(self) -> None:
        """Brings the engine's memory back to `tokens` after a decode that was aborted or failed
        midway, and these to a checkpoint where it cannot go back otherwise: a recurrent state
        has gone on."""
        keep = len(self.tokens)
        if self._keeps_a_state or keep == 0 or not self._memory.cut(keep):
            self._go_back(keep)

    def forget(self) -> None:
        """What the cache holds; what was set aside stays."""
        self._memory.clear()
        self._aside.forget()
        self._kept.checkpoints.clear()
        self.tokens.clear()
        self._n_exact = ALL

    # ------------------------------------------------------------ all of it

    def branch(self, state: State) -> Branch:
        """What the cache holds, whose whole state this is."""
        points = (*self._kept.checkpoints,)
        return Branch((*self.tokens,), state, points, self._n_exact, self._settings)

    def put(self, branch: Branch) -> bool:
        """Fills the cache with this in place of what it holds. False where that fails: it is
        empty then."""
        self.forget()
        if not self._memory.restore(branch.state, partial=False):
            self._memory.clear()
            return False
        self.tokens[:], self._n_exact = branch.tokens, branch.n_exact
        for point in branch.checkpoints:
            if self._kept.room_for_checkpoint(point.state.n_bytes):
                self._kept.add(point)
        return True

    @property
    def branches(self) -> tuple[Branch, ...]:
        """What was set aside, the one that was used last at the end."""
        return (*self._kept.branches,)

    def take_over(self, branches: Iterable[Branch]) -> None:
        """What another cache on the same weights had set aside; the oldest go where there is no
        room."""
        self._kept.take_over(branches)

    # ------------------------------------------------------------ inside

    def _found(
        self, prompt: Sequence[int], keep: int, stays: Stays | None, exact: bool
    ) -> Found | None:
        """What else of a prompt is there, of which the cache has `keep` tokens."""
        found = self._aside.found(self.tokens, prompt, keep, stays, exact)
        return found if found and (found.as_it_was or self._moves(found.run, keep)) else None

    def _moves(self, run: Run, keep: int) -> bool:
        """Whether a run can, to where it stands in a prompt of which `keep` tokens are there; else
        that is said. What of a window lies aside is written over while others are read."""
        there = run.at == keep or not self._window
        if not self._keeps_a_state and self._memory.moves and there:
            return True
        what = "a recurrent state" if self._keeps_a_state else "the cache of this model"
        self.why = f"{what} cannot be moved to where the turns are that stay"
        return False

    def _bring_back(
        self, prompt: Sequence[int], there: int, stays: Stays | None, exact: bool
    ) -> bool:
        """Changes to a branch that was set aside where clearly less of this prompt is to be read
        with it than now, when so many of its tokens are there."""
        same = self._same(prompt, exact)
        reach = there
        if there == same and (self._keeps_a_state or not self._window_reaches(same)):
            reach = self._reach(same, len(self.tokens), self._kept.checkpoints)
        best, gain, moves = None, 0, False
        for branch in self._kept.branches:
            theirs = shared(branch.tokens, prompt)
            if exact:
                theirs = min(theirs, branch.n_exact if branch.is_as(self._settings) else 0)
            more = self._reach(theirs, len(branch.tokens), branch.checkpoints) - reach
            run = None
            if stays is not None and not exact:
                run = staying(branch.tokens[theirs:], prompt, theirs, stays)
                run = run if run and self._moves(run, theirs) else None
            more += run.n if run else 0
            if more > max(gain, _worthwhile(len(branch.tokens)) - 1):
                best, gain, moves = branch, more, run is not None
        if best is None:
            return False
        fitting = best if best.is_as(self._settings) else self._fitted(best)
        if fitting is None or not moves:  # else it is still what the conversation was
            self._kept.branches.remove(best)
        if fitting is None:
            self.why = "what was set aside of it is another cache's, and could not be converted"
            return False
        if not moves and not self._goes_on(prompt, same):
            self._set_aside(same)
        self.put(fitting)
        return True

    def _reconcile(self) -> None:
        """What ended midway, of whatever, may have left more or less there than was written down:
        all that is computed then would be wrong without a word."""
        end = self._memory.end_position
        if end > len(self.tokens):
            self.repair()
        elif end < len(self.tokens):
            self.forget()

    def _same(self, prompt: Sequence[int], exact: bool) -> int:
        """Of the prompt but for its last token, in the cache."""
        same = min(shared(self.tokens, prompt), len(prompt) - 1)
        return min(same, self._n_exact) if exact else same

    def _reach(self, same: int, n_tokens: int, points: Sequence[Checkpoint]) -> int:
        """How many of the tokens that are the same can be kept of a state of so many."""
        if not self.needs_checkpoints or same == n_tokens:
            return same
        found = nearest(points, same)
        return found.n_tokens if found else 0

    def _set_aside(self, keep: int) -> bool:
        """Keeps what the cache holds where much of it is going to be lost; whether it did."""
        if len(self.tokens) - keep < _worthwhile(len(self.tokens)):
            return False
        size = self._memory.state_bytes(partial=False)
        if size and self._kept.room_for_branch(size):
            state = self._memory.state(partial=False)
            if state is not None:
                self._kept.branches.append(self.branch(state))
                return True
        return False

    def _arrange(self, keep: int, found: Found) -> int:
        """Has what was found of a prompt lie where it has it; returns how many tokens the cache
        has in common with that by then."""
        if not self._aside.arrange(self.tokens, found, keep, self._n_exact):
            self.forget()
            return 0
        self._cut_to(keep)
        return self.join() if self.joins_at == keep else keep

    def _goes_on(self, prompt: Sequence[int], keep: int) -> bool:
        """Whether the prompt has, further on, the end of what is going to be lost: it leaves out a
        thought, say, and is the same conversation."""
        end = self.tokens[keep:][-_END:]
        rest = prompt[keep:]
        return any(
            rest[at : at + len(end)] == end
            for at, token in enumerate(rest)
            if end and token == end[0]
        )

    def _go_back(self, keep: int) -> int:
        """To the last checkpoint among the first `keep` tokens; without one, to nothing."""
        found = nearest(self._kept.checkpoints, keep)
        if (
            found is None
            or not self._memory.restore(found.state, partial=True)
            or not self._memory.cut(found.n_tokens)
        ):
            self.forget()
            return 0
        self._cut_to(found.n_tokens)
        return found.n_tokens

    def _cut_to(self, n_tokens: int) -> None:
        """The engine's cache holds no more than these."""
        del self.tokens[n_tokens:]
        self._kept.lose_from(n_tokens + 1)
        if n_tokens <= self._n_exact:  # what comes then is read
            self._n_exact = ALL

    def _window_reaches(self, keep: int) -> bool:
        """Whether a sliding window's cache still holds what the token at position `keep` looks
        at: it drops positions as it moves on, and seq_rm says nothing about that. The cache is
        without holes from its first position on (llama-kv-cache.cpp, apply_ubatch)."""
        if self._window <= 0:
            return True
        return self._memory.first_position <= max(0, keep - self._window + 1)


def _worthwhile(n_tokens: int) -> int:
    """How many tokens must be lost for a state of so many to be worth a copy."""
    return max(LEAST, round(n_tokens * _WORTH_COPYING))
