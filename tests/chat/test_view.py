"""What the model sees of a conversation."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from tui.answering import Chat
from tui.answering.view import View, cuts, longest, prompt_of, view_of
from tui.storage import Conversations, StoredMessage

Path = list[StoredMessage]


def path_of(*said: str) -> Path:
    """Messages that are said in turn, the first by the user."""
    roles = ("user", "assistant")
    return [StoredMessage(f"m{n}", None, roles[n % 2], text, n) for n, text in enumerate(said)]


@st.composite
def paths(draw: st.DrawFn) -> Path:
    """Any path: as an answer may have been lost, or a message in a damaged file, roles come in any
    order; any message may be the last that was let go."""
    n = draw(st.integers(0, 12))
    roles = draw(st.lists(st.sampled_from(("user", "assistant")), min_size=n, max_size=n))
    return [
        StoredMessage(
            f"m{at}",
            None,
            role,
            draw(st.sampled_from((f"<{at}>", f"<{at}>", ""))) if role == "assistant" else f"<{at}>",
            at,
            let_go=draw(st.sampled_from((None, None, None, "", "<summary>"))),
        )
        for at, role in enumerate(roles)
    ]


@given(paths(), st.sampled_from((None, "<system>")))
def test_roles_alternate_from_a_question_on_and_the_newest_is_there(
    path: Path, system: str | None
) -> None:
    """Whatever was let go: the system prompt is first, a question follows, then each in turn; what
    is in view is said once, what is gone not at all, and a question that waits is the last."""
    view = view_of(path)
    prompt = prompt_of(system, view)
    roles = [m.role for m in prompt]
    if system:
        assert (roles.pop(0), prompt[0].content) == ("system", system)
    assert roles == ["user", "assistant"] * (len(roles) // 2) + ["user"] * (len(roles) % 2)
    text = "".join(m.content for m in prompt)
    assert all(m.content not in text for m in view.gone if m.content)
    assert all(text.count(m.content) == 1 for m in view.messages if m.role == "user")
    assert text.count("<summary>") == (view.stands_in == "<summary>")
    if path and path[-1].role == "user":
        assert prompt[-1].content.endswith(path[-1].content)


@given(paths())
def test_a_cut_lets_whole_turns_go_and_is_found_again(path: Path) -> None:
    """Each is shorter than the one before; marked in the path, it is what the path shows."""
    view = view_of(path)
    before = len(view.messages)
    for cut in cuts(view):
        assert len(cut.messages) < before
        before = len(cut.messages)
        assert not cut.messages or cut.messages[0].role == "user"
        marked = [replace(m, let_go=None) for m in path]
        marked[len(cut.gone) - 1] = replace(marked[len(cut.gone) - 1], let_go=cut.stands_in)
        found = view_of(marked)
        assert (len(found.gone), found.stands_in) == (len(cut.gone), view.stands_in)
    assert all(cut.messages for cut in cuts(view, whole=False))


@given(paths(), st.integers(0, 60))
def test_no_more_is_let_go_than_must_be(path: Path, room: int) -> None:
    def fits(view: View) -> bool:
        return sum(len(m.content) for m in view.messages) <= room

    views = list(cuts(view_of(path)))
    assert longest(views, fits) == next(filter(fits, views), None)


def test_turns_are_let_go_one_step_at_a_time_and_come_back_so(store: Conversations) -> None:
    """The step is kept with the conversation, holds for whatever follows it, and is taken back
    alone."""
    path = path_of("q1", "a1", "q2", "a2", "q3", "a3")
    chat = Chat()
    for message in path:
        chat.tree.add(replace(message, parent_id=chat.tree.head))
    chat.let_go(chat.path[1])
    chat.let_go(chat.path[3], "in short")
    store.save(chat.record(), chat.path)
    saved = store.get(chat.conversation.id)
    again = Chat(None, saved, store.messages(chat.conversation.id))
    assert [m.content for m in again.prompt()] == ["in short\n\nq3", "a3"]
    again.edit(again.path[4], "another q3")
    assert [m.content for m in again.prompt()] == ["in short\n\nanother q3"]
    assert again.bring_back() == replace(chat.path[3], let_go=None)
    assert [m.content for m in again.prompt()] == ["q2", "a2", "another q3"]
    again.bring_back()
    assert [m.content for m in again.prompt()] == ["q1", "a1", "q2", "a2", "another q3"]
    assert again.bring_back() is None


def test_a_conversation_without_its_first_message_begins_with_a_question() -> None:
    """As a damaged file may leave it."""
    path = path_of("lost", "a1", "q2")[1:]
    assert [m.content for m in prompt_of(None, view_of(path))] == ["q2"]
