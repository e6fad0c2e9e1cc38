"""An inference process that dies as soon as it starts: `python -m tests.server.no_inference`."""

import sys

if __name__ == "__main__":
    sys.exit(7)
