"""The command line: one verb per intention, each a short function over `slotworks.api`."""

import errno
import importlib
import io
import signal
import sys

# Verb to the module that holds it and the line that `slotworks --help` prints.
VERBS = {
    "demo": ("demo", "draw scenes, train Slot Attention, measure, open the report: minutes on two CPU cores"),
    "train": ("train", "train a recipe, for example slot_attention.tetrominoes; resumes by itself"),
    "recipes": ("recipes", "what can be trained: time, memory, data, published and own numbers of each"),
    "sweep": ("sweep", "a recipe in several variants: one table and one plot; the ablations of Slot Attention"),
    "evaluate": ("evaluate", "score a run under named protocols; prints a table, writes RUN/eval/*.json"),
    "compare": ("compare", "evaluated runs side by side: mean, spread over seeds, interval of the difference"),
    "table9": ("table9", "the methods of GLASS's table 9 on one data set: mIoU over classes, or what makes the run"),
    "segment": ("segment", "own pictures: masks, slot vectors and overlays"),
    "edit": ("edit", "take objects out of a picture, bring them in from another, by their slots"),
    "compose": ("compose", "pictures of several texts at once, the comparison with editing by slots"),
    "studio": ("studio", "edit pictures in a browser, by clicking objects"),
    "synthesize": ("synthesize", "images with pseudo-masks for GLASS: glass.coco, glass.voc, glass.scenes; resumes"),
    "label": ("label", "masks of classes for images without any, from clusters of segments, to train a segmenter on"),
    "report": ("report", "a run folder to one HTML page"),
    "doctor": ("doctor", "what went wrong in a run, and the likely fix"),
    "data": ("data", "list, prepare and check data sets"),
    "convert": ("convert", "published checkpoints to run folders, and a trained U-Net to a folder of diffusers"),
    "publish": ("publish", "a trained run with a card, to a folder or to the Hugging Face hub"),
    "export": ("export", "a trained run as ONNX or torch programs: pictures to slots and masks, slots to pictures"),
    "zoo": ("zoo", "trained runs that come with the package, and those that one command builds"),
    "plan": ("plan", "what a training asks of a GPU, before its data and weights are there"),
    "bench": ("bench", "time and memory of each method on this machine; our forms against the plain ones"),
    "completion": ("completion", "verbs, recipes and options completed by bash, zsh and fish"),
}

ALWAYS = ("--help", "--quiet")
"""Options of every verb."""


MACHINE = {
    errno.ENOSPC: "make room, or choose another place",
    errno.EDQUOT: "make room, or choose another place",
    errno.EFBIG: "allow larger files (`ulimit -f`), or choose another place",
    errno.EACCES: "change its permissions, or choose another place",
    errno.EPERM: "change its permissions, or choose another place",
    errno.EROFS: "choose another place",
    errno.EIO: "the disk or its connection fails; choose another place",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.ELOOP: "links lead to one another; choose another path",
    errno.ENOTDIR: "a file lies where a folder is needed; choose another path",
    errno.EISDIR: "a folder lies where a file is needed; choose another path",
    errno.EMFILE: "allow more open files (`ulimit -n`), or use fewer processes",
    errno.ENFILE: "close other programs, or use fewer processes",
    errno.ENOMEM: "close other programs, or use a smaller batch-size",
    errno.ETXTBSY: "another program uses it",
}
"""What the system refuses for a reason outside this program, and what helps. A file that is missing is not among them:
looking for one that was never promised is a fault of the program."""

_OUT_OF_MEMORY = "can't allocate memory"  # how torch's allocator for CPUs says it, in a RuntimeError


def main(argv: list[str] | None = None) -> int:
    """Run one verb.

    Returns:
        0; 1 for findings (`doctor` and `data check` found something wrong, `segment` skipped a file, a seed diverged);
        2 for a mistake of the user or a refusal of the machine, such as a full disk; 130 after Ctrl-C, 143 where
        SIGTERM made a training save and end.
    """
    argv = sys.argv[1:] if argv is None else argv
    for stream in (sys.stdout, sys.stderr):  # a sign that the terminal's encoding lacks must not end the work
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    if not argv or argv[0] in ("-h", "--help"):
        print(_help())
        return 0
    if argv[0] == "--version":
        from slotworks.version import __version__

        print(__version__)
        return 0
    if "--quiet" in argv:
        from slotworks.progress import silent

        with silent():
            return main([word for word in argv if word != "--quiet"])
    verb, *rest = argv
    if verb not in VERBS:
        from slotworks.errors import nearest

        near = nearest(verb, VERBS)
        print(f"slotworks: there is no verb {verb!r}; nearest: {near}. `slotworks --help` lists them.", file=sys.stderr)
        return 2
    from slotworks.errors import Stopped, UserError, printable

    try:
        return importlib.import_module(f"slotworks.cli.{VERBS[verb][0]}").main(rest) or 0
    except UserError as error:
        message = str(error)
    except Stopped as stopped:
        return 128 + stopped.signal
    except KeyboardInterrupt:
        print(f"slotworks {verb}: stopped.", file=sys.stderr)
        return 128 + signal.SIGINT
    except BrokenPipeError:  # `slotworks ... | head`
        return 0
    except (OSError, MemoryError, RuntimeError) as error:
        message = _refusal(error)
        if not message:
            raise
    print(f"slotworks {verb}: {printable(message)}", file=sys.stderr)
    return 2


def _refusal(error: Exception) -> str:
    """The sentence about what the machine refused; nothing where the error may be one of this program.

    The rule: a refusal is a system call that failed for a reason that lies in the machine or in a path of the user's
    (`MACHINE`), or memory that ran out. Any other error, also an OSError without such a reason, keeps its traceback.
    """
    text = " ".join(str(error).split())
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError" or _OUT_OF_MEMORY in text:
        return (
            f"The memory does not suffice ({text[:160] or type(error).__name__}); take a smaller batch-size, fewer or "
            "smaller images, or a larger machine."
        )
    if isinstance(error, OSError) and error.errno in MACHINE:
        place = f"{error.filename}: " if error.filename is not None else ""
        return f"{place}{error.strerror}; {MACHINE[error.errno]}."
    return ""


def _help() -> str:
    lines = [
        "usage: slotworks VERB ...",
        "",
        "Object-centric learning: take images apart into slots, one per object.",
        "",
    ]
    lines += [f"  {verb:<12}{text}" for verb, (_, text) in VERBS.items()]
    lines += [
        "",
        "`slotworks VERB --help` shows examples and defaults; `slotworks VERB ... --quiet` shows no progress.",
    ]
    return "\n".join(lines)
