"""The engine process: loads the models, then runs the loop. Joins what only it needs to know.

`start_engine` starts it, with its end of the socketpair; the first message says what to load.
"""

from __future__ import annotations

import gc
import logging
import socket
import sys
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from models.errors import ModelError
from server.engine import messages
from server.engine.loop import Loop
from server.engine.messages import LoadFailed, Ready, Setup, frame
from server.execution.adapters import Base, LoadedAdapters
from server.execution.constraints import Constraints
from server.execution.device import DeviceError
from server.execution.generation import DecoderRunner
from server.execution.grammars.compiler import Compiler
from server.execution.runner import Runner
from server.hosting import Member, load_all
from server.scheduling.scheduler import Scheduler

if TYPE_CHECKING:
    from server.text.tokenizer import Tokenizer


def main(descriptor: int) -> int:
    """Serve over the socket of that number."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    with socket.socket(fileno=descriptor) as link:
        return serve(link)


def serve(link: socket.socket) -> int:
    """Load the models that come over `link`, and run until it closes. 1 where they cannot be loaded."""
    setup = _receive_setup(link)
    if setup is None:
        return 1
    try:
        members = load_all(setup)
        adapters = _adapters(members)
        loras = _load_loras(setup, adapters)
    except (ModelError, DeviceError) as error:
        _say(link, LoadFailed(str(error)))
        return 1
    if not _say(link, Ready([member.card for member in members], loras)):
        return 1
    scheduler = Scheduler({one.card.name: one.lane for one in members}, itl_target_s=setup.itl_target_s)
    runner = Runner({one.card.name: one.runner for one in members})
    loop = Loop(link, scheduler, runner, _constraints(setup, members), adapters)
    gc.freeze()  # what is there by now stays: collections need not walk over it in the middle of a step
    gc.enable()
    loop.run()
    return 0


def _say(link: socket.socket, event: LoadFailed | Ready) -> bool:
    """False where the other process has given up before: it has said why."""
    with suppress(ConnectionError):
        link.sendall(frame(event))
        return True
    return False


def _adapters(members: Sequence[Member]) -> LoadedAdapters:
    bases = {one.card.name: Base(one.weights, one.card.fingerprint) for one in members if one.weights}
    return LoadedAdapters(bases)


def _load_loras(setup: Setup, adapters: LoadedAdapters) -> dict[str, dict[str, str]]:
    """The fingerprints of each model with its adapters, by their names. Raises ModelError."""
    return {
        model.name: {one.name: adapters.load(model.name, one.name, one.path) for one in model.loras}
        for model in setup.models
    }


def _constraints(setup: Setup, members: Sequence[Member]) -> Constraints:
    """A tokenizer is imported and read when the first grammar comes: most servers never see one."""
    paths = {model.name: Path(model.path) for model in setup.models}
    decoders = {one.card.name: one for one in members if isinstance(one.runner, DecoderRunner)}
    return Constraints(
        {name: one.runner for name, one in decoders.items() if isinstance(one.runner, DecoderRunner)},
        {
            name: Compiler(partial(_load_tokenizer, paths[name]), one.card.vocab_size)
            for name, one in decoders.items()
        },
    )


def _load_tokenizer(path: Path) -> Tokenizer:
    from server.text.tokenizer import load_tokenizer  # templates, too: 35 ms

    return load_tokenizer(path)


def _receive_setup(link: socket.socket) -> Setup | None:
    """Exactly one frame: what follows it belongs to the loop. None where the other process has given up."""
    header = link.recv(messages.LENGTH.size, socket.MSG_WAITALL)
    if len(header) < messages.LENGTH.size:
        return None
    (length,) = messages.LENGTH.unpack(header)
    setup = messages.decode_command(link.recv(length, socket.MSG_WAITALL))
    assert isinstance(setup, Setup)
    return setup
