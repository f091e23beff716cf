"""What a token costs the HTTP process: from the engine's message to the bytes on the wire.

    python -m tests.benchmarks.http_overhead [--streams 32] [--tokens 200] [--profile generate_stream]

The whole HTTP process over real sockets: link, texts, routes, uvicorn. The engine is another process, which
says a token to each stream in every step, as the real one does; the client is a third. Prints microseconds of
this process's CPU time for each token, beside what the requests themselves take.
"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import json
import multiprocessing
import pstats
import select
import socket
import time
from collections.abc import Callable
from dataclasses import replace

import uvicorn

from server.api.app import create_app
from server.engine import messages
from server.engine.engine import Engine
from server.engine.inbox import Inbox
from server.engine.link import Link
from server.engine.messages import Abort, Generate, Load, Ready, Sampled, Setup, Stepped, frame
from server.engine.stats import Stats
from server.request import FinishReason
from server.scheduling.plan import Scored
from server.text.tokenizer import Tokenizer
from server.text.vocabulary import Vocabulary
from tests.fakes import DECODER
from tests.text.vocabularies import KINDS

STEP_S = 0.03  # as long as 32 streams take on a small CPU
CARD = replace(DECODER, max_tokens=2048)
PROMPT = "The quick brown fox jumps over the lazy dog"
TEMPLATE = "{% for message in messages %}{{ message.content }}{% endfor %}"
CHATTY = Tokenizer(Vocabulary(backend=KINDS["byte level"](), chat_template=TEMPLATE))
FEW = 8  # tokens: what is beyond them is what tokens cost
BODIES: dict[str, Callable[[int], dict[str, object]]] = {
    "generate_stream": lambda count: {"inputs": PROMPT, "parameters": {"max_new_tokens": count}},
    "v1/completions": lambda count: {"prompt": PROMPT, "max_tokens": count, "stream": True},
    "v1/chat/completions": lambda count: {
        "messages": [{"role": "user", "content": PROMPT}],
        "max_tokens": count,
        "stream": True,
    },
}


def speak(link: socket.socket, says: list[int]) -> None:
    """The engine's process: one token to everybody in each step."""
    link.sendall(frame(Ready(cards=[CARD])))
    inbox, said, wanted = Inbox(link), dict[int, int](), dict[int, int]()
    while (commands := inbox.take(wait_s=0.0 if wanted else None)) is not None:
        for command in commands:
            assert not isinstance(command, Setup)
            if isinstance(command, Generate):
                said[command.id], wanted[command.id] = 0, command.max_new_tokens
            elif isinstance(command, Abort):
                wanted.pop(command.id, None)
        time.sleep(STEP_S)
        answers = list[messages.Answer]()
        for id_ in list(wanted):
            scored = Scored(says[said[id_] % len(says)], -1.2345678901234567)
            said[id_] += 1
            ended = said[id_] == wanted[id_]
            answers.append(Sampled(id_, (scored,), FinishReason.LENGTH if ended else None))
            if ended:
                del wanted[id_]
        link.sendall(frame(Stepped(STEP_S, Load(CARD.name, len(wanted), 0), answers)))


def listen(port: int, path: str, streams: int, count: int) -> None:
    """The client's process: as many streams at once, read to their ends."""
    body = json.dumps(BODIES[path](count)).encode()
    head = f"POST /{path} HTTP/1.1\r\nHost: here\r\nContent-Type: application/json\r\nConnection: close\r\n"
    request = f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body
    open_ = [socket.create_connection(("127.0.0.1", port)) for _ in range(streams)]
    received = dict[socket.socket, int]()
    for one in open_:
        one.sendall(request)
    while open_:
        for one in select.select(open_, [], [])[0]:
            data = one.recv(1 << 16)
            received[one] = received.get(one, 0) + data.count(b"\ndata: ")
            if not data:
                open_.remove(one)
    assert all(events >= count // 2 for events in received.values()), f"events: {received.values()}"


async def cpu_seconds(port: int, path: str, streams: int, count: int) -> float:
    """Of this process, while the client's lives."""
    client = multiprocessing.get_context("fork").Process(target=listen, args=(port, path, streams, count))
    began = time.process_time()
    client.start()
    await asyncio.to_thread(client.join)
    assert client.exitcode == 0
    return time.process_time() - began


async def measure(link: socket.socket, streams: int, tokens: int, profiled: str | None) -> None:
    connection = Link(Stats())
    await connection.connect(link)
    engine = Engine(connection, {CARD.name: CHATTY}, max_requests=2 * streams)
    await engine.load()
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(create_app(engine), log_level="warning", access_log=False))
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    port = listener.getsockname()[1]
    await cpu_seconds(port, "generate_stream", streams, FEW)  # what is imported and cached by the first
    if profiled is not None:
        profile = cProfile.Profile()
        profile.enable()
        await cpu_seconds(port, profiled, streams, tokens)
        profile.disable()
        pstats.Stats(profile).sort_stats("tottime").print_stats(45)
    else:
        print(f"{streams} streams".ljust(22), "us a token", "us a request", sep="   ")
        for path in BODIES:
            few = await cpu_seconds(port, path, streams, FEW)
            many = await cpu_seconds(port, path, streams, FEW + tokens)
            token = (many - few) / (streams * tokens)
            print(
                path.ljust(22),
                f"{1e6 * token:10.1f}",
                f"{1e6 * (few / streams - FEW * token):12.0f}",
                sep="   ",
            )
    server.should_exit = True
    await serving
    await engine.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--streams", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=200)
    parser.add_argument("--profile", choices=BODIES, help="where Python spends it, by cProfile")
    chosen = parser.parse_args()
    ours, theirs = socket.socketpair()
    says = CHATTY.encode(PROMPT * 4, add_special_tokens=False)
    fork = multiprocessing.get_context("fork")
    fork.Process(target=speak, daemon=True, args=(theirs, says)).start()
    theirs.close()
    with asyncio.Runner() as runner:
        runner.run(measure(ours, chosen.streams, chosen.tokens, chosen.profile))


if __name__ == "__main__":
    main()
