"""`ppcls-lite serve`: classify images over HTTP with an exported folder. Read next: app.py."""

from __future__ import annotations

import argparse
import contextlib
import os
from collections.abc import Sequence

from ppcls_lite.errors import UserError
from ppcls_lite.inference.cli.options import (
    add_engine_options,
    engine_arguments,
    not_negative,
    positive,
)
from ppcls_lite.serve.options import ServeOptions
from ppcls_lite.system.installed import missing
from ppcls_lite.system.machine import usable_cores

_PACKAGES = ("starlette", "uvicorn", "httptools", "python_multipart", "prometheus_client")
_LOCAL = ("127.0.0.1", "::1", "localhost")


def run(argv: Sequence[str]) -> int:
    """Run the command until a signal ends it; returns 0, or 1 if the engine died or hangs.

    Raises:
        UserError: a wrong argument, a folder that is not an exported model, or an address that
            cannot be used.
    """
    args = _parser().parse_args(argv)
    options = ServeOptions(
        max_batch=args.max_batch,
        max_wait=args.max_wait_ms / 1000,
        queue=args.queue,
        max_bytes=int(args.max_megabytes * 1e6),
        max_pixels=int(args.max_megapixels * 1e6),
        read_timeout=args.read_timeout,
        timeout=args.timeout,
        decode_threads=args.decode_threads,
        memory=int(args.memory_megabytes * 1e6),
    )
    absent = [name for name in _PACKAGES if missing(name)]
    if absent:
        raise UserError(f"not installed: {', '.join(absent)}; run pip install '.[serve]'")
    # OpenCV reads it at its import: a second limit, should its parser and Pillow's ever disagree.
    os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(options.max_pixels))

    from ppcls_lite.inference import maps
    from ppcls_lite.inference.engines import EngineChoice
    from ppcls_lite.inference.predictor import Predictor
    from ppcls_lite.serve.app import Service
    from ppcls_lite.serve.server import bind, serve

    bound = bind(args.host, args.port)
    with (
        bound,
        Predictor(isolate=args.max_batch, **engine_arguments(args)) as predictor,
        contextlib.ExitStack() as stack,
    ):
        found = None
        if (args.model / maps.FOLDER).is_dir():
            name = predictor.choice.engine if predictor.choice else args.engine
            engine = EngineChoice(name, threads=args.threads)
            found = stack.enter_context(maps.Maps(args.model, engine, options.timeout))
        host, port = bound.getsockname()[:2]
        shown = f"[{host}]" if ":" in host else host

        def listening() -> None:
            print(f"{predictor.spec.model_name} on http://{shown}:{port}", flush=True)
            if args.host not in _LOCAL:
                print("reachable from other machines: put a proxy with access control before it")

        failure = serve(Service(predictor, options, found), bound, listening)
    print(f"error: {failure}" if failure else "ended", flush=True)
    return 1 if failure else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ppcls-lite serve",
        description="Answer images over HTTP with an exported network, until Ctrl-C or SIGTERM.",
    )
    add_engine_options(parser)
    add = parser.add_argument
    default = ServeOptions()
    megabytes, megapixels = default.max_bytes / 1e6, default.max_pixels / 1e6
    add("--host", default="127.0.0.1", help="address to listen on (127.0.0.1: this machine only)")
    add("--port", type=_port, default=8080, metavar="N", help="port to listen on (8080; 0: any)")
    batch, wait = default.max_batch, default.max_wait * 1000
    add(
        "--max-batch",
        type=positive,
        default=batch,
        metavar="N",
        help="images at once (%(default)s)",
    )
    text = "milliseconds an image waits for others that are being decoded (%(default)g)"
    add("--max-wait-ms", type=not_negative, default=wait, metavar="MS", help=text)
    text = "requests at work, before more are answered 429 (%(default)s)"
    add("--queue", type=positive, default=default.queue, metavar="N", help=text)
    text = "megabytes of an upload, at most (%(default)g)"
    add("--max-megabytes", type=not_negative, default=megabytes, metavar="MB", help=text)
    text = "megapixels of an image, at most (%(default)g)"
    add("--max-megapixels", type=not_negative, default=megapixels, metavar="MP", help=text)
    text = "seconds from the whole upload to its answer (%(default)g)"
    add("--timeout", type=not_negative, default=default.timeout, metavar="S", help=text)
    text = "seconds for an upload to arrive (%(default)g)"
    add("--read-timeout", type=not_negative, default=default.read_timeout, metavar="S", help=text)
    text = "images decoded at once (usable cores)"
    add("--decode-threads", type=positive, default=usable_cores(), metavar="N", help=text)
    text = "megabytes for uploads and decoding (%(default)g)"
    memory = default.memory / 1e6
    add("--memory-megabytes", type=not_negative, default=memory, metavar="MB", help=text)
    return parser


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"expected 0 to 65535, found {text!r}")
    return int(text)
