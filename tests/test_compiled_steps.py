"""How often `torch.compile` has to leave the graph of a method's loss: `-m slow`. Nothing is compiled, only traced."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

MATCHED = "the Hungarian method runs on the CPU"
ORDER = "the order of patches is drawn on the CPU"
LOADED = "a frozen network is one of another library, loaded when it is first used"
CUTS = {
    "DSPNConfig": f"its encoder takes a gradient inside of the loss; {MATCHED}",
    "DatasetDiffusionConfig": f"asks whether a class has no name; {LOADED}",
    "GlassConfig": MATCHED,
    "SAViConfig": "asks whether boxes are some and lie in the image",
    "SetPredictionConfig": MATCHED,
    "SlotMLPConfig": MATCHED,
    "SpotConfig": ORDER,
    "SpotStudentConfig": f"{ORDER}; {MATCHED}; {LOADED}",
    "VideoSlotDiffusionConfig": LOADED,
}
"""Why the graph is cut, by the class of the settings; everything else is one graph."""

TRACE = """
import json, sys
from pathlib import Path
import torch
from slotworks.configs import recipes
from slotworks.nn.noise import shared_noise
from slotworks.training.bench import noise
from slotworks.types import VideoMethod, to_batch

# Steps of these read of their data what noise has not.
seen = {"PaintedDiffusionConfig", "TinyDiffusionConfig", "CLIPpyConfig", "OVSegmentorConfig", "SegCLIPConfig"}
for name, function in recipes().items():
    run = function()
    kind = type(run.method).__name__
    if not name.endswith("_mini") or not run.steps or kind in seen:
        continue
    seen.add(kind)
    method = run.method.build()
    method.prepare(lambda folder: recipes()[Path(folder).name]().method.build())
    for part in method.modules():
        if hasattr(part, "ready"):
            part.ready.fill_(True)
    batch = to_batch(noise(run, 2, video=isinstance(method, VideoMethod)))
    torch._dynamo.reset()
    with shared_noise(0, "cpu", part=0, parts=1):
        method.loss(batch, 0)  # loads what is loaded when it is first used
        found = torch._dynamo.explain(method.loss)(batch, 0)
    print(json.dumps({"kind": kind, "recipe": name, "cuts": found.graph_break_count}), flush=True)
"""


@pytest.mark.slow
def test_the_loss_of_a_method_is_one_graph():
    """In a process of its own: checked annotations and torch.compile do not go together."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    words = [sys.executable, "-c", TRACE]
    ended = subprocess.run(
        words, cwd=Path(__file__).parents[1], env=environment, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr[-2000:]
    rows = [json.loads(line) for line in ended.stdout.splitlines() if line.startswith("{")]
    assert len(rows) > 12
    assert {row["kind"] for row in rows if row["cuts"]} == set(CUTS), rows
