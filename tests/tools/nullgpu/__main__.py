"""See the package."""

import subprocess
import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).parents[1])

from nullgpu import build, environment, missing  # noqa: E402

if reason := missing():
    raise SystemExit(reason)
folder = Path(sys.argv[1]).resolve()
build(folder)
raise SystemExit(subprocess.call([sys.executable, *sys.argv[2:]], env=environment(folder)))
