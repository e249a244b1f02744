"""Scores of 1,000 segmentations of 320 x 320 pixels: our batched tables against a plain loop over images.

Both compute ARI, FG-ARI, mBO and mIoU. The loop is what an evaluation script does at first: for each image
scikit-learn's ARI on all and on foreground pixels, numpy masks for every pair of slot and object, SciPy's matching.
Ours is the path of `slotworks evaluate`: one table for all four scores. The values are compared before the times are.

Before it the largest of the soft masks at each pixel: ours by `max`, plain by `argmax`.
"""

import time
from dataclasses import replace

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from sklearn.metrics import adjusted_rand_score

from slotworks.evaluation.discovery import score_masks
from slotworks.metrics import segmentation
from slotworks.protocols import PROTOCOLS

NUM_SLOTS, NUM_OBJECTS, SIZE = 7, 12, 320
BATCH = 100  # images; repeated until there are enough, so that memory stays small

METRICS = ("ari", "fg_ari", "mbo_i", "miou_i")


def images(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Slot ids (cells around random points) and object ids (ellipses on a background) of one batch."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:SIZE, :SIZE].astype(np.float32)
    pred, true = np.zeros((2, BATCH, SIZE, SIZE), np.int64)
    for i in range(BATCH):
        points = rng.uniform(0, SIZE, (NUM_SLOTS, 2))
        pred[i] = np.argmin([(y - py) ** 2 + (x - px) ** 2 for py, px in points], axis=0)
        for j in range(NUM_OBJECTS):
            (cy, cx), (ry, rx) = rng.uniform(0, SIZE, 2), rng.uniform(SIZE / 20, SIZE / 6, 2)
            true[i][((y - cy) / ry) ** 2 + ((x - cx) / rx) ** 2 < 1] = j + 1
    return pred, true


def batched(pred: torch.Tensor, true: torch.Tensor) -> np.ndarray:
    """All scores of a batch, ours: `b 4`."""
    scores = score_masks(replace(PROTOCOLS["oclf"], metrics=METRICS), pred, {"mask": true}, num_slots=NUM_SLOTS)
    return torch.stack([scores[name].values for name in METRICS], 1).numpy()


def looped(pred: np.ndarray, true: np.ndarray) -> np.ndarray:
    """All scores of a batch, one image and one pair of masks at a time: `b 4`."""
    rows = []
    for p, t in zip(pred, true, strict=True):
        foreground = t > 0
        slots = [p == k for k in range(NUM_SLOTS)]
        iou = np.array(
            [[(g & s).sum() / (g | s).sum() for s in slots] for g in (t == i for i in np.unique(t) if i > 0)]
        )
        matched = linear_sum_assignment(iou, maximize=True)
        rows.append(
            (
                adjusted_rand_score(t.ravel(), p.ravel()),
                adjusted_rand_score(t[foreground], p[foreground]),
                iou.max(1).mean(),
                iou[matched].sum() / len(iou),
            )
        )
    return np.array(rows)


def run(num_images: int = 1000) -> list[dict]:
    """Times in seconds for `num_images` images on one core each, and their ratio."""
    pred, true = images()
    pred_tensor, true_tensor = torch.from_numpy(pred), torch.from_numpy(true)
    np.testing.assert_allclose(batched(pred_tensor, true_tensor)[:5], looped(pred[:5], true[:5]), atol=1e-12)
    ours = naive = 0.0
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the plain loop has one; in turns, so that a busy machine slows both
    for _ in range(num_images // BATCH):
        start = time.perf_counter()
        batched(pred_tensor, true_tensor)
        middle = time.perf_counter()
        looped(pred, true)
        ours, naive = ours + middle - start, naive + time.perf_counter() - middle
    torch.set_num_threads(threads)
    name = f"ARI, FG-ARI, mBO, mIoU of {num_images:,} images {SIZE} x {SIZE}"
    return [{"name": name, "ours_s": ours, "naive_s": naive, "ratio": naive / ours}, largest_mask()]


def largest_mask(repeats: int = 15) -> dict:
    """Medians of one thread's CPU time, in turns."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    masks = torch.rand(320, 4, 35, 35)
    assert torch.equal(segmentation(masks, (35, 35)), masks.argmax(dim=-3))
    times = []
    for _ in range(2 + repeats):
        start = time.process_time()
        segmentation(masks, (35, 35))
        middle = time.process_time()
        masks.argmax(dim=-3)
        times.append((middle - start, time.process_time() - middle))
    torch.set_num_threads(threads)
    ours, naive = np.median(times[2:], axis=0).tolist()
    return {"name": "largest of 4 masks, 320 images 35 x 35", "ours_s": ours, "naive_s": naive, "ratio": naive / ours}


if __name__ == "__main__":
    for row in run():
        print(f"{row['name']}: {row['ours_s']:.4f} s, plain {row['naive_s']:.4f} s, ratio {row['ratio']:.1f}")
