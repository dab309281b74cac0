"""`python -m ppcls_lite COMMAND`: the command `ppcls-lite` of this interpreter."""

import sys

from ppcls_lite.cli import main

if __name__ == "__main__":
    sys.exit(main())
