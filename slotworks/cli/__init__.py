"""The command line: one verb per intention, each a short function over `slotworks.api`."""

import importlib
import sys

# Verb to the module that holds it and the line that `slotworks --help` prints.
VERBS = {
    "demo": ("demo", "draw scenes, train Slot Attention, measure, open the report: minutes on two CPU cores"),
    "train": ("train", "train a recipe, for example slot_attention.tetrominoes; resumes by itself"),
    "recipes": ("recipes", "what can be trained: time, memory, data, published and own numbers of each"),
    "sweep": ("sweep", "a recipe in several variants: one table and one plot; the ablations of Slot Attention"),
    "evaluate": ("evaluate", "score a run under named protocols; prints a table, writes RUN/eval/*.json"),
    "segment": ("segment", "own pictures: masks, slot vectors and overlays"),
    "edit": ("edit", "take objects out of a picture, bring them in from another, by their slots"),
    "studio": ("studio", "edit pictures in a browser, by clicking objects"),
    "synthesize": ("synthesize", "images with pseudo-masks for GLASS: glass.coco, glass.voc, glass.scenes; resumes"),
    "report": ("report", "a run folder to one HTML page"),
    "doctor": ("doctor", "what went wrong in a run, and the likely fix"),
    "data": ("data", "list, prepare and check data sets"),
    "convert": ("convert", "published checkpoints to run folders, and a trained U-Net to a folder of diffusers"),
    "bench": ("bench", "time and memory of each method on this machine; our forms against the plain ones"),
}


def main(argv: list[str] | None = None) -> int:
    """Run one verb. Returns 0, 1 for findings (`doctor`, `data check`), 2 for a user's mistake, 130 after Ctrl-C."""
    argv = sys.argv[1:] if argv is None else argv
    if not argv or argv[0] in ("-h", "--help"):
        print(_help())
        return 0
    if argv[0] == "--version":
        from slotworks import __version__

        print(__version__)
        return 0
    verb, *rest = argv
    if verb not in VERBS:
        import difflib

        near = difflib.get_close_matches(verb, VERBS, n=1)
        hint = f" Did you mean `slotworks {near[0]}`?" if near else ""
        print(f"slotworks: there is no verb {verb!r}.{hint} `slotworks --help` lists them.", file=sys.stderr)
        return 2
    from slotworks.errors import UserError

    try:
        return importlib.import_module(f"slotworks.cli.{VERBS[verb][0]}").main(rest) or 0
    except UserError as error:
        print(f"slotworks {verb}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"slotworks {verb}: stopped.", file=sys.stderr)
        return 130
    except BrokenPipeError:  # `slotworks ... | head`
        return 0


def _help() -> str:
    lines = [
        "usage: slotworks VERB ...",
        "",
        "Object-centric learning: take images apart into slots, one per object.",
        "",
    ]
    lines += [f"  {verb:<12}{text}" for verb, (_, text) in VERBS.items()]
    lines += ["", "`slotworks VERB --help` shows examples and defaults."]
    return "\n".join(lines)
