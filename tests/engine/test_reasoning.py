"""What a model thinks is told from what it answers, whatever its family's marks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.scripted_model import Said, scripted_model
from tuner.engine.client import EngineClient
from tuner.engine.protocol import Done, Generate, Load, Message, Sampling, Text, WasThought
from tuner.engine.reasoning import Part, Splitter
from tuner.engine.reasoning_marks import Marks, marks_of, pairs
from tuner.settings import Settings

THOUGHT, ANSWER = "The user greets me.", "Good morning!"
TURNS = "{% for m in messages %}{{ '<|' + m.role + '|>' + m.content }}{% endfor %}"


@dataclass(frozen=True)
class Family:
    """What a model of a family says, token by token, and how that is to be understood."""

    says: Said
    opening: str = "<|assistant|>"  # what its prompt ends with
    about: str = ""  # the rest of its template, where marks are stated
    thought: str = THOUGHT
    answer: str = ANSWER
    end: str = "</s>"
    beside: Said = field(default=())  # other tokens of its vocabulary

    @property
    def template(self) -> str:
        shown = "{% if add_generation_prompt %}" + f"{{{{ {self.opening!r} }}}}" + "{% endif %}"
        return f"{TURNS}{{# {self.about} #}}{shown}"

    @property
    def marks(self) -> Marks:
        tokens = (*self.says, *self.beside)
        return marks_of(self.template, {text: kind == "c" for text, kind in tokens if kind != "n"})


def simple(opening: str, closing: str, kind: str, **more: Any) -> Family:
    return Family(((opening, kind), (THOUGHT, "n"), (closing, kind), (ANSWER, "n")), **more)


def harmony(*after_thought: tuple[str, str], **more: Any) -> Family:
    """A thought in the channel for it, then these tokens."""
    analysis = (
        ("<|channel|>", "c"), ("analysis", "n"), ("<|message|>", "c"), (THOUGHT, "n"),
        ("<|end|>", "c"), ("<|start|>", "c"), ("assistant", "n"),
    )  # fmt: skip
    return Family(
        (*analysis, *after_thought),
        opening="<|start|>assistant",
        about="<|channel|>analysis<|message|>",
        end="<|return|>",
        beside=(("<|call|>", "c"), ("<|constrain|>", "c")),
        **more,
    )


FINAL = (("<|channel|>", "c"), ("final", "n"), ("<|message|>", "c"), (ANSWER, "n"))
OPENED = ((THOUGHT, "n"), ("</think>", "u"), (ANSWER, "n"))
FAMILIES = {
    "think as text": simple("<think>", "</think>", "n"),
    "think in lines": Family(
        (("<think>\n", "n"), (THOUGHT, "n"), ("\n</think>", "n"), ("\n\n", "n"), (ANSWER, "n")),
        thought=THOUGHT + "\n",
    ),
    "think as user-defined tokens": simple("<think>", "</think>", "u"),
    "think as control tokens": simple("<think>", "</think>", "c"),
    "thinking": simple("<thinking>", "</thinking>", "n"),
    "EXAONE": simple("<thought>", "</thought>", "n"),
    "Reka": simple("<reasoning>", "</reasoning>", "n"),
    "Magistral": simple("[THINK]", "[/THINK]", "c"),
    "Seed-OSS": Family(
        (
            ("<seed:think>", "c"), ("The user ", "n"), ("<seed:cot_budget_reflect>", "c"),
            ("greets", "n"), ("</seed:cot_budget_reflect>", "c"), (" me.", "n"),
            ("</seed:think>", "c"), (ANSWER, "n"),
        )
    ),
    "Command": Family(
        (
            ("<|START_THINKING|>", "c"), (THOUGHT, "n"), ("<|END_THINKING|>", "c"),
            ("<|START_RESPONSE|>", "c"), (ANSWER, "n"), ("<|END_RESPONSE|>", "c"),
        )
    ),
    "OpenThinker": Family(
        (
            ("<|begin_of_thought|>", "n"), (THOUGHT, "n"), ("<|end_of_thought|>", "n"),
            ("\n\n", "n"), ("<|begin_of_solution|>", "n"), (ANSWER, "n"),
            ("<|end_of_solution|>", "n"),
        ),
        about="<|begin_of_thought|> <|end_of_thought|>",
    ),
    "Kimi-VL": simple("◁think▷", "◁/think▷", "u"),
    "Apertus": simple("<|inner_prefix|>", "<|inner_suffix|>", "c"),
    "MiniMax-M3": simple("<mm:think>", "</mm:think>", "u"),
    "Hunyuan": Family(
        (
            ("<think>\n", "n"), (THOUGHT, "n"), ("</think>\n", "n"), ("<answer>\n", "n"),
            (ANSWER, "n"), ("</answer>", "n"),
        ),
        about="<answer> </answer>",
    ),
    "Granite": Family(
        (
            ("Here is my thought process:", "n"), ("\n\n", "n"), (THOUGHT, "n"),
            ("\nHere is my response:", "n"), (" ", "n"), (ANSWER, "n"),
        ),
        about="Here is my thought process: Here is my response:",
        thought=THOUGHT + "\n",
    ),
    "Apriel": Family(
        (
            (THOUGHT, "n"), ("[BEGIN FINAL RESPONSE]", "u"), (ANSWER, "n"),
            ("[END FINAL RESPONSE]", "u"),
        ),
        opening="<|assistant|>Here are my reasoning steps:\n",
    ),
    "Harmony": harmony(*FINAL),
    "Harmony with a preamble": harmony(
        ("<|channel|>", "c"), ("commentary", "n"), ("<|message|>", "c"), ("Wait.", "n"),
        ("<|end|>", "c"), ("<|start|>", "c"), ("assistant", "n"), *FINAL,
        answer=f"Wait.\n\n{ANSWER}",
    ),
    "Harmony with a call": harmony(
        ("<|channel|>", "c"), ("commentary to=functions.now ", "n"), ("<|constrain|>", "c"),
        ("json", "n"), ("<|message|>", "c"), ("{}", "n"),
        thought=THOUGHT + "\n\n{}", answer="",
    ),
    "Muse": Family(
        (
            (" to=self", "n"), ("<|message|>", "c"), (THOUGHT, "n"), ("<|eom|>", "c"),
            ("<|start|>", "c"), ("assistant to=user", "n"), ("<|message|>", "c"), (ANSWER, "n"),
        ),
        opening="<|start|>assistant",
    ),
    "Gemma 4": Family(
        (
            ("<|channel>", "c"), ("thought\n", "n"), (THOUGHT, "n"), ("<channel|>", "c"),
            (ANSWER, "n"),
        )
    ),
    "Solar": Family(
        (
            ("<|think|>", "c"), (THOUGHT, "n"), ("<|end|>", "c"), ("<|begin|>", "c"),
            ("assistant", "n"), ("<|content|>", "c"), (ANSWER, "n"),
        ),
        opening="<|begin|>assistant",
        end="<|flush|>",
        beside=(("<|calls|>", "c"),),
    ),
    "Kimi K3": Family(
        (
            (THOUGHT, "n"), ("<|close|>", "c"), ("think", "n"), ("<|sep|>", "c"),
            ("<|open|>", "c"), ("response", "n"), ("<|sep|>", "c"), (ANSWER, "n"),
            ("<|close|>", "c"), ("response", "n"), ("<|sep|>", "c"), ("<|close|>", "c"),
            ("message", "n"), ("<|sep|>", "c"),
        ),
        opening='<|open|>message role="assistant"<|sep|><|open|>think<|sep|>',
    ),
    "DeepSeek R1, QwQ": Family(
        ((THOUGHT + "\n", "n"), ("</think>", "u"), ("\n\n", "n"), (ANSWER, "n")),
        opening="<|assistant|><think>\n",
        thought=THOUGHT + "\n",
    ),
    "GLM 4.5, DeepSeek V3.1": Family(OPENED, opening="<|assistant|>\n<think>"),
    "opened with a word": Family(
        ((" user greets me.", "n"), ("</think>", "u"), (ANSWER, "n")),
        opening="<|assistant|><think>The",
        thought=" user greets me.",
    ),
    "opened by the prompt and again": Family(
        (("<think>", "u"), *OPENED), opening="<|assistant|><think>\n"
    ),
    "an opened control token": Family(
        ((THOUGHT, "n"), ("[/THINK]", "c"), (ANSWER, "n")),
        opening="<|assistant|>[THINK]",
        beside=(("[THINK]", "c"),),
    ),
    "opened and closed": Family(
        ((ANSWER, "n"),), opening="<|assistant|><think>\n\n</think>\n\n", thought=""
    ),
    "several blocks": Family(
        (
            ("<think>", "c"), ("One.", "n"), ("</think>", "c"), ("A, ", "n"), ("<think>", "c"),
            ("Two.", "n"), ("</think>", "c"), ("B.", "n"),
        ),
        thought="One.\n\nTwo.", answer="A, B.",
    ),
    "unknown tags": simple("<xyz:think>", "</xyz:think>", "n", about="<xyz:think></xyz:think>"),
    "unknown and opened by the prompt": Family(
        ((THOUGHT, "n"), ("</xyz:think>", "n"), (ANSWER, "n")), opening="<|assistant|><xyz:think>"
    ),
    "unknown words": simple("[REASONING]", "[/REASONING]", "c"),
    "unknown ends": simple("<|cot_start|>", "<|cot_end|>", "c"),
    "no template": simple("<think>", "</think>", "n"),
}  # fmt: skip


def joined(parts: list[Part]) -> tuple[str, str]:
    """Thought and answer."""
    thought = answer = ""
    for part in parts:
        if part.moved:
            thought, answer = thought + answer, ""
        elif part.thought:
            thought += part.text
        else:
            answer += part.text
    return thought, answer


def split(text: str, marks: Marks, prompt: str = "", size: int = 1000) -> tuple[str, str]:
    splitter = Splitter(marks, prompt)
    parts = [p for at in range(0, len(text), size) for p in splitter.feed(text[at : at + size])]
    return joined([*parts, *splitter.finish()])


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
@pytest.mark.parametrize("size", [1, 3, 100])
def test_the_families(family: Family, size: int) -> None:
    """Control tokens come whole, all else in whatever pieces."""
    splitter, parts = Splitter(family.marks, f"<|user|>hi{family.opening}"), list[Part]()
    for text, kind in family.says:
        if kind == "c":
            parts += splitter.mark(text)
        else:
            for at in range(0, len(text), size):
                parts += splitter.feed(text[at : at + size])
    assert joined(parts + splitter.finish()) == (family.thought, family.answer)


NOTHING = marks_of("", {})  # a file that states nothing
STATED = marks_of("<think></think>", {})
CHANNELS = marks_of(
    "<|start|><|channel|><|message|>", {}
)  # which llama.cpp makes no control tokens


@pytest.mark.parametrize("size", [1, 2, 3, 5, 1000])
@pytest.mark.parametrize(
    ("text", "thought", "answer"),
    [
        ("<think>\nhm\n</think>\n\nYes.", "hm\n", "Yes."),
        ("\n<thinking>hm</thinking>Yes.", "hm", "Yes."),
        ("No tags, a < b.", "", "No tags, a < b."),
        ("It says `<think>` here.", "", "It says `<think>` here."),
        ("The tag </think> in a line.", "", "The tag </think> in a line."),
        ("hm hm\n</think>\n\nYes.", "hm hm\n", "Yes."),
        ("<a>\n<think>\nb\n</think>\n</a>", "", "<a>\n<think>\nb\n</think>\n</a>"),
        ("<think>cut short", "cut short", ""),
        ("<thin", "", "<thin"),
        ("<think></think>Yes.", "", "Yes."),
        ("<think>\n\n</think>\n\n  Yes.", "", "  Yes."),
        ("<think>the tag `</think>` ends</think>Yes.", "the tag `</think>` ends", "Yes."),
        ("<think>a</think>A.\n\n<think>b</think>\n\nB.", "a\n\nb", "A.\n\nB."),
        ("<think>a</think>A.<think>b</think>B.", "a\n\nb", "A.\n\nB."),
        ("<think>a</think>the <think> tag", "a", "the <think> tag"),
        ("<think>a</think>```\n<think>\n```", "a", "```\n<think>\n```"),
        ("<think>a</think>Tags:\n\n    <think>\n", "a", "Tags:\n\n    <think>\n"),
        ("<think>a</think>1. <think> opens", "a", "1. <think> opens"),
        ("<think>a</think>> <think> opens", "a", "> <think> opens"),
        ("<answer>\n42\n</answer>", "", "<answer>\n42\n</answer>"),
    ],
)
def test_marks_that_are_text(text: str, thought: str, answer: str, size: int) -> None:
    """An answer may speak of the marks, where it is no answer of a model that thinks, in code, in
    quotes or in the middle of a sentence."""
    assert split(text, NOTHING, size=size) == (thought, answer)


def test_what_a_file_states_counts_for_more() -> None:
    """A model that thinks may do so again later, and may end a thought in the middle of a line that
    nothing has opened; one that is not known to think speaks of marks."""
    assert split("A.\n<think>b</think>C.", STATED) == ("b", "A.\nC.")
    assert split("A.\n<think>b</think>C.", NOTHING) == ("", "A.\n<think>b</think>C.")
    assert split("Hm.</think>Yes.", STATED) == ("Hm.", "Yes.")
    assert split("Hm.</think>Yes.", NOTHING) == ("", "Hm.</think>Yes.")
    assert split("</think> Yes </think>", STATED) == ("", "Yes </think>")


def test_a_control_token_is_no_text() -> None:
    """Where the vocabulary has a mark as a control token, the same letters inside a thought speak
    of it; and a mark in the middle of a sentence is one."""
    marks = marks_of("", {"[THINK]": True, "[/THINK]": True})
    splitter = Splitter(marks, "[THINK]")
    parts = [*splitter.feed("I end with [/THINK] then."), *splitter.mark("[/THINK]")]
    parts += [*splitter.feed("So, "), *splitter.mark("[THINK]"), *splitter.feed("hm")]
    parts += [*splitter.mark("[/THINK]"), *splitter.feed("yes."), *splitter.finish()]
    assert joined(parts) == ("I end with [/THINK] then.\n\nhm", "So, yes.")


def test_marks_that_are_spelled_for_want_of_their_tokens() -> None:
    """A model that writes both marks as text, though its vocabulary has them, has its answer."""
    marks = marks_of("", {"[THINK]": True, "[/THINK]": True})
    assert split("[THINK]Hm.[/THINK]Yes.", marks) == ("Hm.", "Yes.")


def test_a_channel_of_another_is_the_end() -> None:
    """A model that goes on as the user has come to its end."""
    splitter = Splitter(harmony().marks, "<|start|>assistant")
    said = "<|channel|>final<|message|>Yes.<|end|><|start|>user<|message|>Thanks!"
    assert joined(splitter.feed(said)) == ("", "Yes.")
    assert splitter.over


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("Just text.", ("", "Just text.")),  # a model that was never trained on channels
        ("<|channel|>commentary to=assistant<|channel|>final<|message|>A", ("", "A")),
        ("<|channel|>analysis<|message|>a<|channel|>final<|message|>A", ("a", "A")),
        (" to=functions.f<|channel|>commentary<|message|>{}", ("{}", "")),
        ("<|channel|>final <|constrain|>json<|message|>{}", ("", "{}")),
        (
            "<|channel|>final<|message|>It has `<|start|>`, I say.",
            ("", "It has `<|start|>`, I say."),
        ),
        ("<|channel|>analysis<|message|>cut", ("cut", "")),
        ("<|channel|>anal", ("", "")),
        ("<|channel|>final<|message|>Yes.\n<|start|> begins", ("", "Yes.\n<|start|> begins")),
        (
            f"<|channel|>analysis<|message|>A <|start|> {'begins it, ' * 30}<|end|>",
            (f"A <|start|> {'begins it, ' * 30}", ""),
        ),
    ],
)
@pytest.mark.parametrize("size", [1, 4, 1000])
def test_channels(said: str, expected: tuple[str, str], size: int) -> None:
    """As gpt-oss writes them, also in its less usual ways; headers are never shown."""
    assert split(said, CHANNELS, "<|start|>assistant", size) == expected


def test_pairs_that_speak_of_thinking() -> None:
    """Found by their words and how they differ; not what only resembles them."""
    found = [
        "<a:think>", "</a:think>", "<|thought_end|>", "<|thought_begin|>", "<｜inner▁thought｜>",
        "<｜/inner▁thought｜>", "<|think|>", "<think_on>", "<think_off>", "[/TOOL]", "[TOOL]",
        "<max_thinking_length>", "</max_thinking_length>", "<cot_start>", "<end_of_cot>",
        "<b:think>", "[/ANALYSIS]",
    ]  # fmt: skip
    assert list(pairs(found)) == [
        ("<a:think>", "</a:think>"),
        ("<|thought_begin|>", "<|thought_end|>"),
        ("<｜inner▁thought｜>", "<｜/inner▁thought｜>"),
        ("<cot_start>", "<end_of_cot>"),
        ("<b:think>", "</b:think>"),
        ("[ANALYSIS]", "[/ANALYSIS]"),
    ]


_MARKED = st.sampled_from(
    [
        "<think>", "</think>", "<answer>", "</answer>", "<thinking>", "[THINK]", "[/THINK]",
        "<|channel|>", "analysis", "final", "<|message|>", "<|start|>", "assistant", "<|end|>",
        "<|channel>", "thought\n", "<channel|>", " to=functions.f", "user", "\n", "\n\n", " ", "`",
        "```\n", "Yes", ".", ",", '"', "<", "</", "<|", "Here is my response:", "ä",
        "\t", "    ", "x" * 90, "<|open|>", "<|close|>", "<|sep|>",
    ]
)  # fmt: skip
_EVERYTHING = marks_of("".join(f"{f.template} {f.says}" for f in FAMILIES.values()), {})


@given(
    st.lists(_MARKED, max_size=30).map("".join), st.lists(st.integers(0, 80), max_size=20),
    st.sampled_from([NOTHING, STATED, harmony().marks, _EVERYTHING]),
    st.sampled_from(["", "<think>\n", "<think></think>", "<|start|>assistant", "<|channel>"]),
)  # fmt: skip
def test_how_a_text_is_cut_changes_nothing(
    text: str, cuts: list[int], marks: Marks, prompt: str
) -> None:
    splitter, parts, begin = Splitter(marks, prompt), list[Part](), 0
    for cut in (*sorted(cuts), len(text)):
        parts += splitter.feed(text[begin:cut])
        begin = max(begin, cut)
    assert joined([*parts, *splitter.finish()]) == split(text, marks, prompt)


@given(st.text(), st.sampled_from([NOTHING, _EVERYTHING]))
def test_text_without_marks_is_an_answer(text: str, marks: Marks) -> None:
    """Every character of it."""
    if not marks.pattern.search(text):
        assert split(text, marks) == ("", text)


@pytest.mark.parametrize(
    ("prompt", "reasoning", "content", "said"),
    [
        ("<|a|>", "", "Hel", "Hel"),
        ("<|a|>", "hm", "", "<think>hm"),
        ("<|a|>", "hm", "Hel", "<think>hm</think>Hel"),
        ("<|a|><think>\n", "hm", "", "hm"),
        ("<|a|><think>\n", "hm", "Hel", "hm</think>Hel"),
        ("<|a|><think>\n\n</think>\n\n", "", "Hel", "Hel"),
    ],
)
def test_an_answer_goes_on_where_it_was_cut(
    prompt: str, reasoning: str, content: str, said: str
) -> None:
    """In its thought or after it, as its marks would have it."""
    assert Splitter(STATED, prompt).resumed(reasoning, content) == said
    again = Splitter(STATED, prompt, said)
    assert again.thinking is not bool(content)
    more = [*again.feed("m, "), *again.feed("lo"), *again.finish()]
    assert joined(more) == (("", "m, lo") if content else ("m, lo", ""))


def test_a_channel_goes_on_where_it_was_cut() -> None:
    marks = harmony().marks
    start = Splitter(marks, "<|start|>assistant")
    assert start.resumed("", "Hel") == "<|channel|>final<|message|>Hel"
    assert start.resumed("hm", "") == "<|channel|>analysis<|message|>hm"
    again = Splitter(marks, "<|start|>assistant", start.resumed("hm", "Hel"))
    assert joined([*again.feed("lo"), *again.finish()]) == ("", "lo")


# ---------------------------------------------------------------- with the engine


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineClient]:
    with EngineClient(tmp_path_factory.mktemp("log") / "engine.log") as client:
        yield client


HI = (Message("user", "hi"),)


def play(client: EngineClient, path: Path, *asked: Generate) -> list[tuple[str, str, Done]]:
    """Thought, answer and end of each generation."""
    list(client.load(Load(str(path), Settings(n_ctx=512, use_extra_bufts=False), 1)))
    results = []
    for request in asked:
        parts, done = list[Part](), None
        n_told = 0
        for event in client.generate(request):
            if isinstance(event, Text):
                n_told += event.n_tokens
                parts.append(Part(event.text, event.thought))
            elif isinstance(event, WasThought):
                parts.append(Part("", thought=False, moved=True))
            elif isinstance(event, Done):
                done = event
        assert done is not None
        assert n_told <= done.n_decoded
        results.append((*joined(parts), done))
    return results


@pytest.mark.parametrize(
    "name",
    [
        "Magistral", "Harmony with a preamble", "Gemma 4", "Command", "several blocks",
        "GLM 4.5, DeepSeek V3.1",
    ],
)  # fmt: skip
def test_the_families_in_the_engine(client: EngineClient, tmp_path: Path, name: str) -> None:
    """The same tokens from a loaded model: control tokens reach the splitter, and what ends a
    section does not end the answer."""
    family = FAMILIES[name]
    path = scripted_model(
        tmp_path / "m.gguf", family.says, family.template, end=family.end, beside=family.beside
    )
    ((thought, answer, done),) = play(client, path, Generate(HI, Sampling(max_tokens=60)))
    assert (thought, answer, done.reason) == (family.thought, family.answer, "end")
    assert done.n_decoded == len(family.says)
    assert 0 < done.thought_seconds <= done.decode_seconds


def test_a_thought_that_is_cut_stays_one_and_goes_on(client: EngineClient, tmp_path: Path) -> None:
    """With max_tokens inside it; then the model goes on in it, and in its answer."""
    family = FAMILIES["GLM 4.5, DeepSeek V3.1"]
    path = scripted_model(tmp_path / "m.gguf", family.says, family.template)
    cut = Sampling(max_tokens=1)
    said = Message("assistant", "", THOUGHT)
    first, rest = play(
        client,
        path,
        Generate(HI, cut),
        Generate((*HI, said), Sampling(), continue_last=True),
    )
    assert first[:2] == (THOUGHT, "")
    assert first[2].reason == "max_tokens"
    assert rest[1] == ANSWER
