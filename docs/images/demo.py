"""Makes demo.png from a finished run: `python docs/images/demo.py runs/demo`. The first six test images, not chosen."""

import shutil
import sys
import tempfile
from pathlib import Path

from slotworks import load
from slotworks.evaluation.samples import write_samples

run, method = load(sys.argv[1], device="cpu")
with tempfile.TemporaryDirectory() as folder:
    write_samples(method, run.data.open("test"), folder, indices=range(6), step=run.steps)
    shutil.copy(Path(folder) / "samples" / f"step_{run.steps:07d}.png", Path(__file__).with_name("demo.png"))
