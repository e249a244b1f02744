"""Names of metrics as papers print them."""

LABELS = {
    "fg_ari": "FG-ARI",
    "mbo": "mBO",
    "miou": "mIoU",
    "corloc": "CorLoc",
    "semantic_miou": "mIoU over classes",
    "shown": "shown",
    "kept": "kept",
    "top1": "top-1",
    "top1_per_image": "top-1, mean over images",
    "top1_constant": "top-1 of a constant",
    "position_mse": "position MSE",
    "position_mse_constant": "position MSE of a constant",
}


def label(metric: str) -> str:
    """A metric as papers print it: `fg_ari` is FG-ARI, `mbo_i` is mBO_i."""
    if metric in LABELS:
        return LABELS[metric]
    stem, _, suffix = metric.rpartition("_")
    if suffix in ("i", "c"):
        return f"{LABELS.get(stem, stem.upper())}_{suffix}"
    if metric.startswith("iou_"):
        return f"IoU {metric.removeprefix('iou_')}"
    return metric.upper() if len(metric) <= 5 else metric.replace("_", " ")
