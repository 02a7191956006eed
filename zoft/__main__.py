"""`python -m zoft` is the `zoft` command."""

import sys

from zoft.cli import main

if __name__ == "__main__":
    sys.exit(main())
