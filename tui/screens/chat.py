"""The chat: what the user asks, what the model answers, and what happens in between."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Iterator
from dataclasses import replace
from typing import ClassVar

from textual import work
from textual.app import ComposeResult, SystemCommand
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.message import Message
from textual.screen import Screen
from textual.widgets import Tooltip

from tui.answering.conversation import Chat
from tui.answering.generation import Generation
from tui.answering.painter import Painter
from tui.ports import Ready, Retry, Running, Stage
from tui.safe_text import one_line
from tui.screens.conversations import ConversationsScreen
from tui.screens.report import ReportScreen
from tui.status import Status
from tui.storage.conversations import Conversations
from tui.storage.recorder import Recorder
from tui.widgets.messages import AnswerMessage
from tui.widgets.prompt import Prompt
from tui.widgets.status_lines import ActivityLine, Hints, StatusLine
from tui.widgets.transcript import Transcript
from tuner.engine.protocol import Sampling
from tuner.errors import EngineError, KvchatError

VRAM_SECONDS = 2.0
QUIT_SECONDS = 3.0  # within which the second Ctrl+C must come
STOP_SECONDS = 2.0  # after which a stop is no longer waited for
DEATHS = ("crashed", "not_loaded")  # kinds of EngineError after which there is no model


class ChatScreen(Screen[None]):
    """Everything here runs on the screen's thread; what blocks goes to thread workers, whose
    results come back as messages."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "stop", "Stop"),
        Binding("ctrl+c", "interrupt", "Stop, quit", priority=True),
        Binding("ctrl+n", "new_chat", "New chat", priority=True),
        Binding("ctrl+r", "regenerate", "Regenerate", priority=True),
        Binding("ctrl+o", "conversations", "Conversations", priority=True),
        Binding("ctrl+y", "copy_answer", "Copy answer", priority=True),
        Binding("f2", "report", "Fit report", priority=True),
        Binding("f5", "reload", "Reload the model", priority=True),
        Binding("pageup", "page(-1)", "Scroll up", priority=True, show=False),
        Binding("pagedown", "page(1)", "Scroll down", priority=True, show=False),
        Binding("ctrl+home", "to_start", "First message", priority=True, show=False),
        Binding("ctrl+end", "to_end", "Newest message", priority=True, show=False),
    ]

    VERTICAL_BREAKPOINTS = [(0, "-short"), (14, "-tall")]  # noqa: RUF012

    class NotSaved(Message):
        """A conversation could not be saved. Sent to the app, from any thread."""

        def __init__(self, problem: str) -> None:
            super().__init__()
            self.problem = problem

    class Reloading(Message):
        """The model is being loaded again: how far it is, or why it failed."""

        def __init__(self, event: Stage | Retry | Ready | KvchatError) -> None:
            super().__init__()
            self.event = event

    class Measured(Message):
        """What was measured in a thread; None where it is not known."""

        def __init__(self, vram: tuple[int, int] | None, n_ctx_used: int | None = None) -> None:
            super().__init__()
            self.vram = vram
            self.n_ctx_used = n_ctx_used

    def __init__(
        self,
        running: Running,
        chat: Chat,
        store: Conversations,
        recorder: Recorder,
        sampling: Sampling,
        *,
        problem: str = "",
    ):
        super().__init__()
        self.running_model = running
        self.chat = chat
        self._store = store
        self._recorder = recorder
        self._sampling = sampling
        self._problem = problem
        self._generation: Generation | None = None
        self._settled = asyncio.Event()  # no answer is being written
        self._settled.set()
        self._dead = False
        self._reloading = False
        self._quit_asked = False
        self._saved = store.saved
        self._gc_threshold = gc.get_threshold()

    @property
    def generating(self) -> bool:
        """An answer is being written."""
        return self._generation is not None

    # ------------------------------------------------------------ layout

    def compose(self) -> ComposeResult:
        yield Transcript()
        with Vertical(id="bottom"):
            yield ActivityLine()
            yield Prompt(placeholder="Write a message")
            yield StatusLine()
            yield Hints()

    async def on_mount(self) -> None:
        # Tooltips are drawn as markup, and a table's are the model's own text.
        await self.query(Tooltip).remove()
        self._transcript = self.query_one(Transcript)
        self._prompt = self.query_one(Prompt)
        self._activity = self.query_one(ActivityLine)
        self._status = self.query_one(StatusLine)
        self._hints = self.query_one(Hints)
        self._set_status()
        await self._show_chat()
        for warning in (self._problem, self._store.warning or "", *self.running_model.warnings):
            if warning:
                await self._transcript.notice(warning, "warning")
        self._idle()
        self._prompt.focus()
        self.set_interval(VRAM_SECONDS, self._measure)
        # A full collection walks every widget: up to 200 ms in a long chat, amid typing.
        self._gc_threshold = gc.get_threshold()
        gc.collect()
        gc.freeze()
        gc.set_threshold(20_000, 20, 1000)
        self._measure(count=bool(self.chat.path))

    def on_unmount(self) -> None:
        # However the program ends, no thread may wait for the engine.
        if self._generation is not None:
            self._generation.stop()
        gc.set_threshold(*self._gc_threshold)
        gc.unfreeze()

    async def _show_chat(self) -> None:
        await self._transcript.show(self.chat.path)
        self._prompt.set_history([m.content for m in self.chat.path if m.role == "user"])
        if not self.chat.path:
            model = self.running_model.model
            name = " · ".join(part for part in (one_line(model.name), model.quantization) if part)
            await self._transcript.notice(
                f"{name}\n{self.running_model.status()}\n\n"
                "Enter sends, Ctrl+J begins a new line, Ctrl+P shows everything else.",
                "welcome",
            )
        last = self.chat.last_answer
        self._change_status(
            n_ctx_used=last.n_ctx_used if last else None,
            tokens_per_second=last.tokens_per_second if last else None,
        )

    # ------------------------------------------------------------ the lines below

    def _set_status(self) -> None:
        model, settings = self.running_model.model, self.running_model.settings
        self._status.status = Status(
            model=one_line(model.name), settings=self.running_model.status(), n_ctx=settings.n_ctx
        )

    def _change_status(self, **changes: object) -> None:
        if self._status.status is not None:
            self._status.status = replace(self._status.status, **changes)  # type: ignore[arg-type]

    @work(thread=True, exclusive=True, group="measure")
    def _measure(self, count: bool = False) -> None:
        used = None
        try:
            if count:
                used = self.running_model.count_tokens(self.chat.prompt())
            vram = self.running_model.vram_used()
        except Exception:  # a gauge that cannot be read shows nothing
            vram = None
        self.post_message(self.Measured(vram, used))

    def on_chat_screen_measured(self, message: Measured) -> None:
        self._change_status(vram=message.vram)
        if message.n_ctx_used is not None and self._generation is None:
            self._change_status(n_ctx_used=message.n_ctx_used)

    def _idle(self) -> None:
        """Shows what can be done now."""
        self._activity.activity = "" if self._saved else "not saved"
        self._hints.keys = (
            ("F5", "reload the model") if self._dead else ("Enter", "send"),
            ("Ctrl+J", "newline"),
            ("F2", "fit"),
            ("Ctrl+O", "chats"),
            ("Ctrl+N", "new"),
            ("Ctrl+R", "again"),
            ("Ctrl+P", "all"),
        )

    def on_transcript_moved(self) -> None:
        self.update_below()

    def update_below(self) -> None:
        """The marker that there is more text below the view."""
        at_end = self._transcript.at_end
        new = "new text" if self._generation is not None else "more"
        self._activity.below = "" if at_end else f"↓ {new} below · Ctrl+End"

    async def on_activity_line_below_clicked(self) -> None:
        await self.action_to_end()

    def show_problem(self, problem: str) -> None:
        """Something about saving that the user should know."""
        self._saved = False
        self._activity.activity = "not saved"
        self.run_worker(self._transcript.notice(problem, "warning"))

    # ------------------------------------------------------------ asking and answering

    async def on_prompt_submitted(self) -> None:
        if self._generation is not None:
            self._activity.activity = "still answering · Esc stops it"
        elif self._dead:
            self._activity.activity = "the model is not running · F5 loads it again"
        else:
            message = self.chat.add_user(self._prompt.take())
            self._recorder.save(self.chat.record(), message)
            await self._transcript.clear_notices()
            await self._transcript.add(message)
            await self._answer()

    async def _answer(self) -> None:
        """Lets the model answer the conversation as it stands."""
        sampling = self._sampling
        if sampling.seed is not None:  # another answer wants another seed
            sampling = replace(sampling, seed=sampling.seed + self.chat.branches)
        prompt = self.chat.prompt()
        answer = self.chat.begin_answer(self.running_model, sampling)
        generation = Generation(self.running_model, prompt, sampling)
        self._generation = generation
        self._settled.clear()
        self._transcript.streaming = True
        widget = await self._transcript.add(answer, streaming=True)
        assert isinstance(widget, AnswerMessage)
        painter = Painter(
            generation,
            self.chat,
            self._recorder,
            self._transcript,
            widget,
            self._prompt.keystrokes,
        )
        self._hints.keys = (("Esc", "stop"), ("Ctrl+J", "newline"), ("F2", "fit"))
        self.run_worker(generation.run, thread=True, group="engine")
        self.run_worker(self._write(painter), group="painter")

    async def _write(self, painter: Painter) -> None:
        try:
            await painter.run(self._activity)
            await self._finish_answer(painter)
        finally:
            self._generation = None
            self._transcript.streaming = False
            self._settled.set()
            self._idle()
            self.update_below()

    async def _finish_answer(self, painter: Painter) -> None:
        generation, answer = painter.generation, painter.answer
        done, error = generation.done, generation.error
        if answer.content or answer.reasoning or (error is None and generation.stopped):
            self._recorder.save(self.chat.record(), answer)
        else:  # nothing came: the question waits for another try
            self.chat.drop_answer()
            await self._transcript.drop_last()
            if error is None:
                await self._transcript.notice("The model said nothing. Ctrl+R asks it again.")
        if done is not None:
            self._change_status(
                n_ctx_used=answer.n_ctx_used, tokens_per_second=answer.tokens_per_second
            )
            if done.reason == "context_full":
                await self._context_full("The context is full: the answer ends here")
        if error is not None:
            await self._explain(error)

    async def _explain(self, error: KvchatError) -> None:
        kind = error.kind
        if kind == "context_full":
            await self._context_full("The conversation no longer fits the context")
            return
        self._dead = isinstance(error, EngineError) and kind in DEATHS
        text = str(error)
        log = self.running_model.log_path
        if log is not None and str(log) not in text:
            text += f" Its log: {log}"
        advice = "The conversation is whole. " + (
            "F5 loads the model again." if self._dead else "Ctrl+R tries again."
        )
        await self._transcript.notice(f"{text}\n{advice}", "error")

    async def _context_full(self, what: str) -> None:
        n_ctx = self.running_model.settings.n_ctx
        trained = self.running_model.model.n_ctx_train
        larger = ""
        if n_ctx < trained:
            larger = f", or start kvchat with --ctx {min(2 * n_ctx, trained)} and --resume"
        await self._transcript.notice(
            f"{what} ({n_ctx:,} tokens). Everything is kept. Begin a new chat with Ctrl+N{larger}.",
            "warning",
        )

    async def _settle(self) -> None:
        """Stops what is being written and waits until it is saved."""
        if self._generation is not None:
            self._generation.stop()
            try:
                async with asyncio.timeout(STOP_SECONDS):
                    await self._settled.wait()
            except TimeoutError:
                self._activity.activity = "the engine does not stop"

    async def finish(self) -> Running:
        """Stops and saves; the model that is to be closed."""
        await self._settle()
        return self.running_model

    # ------------------------------------------------------------ actions

    def action_stop(self) -> None:
        if self._generation is not None and not self._generation.stopped:
            self._activity.activity = "stopping"
            self._generation.stop()

    async def action_interrupt(self) -> None:
        selected = self.get_selected_text() or self._prompt.selected_text
        if selected:
            self.app.copy_to_clipboard(selected)
            self.clear_selection()
            self._activity.activity = "copied"
        elif self._generation is not None:
            self.action_stop()
        elif self._quit_asked:
            await self.app.action_quit()
        else:
            self._quit_asked = True
            self._activity.activity = "Ctrl+C again quits"
            self.set_timer(QUIT_SECONDS, self._forget_quit)

    def _forget_quit(self) -> None:
        self._quit_asked = False
        if self._generation is None:
            self._idle()

    async def action_new_chat(self) -> None:
        await self._settle()
        self.chat = Chat(self.chat.conversation.system_prompt)
        await self._show_chat()
        self._prompt.focus()

    @work(group="regenerate", exclusive=True)
    async def action_regenerate(self) -> None:
        await self._settle()
        if self._dead or self._generation is not None:
            return
        if self.chat.drop_answer() is not None:
            await self._transcript.drop_last()
        if self.chat.waits_for_answer:
            await self._transcript.clear_notices()
            await self._answer()

    def action_conversations(self) -> None:
        def chosen(conversation_id: str | None) -> None:
            if conversation_id is not None and conversation_id != self.chat.conversation.id:
                self._open(conversation_id)

        self.app.push_screen(ConversationsScreen(self._store), chosen)

    @work(group="open", exclusive=True)
    async def _open(self, conversation_id: str) -> None:
        await self._settle()
        try:
            conversation = await asyncio.to_thread(self._store.get, conversation_id)
            messages = await asyncio.to_thread(self._store.messages, conversation_id)
        except KvchatError as error:
            await self._transcript.notice(str(error), "error")
            return
        if conversation is not None:
            self.chat = Chat(None, conversation, messages)
            await self._show_chat()
            self._measure(count=True)

    @work(group="forget")
    async def forget(self, conversation_id: str) -> None:
        """A conversation was deleted; if it is the open one, a new one begins."""
        if conversation_id == self.chat.conversation.id:
            await self.action_new_chat()

    def action_copy_answer(self) -> None:
        answer = self.chat.last_answer
        if answer is None:
            self._activity.activity = "there is no answer to copy"
        else:
            self.app.copy_to_clipboard(answer.content)
            self._activity.activity = "answer copied"

    def action_report(self) -> None:
        self.app.push_screen(ReportScreen(self.running_model))

    def action_page(self, direction: int) -> None:
        rows = max(1, self._transcript.size.height - 2)
        self._transcript.scroll_relative(y=direction * rows, animate=False)

    async def action_to_start(self) -> None:
        await self._transcript.to_start()

    async def action_to_end(self) -> None:
        await self._transcript.to_end()

    # ------------------------------------------------------------ after a crash

    def action_reload(self) -> None:
        if self._dead and not self._reloading:
            self._reloading = True
            self._activity.activity = "loading the model again"
            self._reload()

    @work(thread=True, group="reload")
    def _reload(self) -> None:
        try:
            for event in self.running_model.reload():
                self.post_message(self.Reloading(event))
        except KvchatError as error:
            self.post_message(self.Reloading(error))
        except Exception as error:
            failure = EngineError("load_failed", f"Loading failed: {error!r}.")
            self.post_message(self.Reloading(failure))

    async def on_chat_screen_reloading(self, message: Reloading) -> None:
        match message.event:
            case Stage(text=text, fraction=fraction):
                percent = "" if fraction is None else f" {100 * fraction:.0f}%"
                self._activity.activity = f"{text}{percent}"
            case Retry(reason=reason):
                self._activity.activity = reason
            case KvchatError() as error:
                self._reloading = False
                self._idle()
                await self._transcript.notice(f"{error}\nF5 tries again.", "error")
            case Ready(running=running):
                self._reloading = self._dead = False
                self.running_model = running
                self._set_status()
                self._idle()
                await self._transcript.clear_notices()
                if self.chat.waits_for_answer:
                    await self._answer()
                else:
                    await self._transcript.notice(
                        "The model is loaded again. Go on, or Ctrl+R for another answer."
                    )

    # ------------------------------------------------------------ the palette

    def commands(self) -> Iterator[SystemCommand]:
        """What the command palette offers here."""
        yield SystemCommand("New chat", "Begin a new conversation (Ctrl+N)", self.action_new_chat)
        yield SystemCommand(
            "Conversations", "Open, search, rename, delete (Ctrl+O)", self.action_conversations
        )
        yield SystemCommand(
            "Fit report", "How the model is loaded, predicted and actual (F2)", self.action_report
        )
        yield SystemCommand("Stop", "Stop the answer, keep what is written (Esc)", self.action_stop)
        yield SystemCommand(
            "Regenerate", "Another answer; the old one is kept (Ctrl+R)", self.action_regenerate
        )
        yield SystemCommand(
            "Copy last answer", "To the clipboard (Ctrl+Y)", self.action_copy_answer
        )
