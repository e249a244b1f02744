"""A recipe: a run with a name, and beside it, each said once, what its source prints and what it takes.

A function becomes one with `@recipe(...)` above it; a row that differs from its neighbour in a few settings is
`neighbour.but(...)`. What was measured here stands in the records under `docs/records`, by the recipe's name.
"""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from slotworks.training import Run


@dataclass(frozen=True)
class Published:
    """What a paper or its code prints for a recipe, and where."""

    source: str  # paper and table, figure or section, or a file of the released code
    numbers: Mapping[str, str] = field(default_factory=dict)  # as printed there, by metric as papers name it
    note: str = ""  # how they were measured, or what stands there in their place

    def __str__(self) -> str:
        numbers = ", ".join(f"{metric} {value}" for metric, value in self.numbers.items())
        return f"{numbers or 'no number'} ({'; '.join(filter(None, [self.source, self.note]))})"


@dataclass(frozen=True)
class Recipe:
    """A function that makes a `Run`, with what is known of it; calling the recipe calls the function."""

    make: Callable[[], Run]
    about: str  # one line
    published: tuple[Published, ...] = ()  # none: not from a paper
    takes: str = "not measured here"  # time and memory
    notes: str = ""  # what a reader has to know of its settings
    options: str = ""  # what its command takes beside its name
    no_record: str = ""  # own numbers of earlier work, where `docs/records` has none

    def __call__(self) -> Run:
        """The run, which also says what its source prints; beside a published number all images of a split count."""
        run = self.make()
        everything = run.last_eval_all or bool(self.published)
        return replace(run, expected="; ".join(map(str, self.published)), last_eval_all=everything)

    def but(self, about: str, *published: Published, **changes: Any) -> "Recipe":
        """The recipe that differs from this one in `changes`, which are those of `changed` and fields of a recipe."""
        facts = {name: changes.pop(name) for name in ("takes", "notes", "options", "no_record") if name in changes}
        facts = {"takes": self.takes, "options": self.options} | facts
        return Recipe(lambda: changed(self.make(), **changes), about, published, **facts)


def recipe(*published: Published, **facts: str) -> Callable[[Callable[[], Run]], Recipe]:
    """A decorator: the function's docstring has the line about it and the notes, `facts` are fields of a `Recipe`."""

    def named(make: Callable[[], Run]) -> Recipe:
        about, _, notes = inspect.cleandoc(make.__doc__ or "").partition("\n")
        return Recipe(make, about, published, notes=notes.strip(), **facts)

    return named


def changed(run: Run, **changes: Any) -> Run:
    """A run with other settings; a dictionary changes fields of what stands there: `method={"num_slots": 7}`."""
    parts = {
        name: replace(getattr(run, name), **value) if isinstance(value, dict) else value
        for name, value in changes.items()
    }
    return replace(run, **parts)
