"""Records of an evaluation as a list that shows itself in a notebook."""

from collections.abc import Mapping
from typing import Any

from slotworks.html_text import table
from slotworks.reports.labels import label, score
from slotworks.tables import learn


class Records(list[dict[str, Any]]):
    """What `evaluate` returns: a list of records; a notebook shows one row for each, one column for each metric."""

    def _repr_html_(self) -> str:
        for record in self:
            learn(record.get("about"))
        names = list(dict.fromkeys(name for record in self for name in _metrics(record)))
        head = ["data", "split", "protocol", "images", *map(label, names)]
        rows = [
            [*(record.get(key, "") for key in ("data", "split", "protocol", "num_images")), *_scores(record, names)]
            for record in self
        ]
        return table(rows, head=head)


def _metrics(record: Mapping[str, Any]) -> Mapping[str, Any]:
    found = record.get("metrics")
    return found if isinstance(found, Mapping) else {}


def _scores(record: Mapping[str, Any], names: list[str]) -> list[str]:
    found = _metrics(record)
    return [score(name, found[name]["mean"], found[name]["sem"]) if name in found else "" for name in names]
