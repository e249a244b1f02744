"""`python -m benchmarks [NAME ...]`: run all, or some, and print a line for each comparison."""

import importlib
import pkgutil
import sys

import benchmarks


def main(names: list[str]) -> None:
    known = [module.name for module in pkgutil.iter_modules(benchmarks.__path__) if module.name != "__main__"]
    for name in names or known:
        if name not in known:
            sys.exit(f"There is no benchmark {name!r}; known: {', '.join(known)}.")
        for row in importlib.import_module(f"benchmarks.{name}").run():
            print(f"{row['name']:<60} {row['ours_s']:9.4f} s  plain {row['naive_s']:9.4f} s  {row['ratio']:6.1f}x")


if __name__ == "__main__":
    main(sys.argv[1:])
