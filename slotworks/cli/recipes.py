"""`slotworks recipes`."""

from collections.abc import Sequence

from slotworks import tables
from slotworks.cli.console import print_json
from slotworks.errors import UserError, nearest

HELP = """usage: slotworks recipes [WORD ...] [--json]

List what can be trained or measured: what it takes in time, memory and data, the published number and our own.

  slotworks recipes                          all of them
  slotworks recipes mini cpu                 those that a CPU trains in minutes
  slotworks recipes savi movi_e              a method, a data set
  slotworks recipes video drawn --json

Every word has to occur in the name, the method, the data set or the first line, or to be one of these: mini (made
small, not a row of a paper), cpu (timed on a CPU), video, drawn (needs no files), untrained (nothing to train)."""


def main(argv: Sequence[str]) -> int:
    """Words to look for; all recipes without any."""
    if {"-h", "--help"} & set(argv):
        print(HELP)
        return 0
    words = [word for word in argv if word != "--json"]
    if wrong := [word for word in words if word.startswith("-")]:
        raise UserError(f"`recipes` has no option {wrong[0]}; it takes words to look for, and --json.")
    rows = tables.read()["recipes"]
    found = tables.select(rows, words)
    if "--json" in argv:
        print_json(found)
        return 0
    if not found:
        near = nearest(words[0], (row["name"] for row in rows))
        raise UserError(f"No recipe has all of these words: {', '.join(words)}. Names like the first: {near}.")
    for row in found:
        print(row["name"])
        print(f"  {row['about']}")
        for label, text in (
            ("time", row["takes"]),
            ("memory", row["memory"]),
            ("data", f"{row['data']} ({row['data_size']})"),
            ("published", row["published"]),
            ("our own", row["measured"]),
        ):
            print(f"  {label:<11}{text}")
    print(f"{len(found)} of {len(rows)} recipes. `slotworks train NAME --dry-run` tries one on this machine.")
    return 0
