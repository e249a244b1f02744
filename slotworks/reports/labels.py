"""Names of metrics as papers print them."""

from slotworks.tables import metric


def label(name: str) -> str:
    """A metric as papers print it, as its task says: `fg_ari` is FG-ARI, `mbo_i` is mBO_i."""
    return metric(name)["label"] or (name.upper() if len(name) <= 5 else name.replace("_", " "))
