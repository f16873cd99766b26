"""`python -m portal.node config.ini`: the same wrapper as `python wrapper.pyz config.ini`."""

import sys

from .wrapper import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
