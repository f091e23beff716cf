"""`python -m server`, the same as `triptych`."""

import sys

from server.cli import main

if __name__ == "__main__":
    sys.exit(main())
