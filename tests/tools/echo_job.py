"""What a test hands over to a cluster: says what it was given, waits for a file if --until PATH, exits with --code."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

if __name__ == "__main__":
    print(json.dumps({"words": sys.argv[1:], "inside": os.environ.get("DASGM_JOB"), "cwd": os.getcwd()}), flush=True)
    options = dict(zip(sys.argv[1::2], sys.argv[2::2], strict=False))
    while "--until" in options and not Path(options["--until"]).exists():
        time.sleep(0.1)
    print("the end", flush=True)
    sys.exit(int(options.get("--code", 0)))
