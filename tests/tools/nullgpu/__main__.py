"""See the package."""

import os
import subprocess
import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).parents[1])

from nullgpu import NullGpu, build, missing  # noqa: E402

if reason := missing():
    raise SystemExit(reason)
folder, *words = sys.argv[1:]
gpus = 1
if words[:1] == ["-n"]:
    _, number, *words = words
    gpus = int(number)
place = Path(folder).resolve()
build(place)
raise SystemExit(subprocess.call([sys.executable, *words], env=os.environ | NullGpu(place).environment(gpus)))
