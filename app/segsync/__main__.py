"""`python -m segsync`: without arguments the platform's `exec` door, else the command line."""

import sys

from segsync.cli import main

if __name__ == "__main__":
    if len(sys.argv) == 1:
        sys.argv.append("run")
    main()
