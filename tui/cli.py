"""The `kvchat` command. Screens are imported only when one opens."""

from __future__ import annotations

import argparse
import json
import os
import stat
import sys
from pathlib import Path

from tui import options
from tuner import report
from tuner.demo import demo_model_path
from tuner.errors import ExitCode, KvchatError, UsageError
from tuner.gguf_header import read_header
from tuner.model import describe
from tuner.plan import Plan
from tuner.situation import Request, Situation
from tuner.units import parse_size


def main(argv: list[str] | None = None) -> int:
    """Runs one command line; returns its exit status."""
    try:
        args = options.parser().parse_args(argv)
        return _run(args)
    except KvchatError as error:
        print(f"kvchat: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED
    except BrokenPipeError:  # whoever read our output has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ExitCode.OK


def _run(args: argparse.Namespace) -> int:
    if args.profiles or args.forget:
        from tui.commands import forget_profile, list_profiles  # noqa: PLC0415

        return forget_profile(args.forget) if args.forget else list_profiles()
    paths = _models(args)
    if (args.json or args.verify) and not args.explain:
        raise UsageError("--json and --verify go with --explain.")
    requests = [_request(args, path) for path in paths]
    if args.explain:
        return _explain(requests, as_json=args.json, verify=args.verify)
    if len(requests) > 1:
        raise UsageError("a chat takes one model; several go with --explain.")
    describe(read_header(requests[0].path))  # a bad file is told before anything else
    sampling = options.sampling(args)
    prompt = _prompt(args)
    if prompt is not None:
        from tui.one_shot import answer  # noqa: PLC0415

        return answer(requests[0], prompt, args.system, sampling)
    if not all(s.isatty() for s in (sys.stdin, sys.stdout, sys.stderr)):
        raise UsageError("the chat needs a terminal; use -p TEXT or pipe a question in.")
    from tui.open_chat import open_chat  # noqa: PLC0415

    return open_chat(requests[0], sampling, args.system, args.resume)


def _models(args: argparse.Namespace) -> list[Path]:
    if args.demo:
        if args.models:
            raise UsageError("--demo is a model of its own; leave out the file.")
        return [demo_model_path()]
    if not args.models:
        raise UsageError("which model? Give a .gguf file, or --demo for the embedded one.")
    return [Path(m) for m in args.models]


def _request(args: argparse.Namespace, path: Path) -> Request:
    return Request(
        path=path,
        wishes=options.wishes(args),
        vram=tuple(options.sizes(args.vram)),
        ram=None if args.ram is None else parse_size(args.ram),
        reserve=None if args.reserve is None else parse_size(args.reserve),
        rpc_servers=tuple(args.rpc),
        threads=None if args.threads is None else options.whole("--threads", args.threads, 1),
        use_profile=not args.no_profile,
    )


def _prompt(args: argparse.Namespace) -> str | None:
    """The question of `-p`, of a pipe, or both: the piped text after the question."""
    piped = ""
    if not sys.stdin.isatty():
        mode = os.fstat(sys.stdin.fileno()).st_mode
        if args.prompt is None or stat.S_ISFIFO(mode) or stat.S_ISREG(mode):
            piped = sys.stdin.read().strip()
    parts = [p for p in (args.prompt, piped) if p]
    if args.prompt is not None and not parts:
        raise UsageError("the question is empty; write it after -p or pipe it in.")
    return "\n\n".join(parts) or None


def _explain(requests: list[Request], *, as_json: bool, verify: bool) -> int:
    worst = ExitCode.OK
    rows: list[tuple[str, Plan | KvchatError]] = []
    for request in requests:
        try:
            situation = Situation.of(request)
            plan = situation.plan()
            if verify:
                plan = _verified(situation, plan)
        except KvchatError as error:
            if len(requests) == 1 and not as_json:
                raise
            worst = max(worst, error.exit_code)
            rows.append((str(request.path), error))
            if as_json:
                print(json.dumps(report.error_json(str(request.path), error)), flush=True)
            continue
        if not plan.chosen.fits:
            worst = max(worst, ExitCode.NO_FIT)
        rows.append((str(request.path), plan))
        if as_json:
            print(json.dumps(report.as_json(plan), ensure_ascii=False), flush=True)
    if as_json:
        return worst
    color = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    only = rows[0][1] if len(rows) == 1 else None
    if isinstance(only, Plan):
        sys.stdout.write(report.text(only, color=color))
    else:
        sys.stdout.write(report.overview(rows, color=color))
    return worst


def _verified(situation: Situation, plan: Plan) -> Plan:
    """The plan after the engine's dry run, in a model process of its own."""
    from tuner.engine.client import EngineClient  # noqa: PLC0415

    with EngineClient() as client:
        return situation.verify(plan, client)
