"""What stands in for Python on a compute node: runs the wrapper's archive, watched. `hooked_wrapper.py -I FILE CONFIG`.

The folder of the run comes in the environment, as a variable that the application passes on.
"""

import os
import runpy
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.crash.hooks import Watch

if __name__ == "__main__":
    sys.dont_write_bytecode = True
    _, archive, *arguments = sys.argv[1:]
    sys.argv = [archive, *arguments]
    Watch("wrapper", os.environ["CRASH_FOLDER"]).install()
    runpy.run_path(archive, run_name="__main__")
