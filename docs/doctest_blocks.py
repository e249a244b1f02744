"""For the site: examples in docstrings (`>>> ...`) are blocks of code there. Named in mkdocs.yml."""

import re

import griffe

EXAMPLE = re.compile(r"^>>> .*(?:\n\S.*)*", re.MULTILINE)


class DoctestBlocks(griffe.Extension):
    """Fences around examples, which Markdown would take for quotations."""

    def on_object(self, *, obj: griffe.Object, **given: object) -> None:
        """Called for each module, class, function and attribute that was read."""
        if obj.docstring is not None:
            obj.docstring.value = EXAMPLE.sub(lambda found: f"```pycon\n{found[0]}\n```", obj.docstring.value)
