"""Answer requests of OpenAI's API, for one model: /v1/completions, /v1/chat/completions, /v1/models.

    python -m experiments.serve --workdir DIR | --config.init_from=MODEL [--adapter FOLDER] [--host ADDRESS] [--port N]
                                [--name NAME] [--tokenizer FILE|bytes] [--rows N] [--context N] [--chunk N]
                                [--waiting N] [--seconds X] [--body N] [--config.field=value ...]

DIR is the workdir of a run of experiments.train; MODEL the folder of a Hugging Face model, a .gguf file, or the id of a
model in the hub's cache. --config.field=value changes settings as experiments.generate has it.

--rows prompts and answers are computed together, others wait; each row has room for --context tokens, prompt and answer
together, and takes the memory for it from the start. What a request has in common with an earlier one is not read
again. Requests are refused where --waiting of them wait, an answer is not complete after --seconds, or they have more
than --body bytes.

It listens on this machine alone unless --host says otherwise (0.0.0.0: anyone who reaches it can ask; there is no
password), and ends at Ctrl-C or SIGTERM.
"""

import contextlib
import pathlib
import signal
import socket
import threading

from experiments.run import command, models, sources
from experiments.settings import extras
from experiments.settings.console import Parser
from experiments.settings.environment import count
from longctx.data import chat, tokenizers
from longctx.errors import UserError

CONTEXT = 4096  # tokens of a row, unless the model's are shorter


def arguments(argv: list[str]):
    """(the options of this command, the --config.field=value among the arguments)."""
    parser = Parser(__doc__.splitlines()[0])
    parser.add_argument("--workdir", metavar="DIR", help="the run to serve, in place of --config.init_from=MODEL")
    parser.add_argument("--adapter", metavar="FOLDER", help="a low-rank adapter of the model, in peft's format")
    parser.add_argument("--host", metavar="ADDRESS", default="127.0.0.1", help="default: %(default)s")
    parser.add_argument("--port", metavar="N", type=int, default=8000, help="default: %(default)s; 0 is any free one")
    parser.add_argument("--name", metavar="NAME", help="of the model in requests (default: that of its folder)")
    parser.add_argument("--tokenizer", metavar="FILE", help="tokenizer.json or bytes (default: the model's)")
    parser.add_argument("--rows", metavar="N", type=int, default=8, help="computed together (default: %(default)s)")
    parser.add_argument("--context", metavar="N", type=int, default=0, help=f"tokens of a row (default: {CONTEXT})")
    parser.add_argument(
        "--chunk", metavar="N", type=int, default=512, help="tokens read at once (default: %(default)s)"
    )
    parser.add_argument("--waiting", metavar="N", type=int, default=256, help="prompts that may (default: %(default)s)")
    parser.add_argument("--seconds", metavar="X", type=float, default=600, help="for an answer (default: %(default)s)")
    parser.add_argument("--body", metavar="N", type=int, default=16 << 20, help="bytes of a request, at most")
    return parser.parse_with_settings(argv, texts=("host", "name"))


def check(options, named: str | None) -> None:
    """Raises UserError for options that cannot work."""
    if (options.workdir is None) == (named is None):
        raise UserError("give --workdir DIR, a run, or --config.init_from=MODEL, a model of Hugging Face: one of them.")
    for name in ("rows", "chunk", "waiting", "seconds", "body"):
        if not getattr(options, name) > 0:
            raise UserError(f"--{name}={getattr(options, name)} must be above 0.")
    if options.context < 0:
        raise UserError(f"--context={options.context} must be above 0, or left out.")
    if not 0 <= options.port < 65536:
        raise UserError(f"--port={options.port} must be from 0, any free one, to 65535.")
    extras.need("serving", extras.missing("starlette", "uvicorn"))
    if count() > 1:
        raise UserError("a server is one process; start one for each host, with JAX_NUM_PROCESSES=1.")


def bound(host: str, port: int) -> socket.socket:
    """A socket on that address, before anything is loaded. Raises UserError where there is none to be had."""
    try:
        family, kind, number, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        taken = socket.socket(family, kind, number)
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(address)
    except OSError as error:
        raise UserError(f"--host={host} --port={port} cannot be listened on: {error.strerror or error}.") from error
    return taken


def template_of(source) -> tuple[chat.ChatTemplate | None, str]:
    """(the chat template of a model, the reason why there is none)."""
    try:
        return chat.load(source.folder), ""
    except UserError as error:
        return None, str(error)


def say(line: str) -> None:
    print(line, flush=True)


def loaded(options, source):
    """(the Engine of a model, warm)."""
    context = options.context or min(source.longest, CONTEXT)
    mesh, graph, params = source.load(options.rows * context)

    import jax

    from experiments.serving.engine import Engine, Limits
    from longctx.generation.rows import Rows

    announce = lambda program: say(f"compiling what {program} ...")
    with jax.set_mesh(mesh):
        rows = Rows(graph, params, options.rows, context, options.chunk, announce=announce)
    engine = Engine(rows, mesh, Limits(options.body, options.waiting, options.seconds))
    engine.warm()
    return engine, context


def server_of(app, started):
    """The server of an application, which leaves signals to this command; started: called once it listens."""
    import uvicorn

    class Server(uvicorn.Server):
        """uvicorn's, without its way of ending."""

        @contextlib.contextmanager
        def capture_signals(self):
            yield

        async def startup(self, sockets=None):
            await super().startup(sockets)
            started()

    plain = dict(log_level="error", access_log=False, lifespan="off", ws="none")
    return Server(uvicorn.Config(app, timeout_graceful_shutdown=5, **plain))


def serve(server, engine, listener: socket.socket) -> None:
    """Answers until SIGINT or SIGTERM, or until the engine fails, whose error is raised then."""
    failures = []

    def run():
        try:
            engine.run()
        except BaseException as error:  # raised again in the main thread
            failures.append(error)
        finally:
            server.should_exit = True

    def ask(number, frame):
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a second Ctrl-C waits for nothing
        server.should_exit = True
        threading.Thread(target=engine.stop).start()  # a lock may be held where the signal came

    thread = threading.Thread(target=run, name="engine", daemon=True)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, ask)
    thread.start()
    try:
        server.run(sockets=[listener])
    finally:
        engine.stop()
        thread.join()
    for error in failures:
        raise error


def main(argv) -> None:
    options, overrides = arguments(argv[1:])
    named = models.named(argv)
    check(options, named)
    overrides = [arg for arg in overrides if not arg.startswith((models.INIT_FROM, models.INIT_FROM[1:]))]
    path, field = (named, "init_from") if named is not None else (options.workdir, "--workdir")
    source = sources.of(path, field, overrides, options.tokenizer, options.adapter)
    tokenizers.check_vocabulary(source.tokenizer, source.vocab_size)
    template, reason = template_of(source)
    name = options.name or (path if named and not pathlib.Path(path).exists() else pathlib.Path(path).resolve().name)
    listener = bound(options.host, options.port)
    engine, context = loaded(options, source)

    from experiments.serving import app
    from longctx.generation.request import stops

    source = source._replace(tokenizer=app.Locked(source.tokenizer))
    ends = stops(source.ends, source.vocab_size)
    served = app.Served(name.removesuffix(".gguf"), source, ends, template, reason, context, engine)
    host, port = listener.getsockname()[:2]
    line = (
        f"serving {served.name} on http://{host}:{port}/v1, {options.rows} rows of {context:,} tokens; Ctrl-C ends it"
    )
    serve(server_of(app.make(served), lambda: say(line)), engine, listener)
    say("stopped")


if __name__ == "__main__":
    command.run(main)
