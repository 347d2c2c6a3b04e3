"""llama.cpp's samplers: which are in the chain, in which order, and that they change an answer."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.gguf_files import ARRAY, INT32, Typed
from tests.support.native import vocabulary
from tests.support.scripted_model import Said, scripted_model
from tuner.demo import demo_model_path
from tuner.engine.client import EngineClient
from tuner.engine.llama import LlamaError
from tuner.engine.protocol import AnswerEvent, Done, Generate, Load, Message, Notice, Text
from tuner.engine.sampler import SLOW, STUCK, Sampler
from tuner.errors import UsageError
from tuner.grammars.json_schema import grammar_of
from tuner.sampling import FORBIDDEN, LogitBias, Sampling
from tuner.settings import Settings

SETTINGS = Settings(n_ctx=512, n_ubatch=64, use_extra_bufts=False)
DRUM = (Message("user", "Drum."), Message("assistant", "boom tap" + " boom tap" * 12))  # goes on so
ASKED = "{% for m in messages %}{{ m.content }}{% endfor %}"
FIRST_SAID = 3 + 256  # the number of the first token that a scripted model says
EVERYTHING = Sampling(
    temperature=0.9, typical_p=0.9, top_n_sigma=2.0, xtc_probability=0.5, dynatemp_range=0.1,
    repeat_penalty=1.1, dry_multiplier=0.8, logit_bias=(LogitBias(5, 1.0),), seed=1,
)  # fmt: skip


def chain(sampling: Sampling) -> tuple[str, ...]:
    sampler = Sampler(vocabulary(), sampling, 512, prompt=[1, 2, 3])
    try:
        return sampler.names
    finally:
        sampler.close()


@pytest.mark.parametrize(
    ("sampling", "names"),
    [
        (Sampling(), ("top-k", "top-p", "min-p", "temp-ext", "dist")),
        (Sampling(temperature=1, top_k=0, top_p=1, min_p=0), ("dist",)),
        (Sampling(temperature=0), ("greedy",)),
        (EVERYTHING, ("logit-bias", "penalties", "dry", "top-n-sigma", "top-k", "typical", "top-p",
                      "min-p", "xtc", "temp-ext", "dist")),
        (Sampling(temperature=0, repeat_penalty=1.1, xtc_probability=1, xtc_threshold=0.1),
         ("penalties", "xtc", "greedy")),
        (Sampling(repeat_penalty=1.1, repeat_last_n=0), ("top-k", "top-p", "min-p", "temp-ext",
                                                         "dist")),
        (Sampling(samplers=("temperature", "top_k")), ("temp-ext", "top-k", "dist")),
        (Sampling(mirostat=1), ("temp", "mirostat")),
        (Sampling(mirostat=2, logit_bias=(LogitBias(1, 1),)), ("logit-bias", "temp",
                                                              "mirostat-v2")),
        (Sampling(mirostat=2, temperature=0), ("greedy",)),
    ],
)  # fmt: skip
def test_the_chain_is_llama_cpp_s(sampling: Sampling, names: tuple[str, ...]) -> None:
    """In its order, and what is off is not there."""
    assert chain(sampling) == names


def test_nothing_looks_further_back_than_the_context() -> None:
    """Two thousand million tokens would be eight GiB of memory."""
    far = Sampling(repeat_penalty=1.1, repeat_last_n=2**31 - 1, dry_multiplier=1,
                   dry_penalty_last_n=2**31 - 1)  # fmt: skip
    assert {"penalties", "dry"} <= set(chain(far))


def test_a_token_that_there_is_not() -> None:
    with pytest.raises(LlamaError, match="names the token 99999999") as error:
        chain(Sampling(logit_bias=(LogitBias(99_999_999, 1),)))
    assert error.value.kind == "usage"


# ------------------------------------------------------------------ answers


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineClient]:
    """The demo model, loaded once."""
    with EngineClient(tmp_path_factory.mktemp("log") / "engine.log") as client:
        list(client.load(Load(str(demo_model_path()), SETTINGS, 1)))
        yield client


def answer(client: EngineClient, n: int = 8, **values: Any) -> list[AnswerEvent]:
    values = {"temperature": 0.0, "max_tokens": n, **values}
    return list(client.generate(Generate(DRUM, Sampling(**values), continue_last=True)))


@pytest.fixture(scope="module")
def plain(client: EngineClient) -> str:
    """What the likeliest tokens say."""
    return text_of(answer(client))


def text_of(events: list[AnswerEvent]) -> str:
    return "".join(event.text for event in events if isinstance(event, Text))


def done_of(events: list[AnswerEvent]) -> Done:
    assert isinstance(events[-1], Done)
    return events[-1]


@pytest.mark.parametrize(
    "values",
    [
        {"repeat_penalty": 2.0}, {"presence_penalty": 5.0}, {"frequency_penalty": 5.0},
        {"dry_multiplier": 5.0, "dry_allowed_length": 1, "dry_sequence_breakers": ()},
        {"xtc_probability": 1.0, "xtc_threshold": 0.01, "seed": 1},
        {"mirostat": 2, "temperature": 1.5, "seed": 1}, {"mirostat": 1, "temperature": 1.5},
        {"typical_p": 0.1},
    ],
    ids=lambda v: next(iter(v)),
)  # fmt: skip
def test_a_sampler_changes_the_answer(
    client: EngineClient, plain: str, values: dict[str, Any]
) -> None:
    """Any of these makes it another one."""
    assert text_of(answer(client, **values)) not in ("", plain)


def test_a_seed_draws_the_same_again(client: EngineClient) -> None:
    """Also where two samplers draw."""
    wild: dict[str, Any] = {"temperature": 1.5, "xtc_probability": 0.5, "seed": 3}
    assert text_of(answer(client, **wild)) == text_of(answer(client, **wild))


def test_penalties_look_back_into_the_prompt(client: EngineClient) -> None:
    """As in llama.cpp: what was said before counts as said, from the first token on."""
    assert text_of(answer(client, 1)) == " boom"
    assert text_of(answer(client, 1, presence_penalty=50.0)) not in ("", " boom")


def test_a_forbidden_token_is_never_said(client: EngineClient) -> None:
    """The most frequent first token of an answer, forbidden: another begins it."""
    first = text_of(answer(client, 1))
    (token,) = vocabulary().tokenize(first)
    other = text_of(answer(client, 1, logit_bias=(LogitBias(token, FORBIDDEN),)))
    assert other
    assert other != first
    (liked,) = vocabulary().tokenize(" green")
    events = answer(client, 3, logit_bias=(LogitBias(liked, 1000.0),))
    assert text_of(events) == " green" * 3


def test_stop_texts_cut_exactly(client: EngineClient, plain: str) -> None:
    """Every stop text of the answer ends it there, wherever tokens begin and end; one that is no
    part of it ends nothing."""
    for start, length in ((5, 1), (9, 3), (13, 7)):
        stop = plain[start : start + length]
        events = answer(client, stop=("no such text", stop))
        assert text_of(events) == plain[: plain.index(stop)]
        assert done_of(events).reason == "end"
    assert text_of(answer(client, stop=("no such text",))) == plain


@pytest.fixture(scope="module")
def another(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineClient]:
    """A process for other models."""
    with EngineClient(tmp_path_factory.mktemp("log") / "engine.log") as client:
        yield client


def test_tokens_that_the_file_suppresses(tmp_path: Path, another: EngineClient) -> None:
    """tokenizer.ggml.suppress_tokens is heeded: what the model would say is not said."""
    said = []
    for suppressed in ([], [FIRST_SAID]):
        keys = {"tokenizer.ggml.suppress_tokens": Typed(suppressed, ARRAY, INT32)}
        path = scripted_model(tmp_path / "m.gguf", (("yes", "n"), (" sir", "n")), ASKED,
                              metadata=keys)  # fmt: skip
        list(another.load(Load(str(path), SETTINGS, 1)))
        asked = Generate(DRUM[:1], Sampling(temperature=0, max_tokens=1))
        said.append(text_of(list(another.generate(asked))))
    assert said[0] == "yes"
    assert said[1] != "yes"


# ------------------------------------------------------------------ grammars


def test_an_answer_by_a_schema_is_json(client: EngineClient) -> None:
    """What comes is JSON of the schema, at any temperature, and ends where it is complete."""
    schema = {
        "type": "object",
        "properties": {"word": {"enum": ["one", "two"]}, "n": {"type": "integer", "minimum": 1,
                                                              "maximum": 99}},
        "required": ["word", "n"],
    }  # fmt: skip
    for seed in (1, 2):
        events = answer(
            client, 60, temperature=3.0, top_k=0, top_p=1.0, min_p=0.0, seed=seed,
            grammar=grammar_of(schema),
        )  # fmt: skip
        found = json.loads(text_of(events))
        assert found.keys() == {"word", "n"}
        assert found["word"] in ("one", "two")
        assert 1 <= found["n"] <= 99
        assert done_of(events).reason == "end"
        assert not any(isinstance(e, Notice) for e in events)


def test_a_grammar_of_few_words(client: EngineClient) -> None:
    assert text_of(answer(client, grammar='root ::= "yes" | "no"')) in ("yes", "no")


def test_what_looks_like_a_mark_is_none_of_a_model_that_does_not_think(
    client: EngineClient,
) -> None:
    (token,) = vocabulary().tokenize("<")
    liked = (LogitBias(token, 1000.0),)
    assert text_of(answer(client, 8, grammar='root ::= "yes"', logit_bias=liked)) == "yes"


def test_a_grammar_that_leads_nowhere_ends_the_answer(client: EngineClient) -> None:
    """Its next token is forbidden: a word says so, and the model lives."""
    forbidden = (LogitBias(49151, FORBIDDEN),)
    events = answer(client, 8, grammar='root ::= "a" <[49151]> "b"', logit_bias=forbidden)
    assert text_of(events) == "a"
    assert [e.text for e in events if isinstance(e, Notice)] == [STUCK]
    assert done_of(events).reason == "end"
    assert text_of(answer(client, 2))


def test_a_grammar_whose_readings_double_ends_the_answer(client: EngineClient) -> None:
    """Before they fill the memory."""
    (x,) = vocabulary().tokenize("x")
    events = answer(
        client, 40, grammar='root ::= "x" root "a" | "x" root "b" | "y"',
        logit_bias=(LogitBias(x, 1000.0),),
    )  # fmt: skip
    assert [e.text for e in events if isinstance(e, Notice)] == [SLOW]
    assert done_of(events).n_decoded < 20
    assert text_of(answer(client, 2))


def test_a_grammar_that_is_over_ends_the_answer(client: EngineClient) -> None:
    """Without a word, also where nothing had to be said."""
    for grammar, said in (('root ::= ""', ""), ('root ::= "yes" [\\U0010FFFE] | "yes"', "yes")):
        events = answer(client, 8, grammar=grammar, logit_bias=(LogitBias(0, FORBIDDEN),))
        assert text_of(events).startswith(said)
        assert not any(isinstance(e, Notice) for e in events)
        assert done_of(events).reason == "end"


def test_a_grammar_that_the_engine_does_not_understand(client: EngineClient) -> None:
    """An error of its own kind, and the next answer comes."""
    with pytest.raises(UsageError, match="does not understand the grammar"):
        answer(client, grammar="root ::= (")
    assert text_of(answer(client, 2))


# ------------------------------------------------------------------ thoughts

THINKS = (
    ("<think>", "c"), ("Yes", "n"), (" or", "n"), (" no", "n"), ("</think>", "c"), ("yes", "n"),
    (" sir", "n"),
)  # fmt: skip
HARMONY = (
    ("<|channel|>", "c"), ("analysis", "n"), ("<|message|>", "c"), ("Hm", "n"), ("<|end|>", "c"),
    ("<|start|>", "c"), ("assistant", "n"), ("<|channel|>", "c"), ("final", "n"),
    ("<|message|>", "c"), ("yes", "n"), (" sir", "n"),
)  # fmt: skip


@pytest.mark.parametrize(
    ("says", "template", "thought"),
    [
        (THINKS, ASKED + "{# <think> #}", "Yes or no"),  # the model opens its thought itself,
        (THINKS[1:], ASKED + "<think>\n", "Yes or no"),  # or the prompt does
        (HARMONY, ASKED + "<|start|>assistant{# <|channel|>analysis<|message|> #}", "Hm"),
    ],
    ids=["think", "opened", "Harmony"],
)
def test_a_grammar_and_stop_texts_are_for_the_answer(
    tmp_path: Path, another: EngineClient, says: Said, template: str, thought: str
) -> None:
    """A thought is written freely, whatever is in it; the answer is not."""
    path = scripted_model(tmp_path / "m.gguf", says, template, end="<|return|>")
    list(another.load(Load(str(path), SETTINGS, 1)))

    def parts(**values: Any) -> tuple[str, str]:
        sampling = Sampling(temperature=0, max_tokens=30, **values)
        events = list(another.generate(Generate((Message("user", "Go"),), sampling)))
        assert done_of(events).reason == "end"
        texts = [e for e in events if isinstance(e, Text)]
        thoughts, answers = (
            "".join(e.text for e in texts if e.thought is kind) for kind in (True, False)
        )
        return thoughts, answers

    assert parts() == (thought, "yes sir")
    assert parts(grammar='root ::= "yes"') == (thought, "yes")
    assert parts(grammar='root ::= "no" | "yes s"') == (thought, "yes s")
    assert parts(stop=("or", "Hm", "s sir")) == (thought, "ye")
