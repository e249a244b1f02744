"""`python -m benchmarks [NAME ...]`: run all, or some, and print a line for each comparison.

`python -m benchmarks claims`, `gpu` and `peers` take words of their own; `--help` after the name says which.
"""

import importlib
import pkgutil
import sys

import benchmarks

OWN_WORDS = ("claims", "gpu", "peers")


def main(names: list[str]) -> None:
    known = [module.name for module in pkgutil.iter_modules(benchmarks.__path__) if module.name != "__main__"]
    if names and names[0] in OWN_WORDS:
        importlib.import_module(f"benchmarks.{names[0]}").main(names[1:])
        return
    known = [name for name in known if name not in OWN_WORDS]
    for name in names or known:
        if name not in known:
            sys.exit(f"There is no benchmark {name!r}; known: {', '.join(sorted((*known, *OWN_WORDS)))}.")
        for row in importlib.import_module(f"benchmarks.{name}").run():
            print(f"{row['name']:<60} {row['ours_s']:9.4f} s  plain {row['naive_s']:9.4f} s  {row['ratio']:6.1f}x")


if __name__ == "__main__":
    main(sys.argv[1:])
