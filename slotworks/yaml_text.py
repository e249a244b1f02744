"""YAML as settings need it: mappings, lists, text and numbers. A file can neither run code, hang nor grow in memory."""

import yaml

LIMIT = 300_000  # characters of a file; a long recipe has some 4,000
NODES = 5_000  # values in it; a long recipe has some 300
DEPTH = 64  # of mappings and lists inside one another
DIGITS = 64  # of a whole number

_PLAIN = tuple(f"tag:yaml.org,2002:{name}" for name in ("map", "seq", "str", "int", "float", "bool", "null"))


class _Loader(yaml.SafeLoader):
    """Refuses what settings do not hold: anchors, other types, mappings that name a key twice."""

    depth = nodes = 0

    def compose_node(self, parent, index):
        event = self.peek_event()
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
            raise _refused("an anchor or a reference to one", event.start_mark)
        self.depth += 1
        self.nodes += 1
        if self.nodes > NODES:
            raise _refused(f"more than {NODES:,} values", event.start_mark)
        if self.depth > DEPTH:
            raise _refused(f"more than {DEPTH} mappings and lists inside one another", event.start_mark)
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def construct_scalar(self, node):
        value = super().construct_scalar(node)
        value.encode()  # half a character, such as the escape d800, which no file and no name of one can hold
        return value

    def construct_mapping(self, node, deep=False):
        mapping = super().construct_mapping(node, deep=True)
        if len(mapping) < len(node.value):
            keys = [key.value for key, _ in node.value]
            twice = next(key for key in keys if keys.count(key) > 1)
            raise _refused(f"{str(twice)[:80]!r} twice in one mapping", node.start_mark)
        return mapping

    def construct_plain_int(self, node):
        if len(node.value) > DIGITS:
            raise _refused(f"a number of {len(node.value)} digits", node.start_mark)
        return self.construct_yaml_int(node)


def _refused(what: str, mark: yaml.Mark) -> yaml.YAMLError:
    return yaml.MarkedYAMLError(problem=f"found {what}, which settings cannot hold", problem_mark=mark)


# Without dates: text of digits and hyphens is text. A tag of the file's own choice finds no constructor.
_Loader.yaml_constructors = {
    tag: function for tag, function in yaml.SafeLoader.yaml_constructors.items() if tag in (*_PLAIN, None)
}
_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_plain_int)
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in found if tag in _PLAIN]
    for first, found in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def read_yaml(text: str):
    """The value of a YAML text: dictionaries, lists, text, whole numbers, fractions, truth values, None.

    Raises:
        ValueError: if it is not YAML, holds something else, or is longer than `LIMIT`. The message is one line and
            says where.
    """
    if len(text) > LIMIT:
        raise ValueError(f"it has {len(text):,} characters; settings have at most {LIMIT:,}")
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from None
    except (KeyError, OverflowError) as error:  # `!!bool maybe`
        raise ValueError(f"a value does not fit its tag ({error})") from None
