"""The first lines of the engine process: what has to be settled before PyTorch is imported.

Started as `python -m server.start_engine FD`, where FD is its end of the socketpair.
"""

from __future__ import annotations

import gc
import sys


def main() -> int:
    """The exit status of `worker.main`."""
    gc.disable()  # importing makes many objects, and hardly any garbage; `worker` enables it
    from server import worker

    return worker.main(int(sys.argv[1]))


if __name__ == "__main__":
    sys.exit(main())
