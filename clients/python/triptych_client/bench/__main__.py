"""`python -m triptych_client.bench`"""

import sys

from triptych_client.bench.command import main

if __name__ == "__main__":
    sys.exit(main())
