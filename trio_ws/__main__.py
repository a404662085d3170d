"""Entry point of ``python -m trio_ws``; see :mod:`trio_ws.cli.main`."""

import sys

from .cli.main import main

if __name__ == "__main__":
    sys.exit(main())
