"""What only a process of its own may try: it is forked, and judged by how it ends."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

import torch

CHILD_S = 60  # where a child waits for a thread that the fork did not copy


def holds_in_a_child(check: Callable[[], bool]) -> bool:
    """Whether `check` is true in a child. What it raises counts as false."""
    child = os.fork()
    if child == 0:
        signal.alarm(CHILD_S)
        torch.set_num_threads(1)  # for it, too, has threads that are not there any more
        try:
            os._exit(0 if check() else 1)
        finally:
            os._exit(2)  # it raised something
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
