"""The tree of a conversation's messages: versions, and the path through them."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tui.storage import StoredMessage, Tree


def message(message_id: str, parent: str | None = None) -> StoredMessage:
    return StoredMessage(message_id, parent, "user", f"text of {message_id}", 1.0)


def ids(tree: Tree) -> list[str]:
    return [m.id for m in tree.path]


def test_versions_are_walked_and_each_leads_on_as_it_did() -> None:
    """q - a1 - b1 and q - a2: the path through a1 goes on to b1 when it is shown again."""
    tree = Tree([message("q"), message("a1", "q"), message("b1", "a1"), message("a2", "q")], "a2")
    assert ids(tree) == ["q", "a2"]
    assert tree.versions(tree["a2"]) == ("a1", "a2")
    tree.show("a1")
    assert ids(tree) == ["q", "a1", "b1"]
    tree.end_at("a1")
    tree.add(message("b2", "a1"))
    tree.show("a2")
    tree.show("a1")
    assert ids(tree) == ["q", "a1", "b2"]  # the one that was shown last
    tree.end_at(None)
    tree.add(message("q2"))
    assert tree.versions(tree["q2"]) == ("q", "q2")


def test_a_lost_head_or_parent_hides_nothing() -> None:
    tree = Tree([message("a"), message("b", "lost")], "gone")
    assert ids(tree) == ["b"]
    assert tree.versions(tree["b"]) == ("a", "b")


def test_a_circle_ends() -> None:
    """As damage may make one: whatever is shown, it comes to an end."""
    tree = Tree([message("a", "b"), message("b", "a"), message("c")], "a")
    assert set(ids(tree)) == {"a", "b"}
    tree.show("b")
    tree.remove("a")
    assert "a" not in ids(tree)


def test_what_another_program_wrote_is_taken_in_beside_what_is_shown() -> None:
    tree = Tree([message("q"), message("a", "q")], "a")
    news = tree.merge([message("q"), message("b", "a"), message("x", "q")])
    assert [m.id for m in news] == ["b", "x"]
    assert ids(tree) == ["q", "a"]
    tree.show("a")
    assert ids(tree) == ["q", "a", "b"]


class Changes(RuleBasedStateMachine):
    """Whatever is added, shown and removed: the path is one from parent to child without what was
    deleted, nothing is lost, and undoing a removal brings back what was there."""

    def __init__(self) -> None:
        super().__init__()
        self.tree = Tree()
        self.written: dict[str, StoredMessage] = {}
        self.gone: set[str] = set()

    def there(self) -> list[str]:
        return [i for i in self.written if i not in self.gone]

    @rule(data=st.data())
    def add(self, data: st.DataObject) -> None:
        parent = data.draw(st.sampled_from([None, *self.there()]))
        new = message(f"m{len(self.written)}", parent)
        self.tree.end_at(parent)
        assert self.tree.add(new) is self.tree.path[-1]
        self.written[new.id] = new

    @precondition(lambda self: self.there())
    @rule(data=st.data())
    def show(self, data: st.DataObject) -> None:
        chosen = data.draw(st.sampled_from(self.there()))
        self.tree.show(chosen)
        assert chosen in ids(self.tree)

    @precondition(lambda self: self.there())
    @rule(data=st.data(), undo=st.booleans())
    def remove(self, data: st.DataObject, undo: bool) -> None:
        chosen = data.draw(st.sampled_from(self.there()))
        before = self.tree.versions(self.tree[chosen])
        removed = self.tree.remove(chosen)
        assert [m.content for m in removed] == [f"text of {m.id}" for m in removed]
        assert all(not self.tree[m.id].content for m in removed)
        if undo:
            self.tree.restore(removed)
            assert self.tree.versions(self.tree[chosen]) == before
        else:
            self.gone |= {m.id for m in removed}

    @invariant()
    def the_path_is_one(self) -> None:
        path = self.tree.path
        assert [m.parent_id for m in path[1:]] == [m.id for m in path[:-1]]
        assert not path or path[0].parent_id is None
        assert not self.gone & set(ids(self.tree))
        for i in self.there():
            assert self.tree[i] == self.written[i]

    @invariant()
    def it_is_read_back_as_it_was_written(self) -> None:
        deleted = {i: self.tree[i] for i in self.written}
        again = Tree(deleted.values(), self.tree.head)
        if self.tree.head is not None:
            assert again.path == self.tree.path


TestChanges = Changes.TestCase
TestChanges.settings = settings(max_examples=30, stateful_step_count=20, deadline=None)


@given(st.text(max_size=3))
def test_a_change_is_seen_on_the_path(text: str) -> None:
    tree = Tree([message("a")])
    tree.change(replace(message("a"), content=text))
    assert tree.path[0].content == text
