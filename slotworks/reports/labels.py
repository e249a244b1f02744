"""Names and values of metrics as papers print them."""

from typing import Any

from slotworks.reports.charts import finite_number
from slotworks.tables import metric


def label(name: str) -> str:
    """A metric as papers print it, as its task says: `fg_ari` is FG-ARI, `mbo_i` is mBO_i."""
    return metric(name)["label"] or (name.upper() if len(name) <= 5 else name.replace("_", " "))


def score(name: str, mean: Any, sem: Any) -> str:
    """A value of a metric as papers print it, shares in percent, with its standard error; n/a where there is none."""
    if finite_number(mean) is None:
        return "n/a"
    scale, digits = (100, 1) if metric(name)["unit"] == "share" else (1, 3)
    spread = "" if finite_number(sem) is None else f" ± {scale * sem:.{digits}f}"
    return f"{scale * mean:.{digits}f}{spread}"
