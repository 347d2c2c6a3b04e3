"""The command line of `kvchat`: flags, their help, and what they mean as wishes."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NoReturn

from tui.command import habits, sampling_flags
from tui.command.numbers import number, whole
from tui.keymap import Keymap
from tui.when_full import ASK, WHEN_FULL, Way
from tuner.errors import UsageError
from tuner.machine.stated_gpus import parse_gpus
from tuner.memory.cache_types import CACHE_TYPES, cache_type
from tuner.model.chat_templates import CHATML, MAX_TEMPLATE, TemplateChoice
from tuner.private_files import read_bounded, why
from tuner.report.emit.programs import PROGRAMS
from tuner.settings import ALL_LAYERS, MAX_UBATCH
from tuner.settings import MAX_CONTEXT as LONGEST_CONTEXT
from tuner.units import parse_rate, parse_size, parse_tokens
from tuner.wishes import PREFERENCES, THINK_LEVELS, Rebalance, StatedGpu, Wishes

MAX_CONTEXT = "max"
READING_WIDTH = 100  # columns: longer lines are hard to read
LEAST_WIDTH, MOST_WIDTH = 20, 1000
MOST_CORES = 4096
LEAST_IDLE, MOST_IDLE = 0.1, 1e5  # minutes
OFF = "off"


class _Parser(argparse.ArgumentParser):
    """Reports a wrong command line as one sentence instead of a usage dump."""

    def parse_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: None = None
    ) -> argparse.Namespace:
        found, unknown = self.parse_known_args(args, namespace)
        if unknown:
            self.error(habits.meant(unknown) or f"unrecognized arguments: {' '.join(unknown)}")
        return found

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message} (kvchat --help lists what there is).")


def parser() -> argparse.ArgumentParser:
    p = _Parser(
        prog="kvchat",
        description="Chat with a local GGUF model, loaded the best way that this machine's "
        "memory allows right now.",
        epilog=f"In the chat, {Keymap().welcome()} "
        "Exit status: 0 done, 2 wrong usage, 3 the file cannot be used, 4 nothing fits, "
        "5 the engine failed, 130 interrupted.",
        allow_abbrev=False,
    )
    p.add_argument(
        "models",
        nargs="*",
        metavar="MODEL",
        help="a .gguf file, or parts of one (several models: --explain)",
    )
    p.add_argument("--demo", action="store_true", help="use the embedded demo model")
    p.add_argument("--version", action="store_true", help="print the version and end")

    g = p.add_argument_group("what to do instead of opening the chat")
    g.add_argument("-p", "--prompt", metavar="TEXT", help="answer TEXT on stdout and end")
    g.add_argument("--explain", action="store_true", help="print the fit report and end")
    g.add_argument(
        "--bench",
        action="store_true",
        help="load the plan, time it, and print what was predicted beside what came, as a table "
        "and as a line of JSON without anything personal",
    )
    g.add_argument("--thorough", action="store_true", help="with --bench: two other plans as well")
    g.add_argument(
        "--emit",
        metavar="PROGRAM",
        help=f"print the plan as another program takes it, and end: {', '.join(PROGRAMS)}",
    )
    g.add_argument(
        "--measure",
        action="store_true",
        help="measure what each pair of cache types costs this model in quality, and plan by that "
        "from now on",
    )
    g.add_argument("--text", metavar="FILE", help="with --measure: the text that is read")
    g.add_argument("--tokens", metavar="N", help="with --measure: how many tokens of it (512)")
    g.add_argument(
        "--compare-log",
        metavar="FILE",
        help="hold the memory that kvchat predicts against a log of llama.cpp (llama-server, "
        "ollama, LM Studio, llama-cpp-python), and end; wishes stand in for what it does not say",
    )
    g.add_argument(
        "--show-prompt",
        action="store_true",
        help="print what the model would be sent for -p TEXT, for the conversation of --resume, or "
        "for a sample, and end; the weights are not read",
    )
    g.add_argument(
        "--json",
        action="store_true",
        help="with --explain: one JSON object per file; with --show-prompt: one with the tokens; "
        "with --bench: its line alone; with --measure and --compare-log: one object",
    )
    g.add_argument(
        "--verify", action="store_true", help="with --explain: let the engine verify the memory"
    )
    g.add_argument("--profiles", action="store_true", help="list the saved profiles")
    g.add_argument("--forget", metavar="MODEL", help="remove the profile of a model (name or file)")
    g.add_argument(
        "--forget-machine", action="store_true", help="forget what loads taught of this machine"
    )

    g = p.add_argument_group("wishes, each kept exactly; the rest is solved around them")
    g.add_argument("--ctx", metavar="N", help="context in tokens: 16384, 32k or max")
    g.add_argument("--kv", metavar="TYPE", help="type of both K and V cache")
    g.add_argument("--type-k", metavar="TYPE", help=f"K cache: {', '.join(CACHE_TYPES)}")
    g.add_argument("--type-v", metavar="TYPE", help="V cache, likewise")
    g.add_argument("--gpu-layers", metavar="N", help="layers on the GPU (99 or all: every one)")
    g.add_argument("--n-cpu-moe", metavar="N", help="layers whose experts stay in RAM")
    g.add_argument("--ubatch", metavar="N", help="tokens per compute batch (n_ubatch)")
    g.add_argument("--tensor-split", metavar="A,B", help="shares of the layers per GPU, like 3,1")
    g.add_argument("--flash-attn", metavar="on|off|auto", help="flash attention (on)")
    g.add_argument("--reserve", metavar="SIZE", help="bytes kept free on each GPU (512MiB)")
    g.add_argument("--prefer", metavar="|".join(PREFERENCES), help="what matters most (balanced)")

    g = p.add_argument_group("the machine, stated instead of measured")
    g.add_argument(
        "--gpu",
        metavar="NAME[:SIZE]",
        action="append",
        help='plan for these cards: "RTX 3090", "RTX 3090,RTX 3060:12GiB", "M4 Pro:48GiB" (its '
        "RAM), or none",
    )
    g.add_argument(
        "--vram",
        metavar="SIZE",
        action="append",
        help="plan for GPUs of which only the size is known, like 24GiB or 24GiB,12GiB",
    )
    g.add_argument("--ram", metavar="SIZE", help="plan for this much RAM")
    g.add_argument("--ram-bandwidth", metavar="RATE", help="plan for RAM as fast as 89.6GB/s")
    g.add_argument("--cores", metavar="N", help="plan for a CPU with N cores")
    g.add_argument(
        "--rpc",
        metavar="HOST:PORT",
        action="append",
        default=[],
        help="also use what this RPC server of llama.cpp has (docs/rpc.md); may be repeated",
    )
    g.add_argument(
        "--threads", metavar="N", help="CPU threads, always (physical cores that are free)"
    )
    g.add_argument("--no-profile", action="store_true", help="neither read nor write profiles")

    g = p.add_argument_group("the conversation")
    g.add_argument(
        "--choose",
        action="store_true",
        help="choose context, cache types and layers in the fit explorer before a load",
    )
    g.add_argument(
        "--plain",
        action="store_true",
        help="chat in lines, without a screen that is drawn: for screen readers, and terminals "
        "that take no more (TERM=dumb)",
    )
    g.add_argument(
        "--resume", metavar="ID", nargs="?", const="latest", help="go on with a saved conversation"
    )
    g.add_argument("--system", metavar="TEXT", help="system prompt")
    g.add_argument(
        "--width", metavar="COLUMNS", help=f"columns that text takes at most ({READING_WIDTH})"
    )
    g.add_argument(
        "--when-full",
        metavar="|".join(WHEN_FULL),
        help="in a full context: ask what to do, let the oldest turns go, summarise them, or load "
        f"a larger context ({ASK})",
    )
    g.add_argument(
        "--keep-states",
        metavar="SIZE",
        help="disk for what the model has read of conversations, so that one that is opened again "
        "need not be read again: some 10 to 300 KiB for each token, the longest unused goes first; "
        "off: none, and what there is is removed (4.0 GiB, or a tenth of the free disk)",
    )
    g.add_argument(
        "--rebalance",
        metavar="|".join(mode.value for mode in Rebalance),
        help="where other programs take memory while the model is loaded: only say so, load a "
        "smaller plan between answers, or also a better one when it is back (shrink)",
    )
    g.add_argument(
        "--idle-unload",
        metavar="MINUTES",
        help="let the model's memory go where nothing was asked for so long; the next message "
        "brings it back (off)",
    )
    g.add_argument(
        "--think",
        metavar="|".join(THINK_LEVELS),
        help="how much the model thinks, as far as its chat template lets one choose; kept for the "
        "next time",
    )
    g.add_argument(
        "--chat-template",
        metavar="NAME|FILE",
        help="another chat template: one of the file's by name, a Jinja file, or chatml",
    )
    g.add_argument(
        "--show-thinking",
        action="store_true",
        help="with -p: what the model thinks, on the error output; with --plain: before the answer",
    )
    g = p.add_argument_group(sampling_flags.TITLE)
    sampling_flags.add(g)
    return p


def wishes(args: argparse.Namespace) -> Wishes:
    """The wishes that the flags state. Raises UsageError for a value that makes no sense."""
    if args.kv and (args.type_k or args.type_v):
        raise UsageError("--kv sets both cache types; use it or --type-k and --type-v.")
    max_ctx = (args.ctx or "").lower() == MAX_CONTEXT
    n_ctx = None if max_ctx or args.ctx is None else parse_tokens(args.ctx)
    if n_ctx is not None and n_ctx < 1:
        raise UsageError("--ctx must be at least 1 token; write one like 16384, 32k or max.")
    if n_ctx is not None and n_ctx > LONGEST_CONTEXT:
        raise UsageError(
            f"--ctx can be {LONGEST_CONTEXT:,} tokens at most: the engine counts no further."
        )
    n_gpu_layers = None
    if args.gpu_layers is not None:
        everything = args.gpu_layers.lower() == "all"
        n_gpu_layers = ALL_LAYERS if everything else whole("--gpu-layers", args.gpu_layers, 0)
    return Wishes(
        n_ctx=n_ctx,
        max_ctx=max_ctx,
        type_k=_cache_type("--kv" if args.kv else "--type-k", args.type_k or args.kv),
        type_v=_cache_type("--kv" if args.kv else "--type-v", args.type_v or args.kv),
        n_gpu_layers=n_gpu_layers,
        n_cpu_moe=None if args.n_cpu_moe is None else whole("--n-cpu-moe", args.n_cpu_moe, 0),
        n_ubatch=None if args.ubatch is None else whole("--ubatch", args.ubatch, 1, MAX_UBATCH),
        tensor_split=_split(args.tensor_split),
        flash_attn=_one_of("--flash-attn", args.flash_attn, ("on", "off", "auto")),
        prefer=_one_of("--prefer", args.prefer, PREFERENCES) or "balanced",
    )


def emit(args: argparse.Namespace) -> str | None:
    """The program that the plan is to be written for. Raises UsageError."""
    return _one_of("--emit", args.emit and args.emit.lower(), PROGRAMS)


def reading_width(args: argparse.Namespace) -> int:
    """The columns that the chat's text takes at most. Raises UsageError."""
    if args.width is None:
        return READING_WIDTH
    return whole("--width", args.width, LEAST_WIDTH, MOST_WIDTH)


def when_full(args: argparse.Namespace) -> Way | None:
    """How room is made in a full context without asking. Raises UsageError."""
    stated = args.when_full and args.when_full.lower()
    return WHEN_FULL[_one_of("--when-full", stated, tuple(WHEN_FULL)) or ASK]


def rebalance(args: argparse.Namespace) -> Rebalance:
    """What is done where other programs take memory. Raises UsageError."""
    names = tuple(mode.value for mode in Rebalance)
    stated = _one_of("--rebalance", args.rebalance and args.rebalance.lower(), names)
    return Rebalance(stated) if stated else Rebalance.SHRINK


def keep_states(args: argparse.Namespace) -> int | None:
    """Bytes on the disk for what was read of conversations; None: as usual. Raises UsageError."""
    if args.keep_states is None:
        return None
    return 0 if args.keep_states.lower() == OFF else parse_size(args.keep_states, "--keep-states")


def idle_seconds(args: argparse.Namespace) -> float | None:
    """After which the model's memory is let go; None: it is not. Raises UsageError."""
    if args.idle_unload is None or args.idle_unload.lower() == OFF:
        return None
    return 60 * number("--idle-unload", args.idle_unload, LEAST_IDLE, MOST_IDLE)


def think(args: argparse.Namespace) -> str:
    """The level of thinking that is asked for; "" for none. Raises UsageError."""
    return _one_of("--think", args.think and args.think.lower(), THINK_LEVELS) or ""


def template_file(args: argparse.Namespace, choice: TemplateChoice) -> str:
    """The file that the chosen template was read from; "" for none."""
    return os.path.abspath(args.chat_template) if choice.source else ""


def chat_template(text: str | None, templates: Mapping[str, str]) -> TemplateChoice:
    """The template that is asked for; `templates`: the file's own. Raises UsageError."""
    if text is None:
        return TemplateChoice()
    if text in templates:
        return TemplateChoice(text)
    if text.lower() == CHATML:
        return TemplateChoice(CHATML)
    try:
        source = read_bounded(Path(text), MAX_TEMPLATE).decode("utf-8")
    except (OSError, ValueError) as error:
        own = f"a template of the model ({', '.join(templates)}), " if templates else ""
        said = why(error) if isinstance(error, OSError) else "it is no text"
        raise UsageError(
            f"--chat-template takes {own}a Jinja file or {CHATML}; '{text}' is none of these and "
            f"cannot be read ({said})."
        ) from None
    if len(source) > MAX_TEMPLATE or not source.strip():
        wrong = "is empty" if not source.strip() else f"has more than {MAX_TEMPLATE:,} characters"
        raise UsageError(f"--chat-template {text} {wrong}, so it is no template.")
    return TemplateChoice(source=source)


def threads(args: argparse.Namespace) -> int | None:
    """CPU threads, no more than the machine has, be it this one or, for a plan alone, one with
    `--cores`; more would only wait for each other. Raises UsageError."""
    if args.threads is None:
        return None
    stated = cores(args.cores) if args.explain or args.emit else None
    count, most = whole("--threads", args.threads, 1), stated or os.cpu_count() or 1
    if count > most:
        whose = "the stated cores" if stated else "this machine's logical cores"
        raise UsageError(f"--threads can be 1 to {most}, {whose}.")
    return count


def gpus(args: argparse.Namespace) -> tuple[StatedGpu, ...] | None:
    """The GPUs of `--gpu` or `--vram`, each given several times or with commas; None where neither
    is. Raises UsageError."""
    if args.gpu is not None and args.vram is not None:
        raise UsageError("--gpu and --vram both say which GPUs there are; use one of them.")
    if args.gpu is not None:
        return parse_gpus(args.gpu, None if args.ram is None else parse_size(args.ram, "--ram"))
    if args.vram is not None:
        sizes = [parse_size(part, "--vram") for value in args.vram for part in value.split(",")]
        return tuple(StatedGpu(size) for size in sizes if size)
    return None


def ram_bandwidth(text: str | None) -> float | None:
    """Bytes/s of `--ram-bandwidth`. Raises UsageError."""
    return None if text is None else parse_rate("--ram-bandwidth", text)


def cores(text: str | None) -> int | None:
    """Physical cores of `--cores`. Raises UsageError."""
    return None if text is None else whole("--cores", text, 1, MOST_CORES)


def _cache_type(flag: str, name: str | None) -> str | None:
    return name and cache_type(flag, name)


def _one_of(flag: str, value: str | None, choices: tuple[str, ...]) -> str | None:
    if value is not None and value not in choices:
        raise UsageError(f"{flag} takes one of {', '.join(choices)}, not '{value}'.")
    return value


def _split(text: str | None) -> tuple[float, ...] | None:
    if text is None:
        return None
    shares = tuple(number("--tensor-split", part, 0, 1e6) for part in text.split(","))
    if not any(shares):
        raise UsageError("--tensor-split needs a share above 0, like 3,1.")
    return shares
