"""The `kvchat` command. What a run needs, it imports: the chat is drawn before the planner is read,
and the report knows no screen (tests/command/test_imports.py)."""

from __future__ import annotations

import argparse
import contextlib
import os
import stat
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TextIO

from tui.command import options, sampling_flags
from tui.command.output import complain, dumb, prepare_streams
from tui.when_full import Way
from tuner.demo import demo_model_path
from tuner.errors import ExitCode, KvchatError, UsageError
from tuner.gguf.header import models_of
from tuner.machine.rpc import addresses
from tuner.model.blame import file_to_blame
from tuner.model.model import read_model
from tuner.safe_text import utf8
from tuner.units import parse_size, parse_tokens
from tuner.wishes import LaunchRequest

_CHOOSE = "--choose opens the fit explorer before a chat"


def main(argv: list[str] | None = None) -> int:
    """Runs one command line; returns its exit status."""
    prepare_streams()
    try:
        args = options.parser().parse_args(argv)
        status = _run(args)
        if sys.stdout is not None:
            sys.stdout.flush()
        return status
    except KvchatError as error:
        complain(str(error))
        return error.exit_code
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED
    except BrokenPipeError:  # whoever read our output has enough
        _drop_stdout()
        return ExitCode.OK
    except OSError as error:
        _drop_stdout()
        complain(f"the output or a file could not be written ({error.strerror or error}).")
        return ExitCode.ENGINE


def _drop_stdout() -> None:
    """What is still buffered has nowhere to go."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _run(args: argparse.Namespace) -> int:
    if args.version:
        from tui.command.version import show_version  # noqa: PLC0415

        return show_version()
    if args.profiles or args.forget or args.forget_machine:
        from tui.command.profiles import (  # noqa: PLC0415
            forget_machine,
            forget_profile,
            list_profiles,
        )

        if args.forget_machine:
            return forget_machine()
        return forget_profile(args.forget) if args.forget else list_profiles()
    paths = _models(args)
    if args.verify and not args.explain:
        raise UsageError("--verify goes with --explain.")
    if args.compare_log == "":
        raise UsageError("--compare-log takes the path of a log.")
    printed = (args.explain, args.show_prompt, args.bench, args.measure, args.compare_log)
    if args.json and not any(printed):
        raise UsageError(
            "--json goes with --explain, --show-prompt, --measure, --compare-log or --bench."
        )
    if args.thorough and not args.bench:
        raise UsageError("--thorough goes with --bench.")
    _require_one_thing(args)
    if (args.text is not None or args.tokens is not None) and not args.measure:
        raise UsageError("--text and --tokens go with --measure.")
    if args.choose and (args.explain or args.show_prompt):
        raise UsageError(f"{_CHOOSE}: leave out --explain and --show-prompt.")
    width, when_full = options.reading_width(args), options.when_full(args)
    keep_states, idle_seconds = options.keep_states(args), options.idle_seconds(args)
    sampling = sampling_flags.stated(args)
    requests = [_request(args, path, sampling) for path in paths]
    program = options.emit(args)
    if args.explain:
        from tui.command.explain import explain  # noqa: PLC0415

        return explain(requests, as_json=args.json, verify=args.verify)
    if len(requests) > 1:
        what = next(iter(_alone(args)), "--show-prompt" if args.show_prompt else "a chat")
        raise UsageError(f"{what} takes one model; several go with --explain.")
    with file_to_blame(paths[0]):
        model = read_model(paths[0])  # a bad file is told before anything else
    if args.compare_log:
        from tui.command.compare_log import compare_log  # noqa: PLC0415

        return compare_log(model, requests[0], Path(args.compare_log), as_json=args.json)
    template = options.chat_template(args.chat_template, model.chat_templates)
    request = replace(requests[0], path=model.path, model=model, chat_template=template)
    if args.bench:
        from tui.command.bench import bench  # noqa: PLC0415

        return bench(request, thorough=args.thorough, as_json=args.json)
    if args.measure:
        from tui.command.measure import measure, text_of  # noqa: PLC0415

        n_tokens = None if args.tokens is None else parse_tokens(args.tokens)
        return measure(request, model, text_of(args.text), n_tokens, as_json=args.json)
    if program:
        from tui.command.emit import emit  # noqa: PLC0415

        return emit(request, program, options.template_file(args, template))
    prompt = _prompt(args)
    if args.show_prompt:
        return _show_prompt(args, request, prompt)
    if prompt is not None and args.choose:
        raise UsageError(f"{_CHOOSE}; -p and a piped question are answered without one.")
    if prompt is not None and args.plain:
        raise UsageError("--plain is a chat; -p and a piped question are answered without one.")
    if prompt is not None and args.resume:
        raise UsageError("--resume goes with the chat or --show-prompt; -p answers one question.")
    if not args.choose:
        _require_this_machine(request)
    if rules := request.sampling.get("grammar"):
        from tuner.engine.grammar_check import require_grammar  # noqa: PLC0415

        named = "--grammar" if args.grammar else "the grammar of --json-schema"
        require_grammar(rules, model.path, named)
    if prompt is not None:
        from tui.command.one_shot import answer  # noqa: PLC0415

        request = replace(request, keeps_flags=False)  # one question's are not the model's
        return answer(request, prompt, utf8(args.system or ""), show_thinking=args.show_thinking)
    in_lines = args.plain or dumb()
    if args.show_thinking and not in_lines:
        raise UsageError("--show-thinking goes with -p and --plain; in the chat a thought unfolds.")
    if in_lines or not _terminal(sys.stdin, sys.stdout, sys.stderr):
        return _chat_in_lines(args, request, when_full)
    from tui.command.open_chat import open_chat  # noqa: PLC0415

    return open_chat(
        request,
        args.system,
        args.resume,
        choose=args.choose,
        width=width,
        when_full=when_full,
        keep_states=keep_states,
        idle_seconds=idle_seconds,
    )


def _chat_in_lines(args: argparse.Namespace, request: LaunchRequest, when_full: Way | None) -> int:
    """The chat where the screen is not to be drawn on, or cannot be."""
    if not _terminal(sys.stdin) or not (_terminal(sys.stdout) or _terminal(sys.stderr)):
        raise UsageError("the chat needs the terminal; use -p TEXT or pipe a question in.")
    if args.choose:
        raise UsageError(f"{_CHOOSE}, and draws on the whole screen; leave it out.")
    from tui.command.plain import chat_in_lines  # noqa: PLC0415

    return chat_in_lines(
        request,
        args.system,
        args.resume,
        show_thinking=args.show_thinking,
        when_full=when_full,
        keep_states=options.keep_states(args),
        idle_seconds=options.idle_seconds(args),
    )


def _terminal(*streams: TextIO | None) -> bool:
    """Whether all of these are one."""
    return all(stream is not None and stream.isatty() for stream in streams)


def _alone(args: argparse.Namespace) -> list[str]:
    """The flags that are given of those that are runs of their own."""
    names = ("bench", "measure", "emit", "compare_log")
    return [f"--{name.replace('_', '-')}" for name in names if getattr(args, name)]


def _require_one_thing(args: argparse.Namespace) -> None:
    alone = _alone(args)
    others = ("explain", "show_prompt", "prompt", "resume", "system", "think", "choose", "plain")
    given = (name for name in others if getattr(args, name) not in (None, False))
    too_many = [*alone[1:], *(f"--{name.replace('_', '-')}" for name in given)]
    if alone and too_many:
        raise UsageError(f"{alone[0]} is a run of its own: leave out {' and '.join(too_many)}.")


def _require_this_machine(request: LaunchRequest) -> None:
    """Raises UsageError where a launch is to be on hardware that is only described. A machine
    without GPUs, or with so much memory, is what this one can be taken for."""
    cards = any(gpu.name for gpu in request.gpus or ())
    stated = {
        "--gpu": cards, "--ram-bandwidth": request.ram_bandwidth, "--cores": request.cores
    }  # fmt: skip
    given = [flag for flag, value in stated.items() if value]
    if given:
        raise UsageError(
            f"{' and '.join(given)} {'describes' if len(given) == 1 else 'describe'} another "
            "machine than the one that runs the model: plan for it with --explain, --choose or "
            "--emit."
        )


def _show_prompt(args: argparse.Namespace, request: LaunchRequest, prompt: str | None) -> int:
    from tui.command.show_prompt import conversation, resumed, show_prompt  # noqa: PLC0415

    before = resumed(args.resume) if args.resume else ()
    system = None if args.system is None else utf8(args.system)
    return show_prompt(request, conversation(prompt, system, before), as_json=args.json)


def _models(args: argparse.Namespace) -> list[Path]:
    if args.demo:
        if args.models:
            raise UsageError("--demo is a model of its own; leave out the file.")
        return [demo_model_path()]
    if not args.models:
        raise UsageError("which model? Give a .gguf file, or --demo for the embedded one.")
    return models_of(map(Path, args.models))


def _request(args: argparse.Namespace, path: Path, sampling: Mapping[str, Any]) -> LaunchRequest:
    request = LaunchRequest(
        path=path,
        wishes=options.wishes(args),
        rebalance=options.rebalance(args),
        gpus=options.gpus(args),
        ram=None if args.ram is None else parse_size(args.ram, "--ram"),
        ram_bandwidth=options.ram_bandwidth(args.ram_bandwidth),
        cores=options.cores(args.cores),
        reserve=None if args.reserve is None else parse_size(args.reserve, "--reserve"),
        rpc_servers=addresses(args.rpc),
        threads=options.threads(args),
        use_profile=not args.no_profile,
        sampling=sampling,
        think=options.think(args),
        states_on_disk=options.keep_states(args) != 0,
    )
    if request.rpc_servers and request.stated:
        raise UsageError(
            "--rpc is measured, and goes with nothing that describes another machine (--gpu, "
            "--vram, --ram, --ram-bandwidth, --cores)."
        )
    return request


def _prompt(args: argparse.Namespace) -> str | None:
    """The question of `-p`, of a pipe, or both: the piped text after the question."""
    piped = ""
    if sys.stdin is not None and not sys.stdin.closed and not sys.stdin.isatty():
        mode = os.fstat(sys.stdin.fileno()).st_mode
        if args.prompt is None or stat.S_ISFIFO(mode) or stat.S_ISREG(mode):
            piped = sys.stdin.read().strip()
    parts = [p for p in (utf8(args.prompt or ""), piped) if p]
    if args.prompt is not None and not parts:
        raise UsageError("the question is empty; write it after -p or pipe it in.")
    return "\n\n".join(parts) or None
