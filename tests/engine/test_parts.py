"""The engine's parts that need no model: templates, answer text, log lines."""

from __future__ import annotations

import itertools
import subprocess
import sys
from contextlib import closing
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tuner.engine.answer import Answer, AnswerText
from tuner.engine.log_lines import failure_reason, parse_buffers
from tuner.engine.protocol import Message, Text, WasThought
from tuner.engine.reasoning import Splitter
from tuner.engine.reasoning_marks import marks_of
from tuner.engine.template_process import TemplateProcess
from tuner.engine.template_ways import fold_system, merge_turns
from tuner.engine.templates import BAD_TEMPLATE, CHATML_STOPS, NO_TEMPLATE, ChatTemplate
from tuner.memory.footprint import Buffer

SYSTEM, USER = Message("system", "Be brief."), Message("user", "Hi?")
HELLO, THANKS = Message("assistant", "Hello."), Message("user", "Thanks.")

# The shape of Gemma's and Mistral's templates: no system role, roles must alternate.
STRICT = """{{ bos_token }}{% for m in messages %}
{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}
{{ raise_exception('roles must alternate user/assistant') }}{% endif %}
[{{ m['role'] }}]{{ m['content'] | trim }}{{ eos_token }}{% endfor %}
{% if add_generation_prompt %}[model]{% endif %}"""
DEAF = "{% for m in messages if m.role != 'system' %}[{{ m.role }}]{{ m.content }}{% endfor %}[a]"


@cache  # each is a process
def chat(template: str | None) -> ChatTemplate:
    return ChatTemplate(template, {"bos_token": "<s>", "eos_token": "</s>"})


def test_own_template() -> None:
    """The file's template is used as Transformers would: blocks trimmed, bos and eos known."""
    rendered = chat(STRICT).render([USER, HELLO, THANKS])
    assert rendered.text == "<s>[user]Hi?</s>[assistant]Hello.</s>[user]Thanks.</s>[model]"
    assert rendered.stops == ()


def test_system_message_that_a_template_rejects() -> None:
    """It goes in front of the first user turn instead; nothing the user said is lost."""
    text = chat(STRICT).render([SYSTEM, USER]).text
    assert text == "<s>[user]Be brief.\n\nHi?</s>[model]"


def test_system_message_that_a_template_drops() -> None:
    """A template that ignores a system message without an error is noticed at the start."""
    assert "Be brief." in chat(DEAF).render([SYSTEM, USER]).text


def test_turns_that_do_not_alternate() -> None:
    """Two questions in a row (an answer was lost) reach a strict template as one."""
    text = chat(STRICT).render([USER, THANKS]).text
    assert text == "<s>[user]Hi?\n\nThanks.</s>[model]"


def test_no_template() -> None:
    """ChatML, its stop texts, and a warning."""
    template = chat(None)
    assert template.source == "chatml"
    assert template.warnings == (NO_TEMPLATE,)
    rendered = template.render([SYSTEM, USER])
    assert rendered.text == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi?<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    assert rendered.stops == CHATML_STOPS


@pytest.mark.parametrize(
    "broken",
    [
        "{% for m in messages %}{{ m.content }}",  # no end
        "{{ messages[0].content.no.such.thing }}",
        "{{ raise_exception('never') }}",
        "a template that shows nothing",
        "{{ ''.__class__.__mro__[1].__subclasses__() }}{{ messages[0].content }}",  # the sandbox
    ],
)
def test_broken_template(broken: str) -> None:
    """A template that does not work is replaced by ChatML with a warning that says why."""
    template = chat(broken)
    assert template.source == "chatml"
    assert template.warnings[0].startswith(BAD_TEMPLATE.partition("(")[0])
    assert "<|im_start|>user\nHi?" in template.render([USER]).text


def test_a_template_that_cannot_be_read_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not once for each way in which it could be called."""
    started: list[object] = []
    start = TemplateProcess._start

    def counted(process: TemplateProcess) -> None:
        started.append(process)
        start(process)

    monkeypatch.setattr(TemplateProcess, "_start", counted)
    with closing(ChatTemplate("{% for m in messages %}", {})) as template:
        assert "endfor" in template.warnings[0]
    assert len(started) == 1


def test_template_functions() -> None:
    """What templates use of Transformers' environment: tojson, strftime_now, loop controls,
    the generation tag."""
    text = (
        "{{ strftime_now('%Y') | length }}{% for m in messages %}{% if loop.index > 2 %}{% break %}"
        "{% endif %}{% generation %}{{ m.content | tojson }}{% endgeneration %}{% endfor %}"
    )
    rendered = chat(text).render([Message("user", 'ü"<'), USER, THANKS])
    assert rendered.text == '4"ü\\"<""Hi?"'


@pytest.mark.parametrize("template", [STRICT, None])
def test_continue(template: str | None) -> None:
    """The partial answer stands open at the end, exactly as it was."""
    opening = chat(template).render([USER]).text
    assert Splitter(marks_of(template or "", {}), opening).resumed("", "Hel ") == "Hel "


roles = st.sampled_from(["system", "user", "assistant"])
conversations = st.lists(st.builds(Message, roles, st.text(min_size=1, max_size=8)), max_size=6)


@settings(deadline=None)  # a template's process is started once, which takes a moment
@given(conversations, st.sampled_from([STRICT, DEAF, None, "{{ 1 / 0 }}"]))
def test_no_conversation_breaks_a_template(messages: list[Message], template: str | None) -> None:
    """Whatever the turns, a prompt comes out and no exception."""
    assert isinstance(chat(template).render(messages).text, str)


def test_an_answer_to_nothing() -> None:
    """A conversation that begins with one, system prompt or not, reaches a strict template."""
    for begins in ([HELLO], [SYSTEM, HELLO]):
        rendered = chat(STRICT).render([*begins, THANKS])
        assert rendered.source == "file"
        assert all(message.content in rendered.text for message in begins)


@given(conversations)
def test_folding_loses_nothing(messages: list[Message]) -> None:
    """After folding and merging, every content is still there and roles alternate."""
    merged = merge_turns(fold_system(messages))
    whole = "\n".join(m.content for m in merged)
    assert all(m.content in whole for m in messages)
    assert all(a.role != b.role for a, b in itertools.pairwise(merged))


@given(st.text(max_size=30), st.data())
def test_characters_are_never_cut(text: str, data: st.DataObject) -> None:
    """However the bytes are cut into pieces and batches, the batches join to the text and none
    has a replacement character that the text has not."""
    raw = text.encode("utf-8", "replace")
    whole = raw.decode()
    cuts = sorted(data.draw(st.sets(st.integers(0, len(raw)))) | {0, len(raw)})
    answer, batches = AnswerText(), []
    for a, b in itertools.pairwise(cuts):
        answer.add(raw[a:b])
        batches.append(answer.take())
    batches.append(answer.finish())
    assert "".join(batches) == whole


@given(st.text("<|imendstar_> x", max_size=40), st.lists(st.integers(1, 5), min_size=40))
def test_stop_texts_are_never_shown(text: str, lengths: list[int]) -> None:
    """What is shown is the text up to the first stop text, whatever pieces it came in, and
    text that only looked like one is not lost."""
    text = text[:20] + "<|im_end|>" + text[20:] if len(text) > 25 else text
    answer, shown, rest = AnswerText(CHATML_STOPS), "", text
    for length in lengths:
        piece, rest = rest[:length], rest[length:]
        answer.add(piece.encode())
        shown += answer.take()
        assert not any(stop in shown for stop in CHATML_STOPS)
    answer.add(rest.encode())
    shown += answer.finish()
    ends = [text.index(stop) for stop in CHATML_STOPS if stop in text]
    assert shown == text[: min(ends, default=len(text))]
    assert answer.stopped == bool(ends)


@given(
    st.text("ab\n .é", max_size=30),
    st.text("ab\n .é", max_size=40),
    st.lists(st.sampled_from(["a", "ab", "\n\n", "b.a", "aa b", "é"]), min_size=1, max_size=3),
    st.lists(st.integers(1, 7), max_size=30),
)
def test_what_ends_an_answer_ends_no_thought(
    thought: str, said: str, stops: list[str], lengths: list[int]
) -> None:
    """The answer is cut exactly at the first stop text, wherever tokens begin and end; the thought
    before it is whole, whatever is in it."""

    def played(answer: Answer) -> tuple[str, str]:
        rest = f"<think>{thought}</think>{said}".encode()
        events: list[Text | WasThought] = []
        for length in [*lengths, len(rest)]:
            piece, rest = rest[:length], rest[length:]
            if not answer.ended:
                answer.add(piece)
                events += answer.take()
        texts = [event for event in (*events, *answer.finish()) if isinstance(event, Text)]
        thoughts, answers = (
            "".join(e.text for e in texts if e.thought is kind) for kind in (True, False)
        )
        return thoughts, answers

    marks = marks_of("<think>", {})
    whole_thought, whole = played(Answer(Splitter(marks)))
    ended = Answer(Splitter(marks), answer_stops=stops)
    ends = [whole.index(stop) for stop in stops if stop in whole]
    assert played(ended) == (whole_thought, whole[: min(ends, default=len(whole))])
    assert ended.ended == bool(ends)


@given(
    st.lists(st.sampled_from(["<think>", "</think>", "a", " b", "\n\n", "<", "é。"]), max_size=9),
    st.lists(st.tuples(st.integers(1, 6), st.booleans()), min_size=30),
    st.sampled_from([(), ("\n\n",), ("a b", "é。")]),
    st.booleans(),
)
def test_tokens_that_wait_are_as_if_they_were_read(
    said: list[str], cuts: list[tuple[int, bool]], stops: tuple[str, ...], thinks: bool
) -> None:
    """However seldom an answer is asked for what is new: after each token it is where it would be
    otherwise, and what it tells comes to the same."""
    marks = marks_of("<think>" if thinks else "", {})
    read, waits = (Answer(Splitter(marks), stops, stops) for _ in range(2))
    told: tuple[list[Text | WasThought], list[Text | WasThought]] = [], []
    rest = "".join(said).encode()
    for length, taken in cuts:
        piece, rest = rest[:length], rest[length:]
        if not read.ended:
            read.add(piece)
            waits.add(piece)
            told[0].extend(read.take())
            told[1].extend(waits.take() if taken else ())
            assert (waits.thinking, waits.answering) == (read.thinking, read.answering)
            assert (waits.ended, waits.n_tokens) == (read.ended, read.n_tokens)
    assert _joined([*told[1], *waits.finish()]) == _joined([*told[0], *read.finish()])


def _joined(events: list[Text | WasThought]) -> list[tuple[bool | None, str]]:
    """The texts of a kind that follow each other as one."""
    kinds = itertools.groupby(events, lambda e: e.thought if isinstance(e, Text) else None)
    return [(kind, "".join(getattr(e, "text", "-") for e in of)) for kind, of in kinds]


def test_unfinished_character() -> None:
    """An answer cut off inside a character ends in U+FFFD, not in an exception."""
    answer = AnswerText()
    answer.add("é".encode()[:1])
    assert answer.take() == ""
    assert answer.finish() == "\ufffd"


LINES = """
load_tensors:   CPU_Mapped model buffer size =    52.00 MiB
load_tensors:        CUDA0 model buffer size =    92.10 MiB
llama_context:        CPU  output buffer size =     0.19 MiB
llama_kv_cache:      CUDA0 KV buffer size =    45.00 MiB
llama_kv_cache:      CUDA0 KV buffer size =     5.50 MiB
llama_memory_recurrent:      CUDA0 RS buffer size =    18.57 MiB
sched_reserve:      CUDA0 compute buffer size =    90.00 MiB
sched_reserve:      CUDA0 compute buffer size =   130.50 MiB
sched_reserve:  CUDA_Host compute buffer size =     1.26 MiB
""".splitlines()


def test_buffers_of_the_log() -> None:
    """Each line becomes a buffer: a window's cache is added to the full one, a compute buffer
    reserved again replaces the first."""
    mib = 1 << 20
    assert parse_buffers(LINES) == (
        Buffer("CPU_Mapped", "weights", 52 * mib),
        Buffer("CUDA0", "weights", round(92.1 * mib)),
        Buffer("CPU", "output", round(0.19 * mib)),
        Buffer("CUDA0", "kv_cache", round(50.5 * mib)),
        Buffer("CUDA0", "recurrent_state", round(18.57 * mib)),
        Buffer("CUDA0", "compute", round(130.5 * mib)),
        Buffer("CUDA_Host", "compute", round(1.26 * mib)),
    )


@pytest.mark.parametrize(
    ("lines", "kind", "text"),
    [
        (
            [
                "ggml_backend_cuda_buffer_type_alloc_buffer: allocating 4096.00 MiB on device 0: "
                "cudaMalloc failed: out of memory\n",
                "alloc_tensor_range: failed to allocate CUDA0 buffer of size 4294967296\n",
                "llama_model_load: error loading model: unable to allocate CUDA0 buffer\n",
                "llama_model_load_from_file_impl: failed to load model\n",
            ],
            "out_of_memory",
            "allocating 4096.00 MiB on device 0: cudaMalloc failed: out of memory",
        ),
        (
            [
                "llama_init_from_model: model does not support different K (f16) and V (q8_0) "
                "cache types\n"
            ],
            "refused",
            "model does not support different K (f16) and V (q8_0) cache types",
        ),
        (
            [
                "llama_model_load: error loading model: missing tensor 'output_norm.weight'\n",
                "llama_model_load_from_file_impl: failed to load model\n",
            ],
            "",
            "error loading model: missing tensor 'output_norm.weight'",
        ),
        ([], "", ""),
    ],
    ids=["memory", "refusal", "file", "silence"],
)
def test_failure_reason(lines: list[str], kind: str, text: str) -> None:
    """The line that says why is found among those that only say that."""
    reason = failure_reason(lines)
    assert (reason.kind, reason.text) == (kind, text)


def test_the_engine_comes_without_the_rest_of_its_package() -> None:
    """Which whoever else asks for it has whole."""
    code = (
        "import sys, tuner.engine.service\n"
        "assert not {'llama_cpp', 'llama_cpp.llama', 'jinja2'} & sys.modules.keys()\n"
        "import llama_cpp\n"
        "from tuner.engine.bindings import llama_cpp as bound\n"
        "assert llama_cpp.Llama and llama_cpp.llama_cpp is bound"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
