"""``python -m trio_ws``: see :mod:`trio_ws.cli`."""

import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main())
