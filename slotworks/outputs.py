"""Results in a folder that may hold a person's own files: the program replaces and removes only what it wrote itself.

The list of that is `.slotworks.jsonl` in the folder, two kinds of lines:

    {"source": "../cat.jpg", "names": ["cat_mask.png", ...]}   what is made from which file, noted before the first
    {"name": "cat_mask.png", "sha256": "..."}                  a file, noted before it takes its place

A file belongs to the program while its name and content are on the list: who paints on one makes it their own. Lines
are only added, so a kill at any moment leaves a list that names at least what is there.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path, PurePosixPath

from slotworks.errors import UserError
from slotworks.files import PARTIAL, flush, locked, replacing
from slotworks.json_text import read_json

LIST = ".slotworks.jsonl"


class Outputs:
    """The results in one folder.

    Args:
        folder: need not exist.

    Raises:
        UserError: if the list is there and cannot be read.
    """

    def __init__(self, folder: Path | str):
        self.folder = Path(folder)
        self.hashes: dict[str, set[str]] = {}  # of every content that the program gave a name, past ones too
        self.sources: dict[str, str] = {}  # of a name, folded to lower case: some file systems know no other
        self.names: dict[tuple[str, tuple[str, ...]], str] = {}  # that `name_for` gave, by source and endings
        self.planned: list[dict[str, object]] = []  # noted with the first file: who is refused leaves nothing behind
        try:
            known = (self.folder / LIST).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            known = b""
        except OSError as error:
            raise UserError(f"{self.folder / LIST} cannot be read ({error.strerror or error}).") from None
        self.cut_off = bool(known) and not known.endswith(b"\n")
        for line in known.splitlines():
            self._learn(line)

    def _learn(self, line: bytes) -> None:
        """Take a line of the list in; one that a kill cut off, or somebody wrote, says nothing."""
        try:
            entry = read_json(line)
            if "sha256" in entry:
                self.hashes.setdefault(_plain(entry["name"]), set()).add(str(entry["sha256"]))
            else:
                self.sources |= {_plain(name).lower(): str(entry["source"]) for name in entry["names"]}
        except (ValueError, TypeError, KeyError):
            pass

    def owns(self, name: str) -> bool:
        """Whether the program wrote what lies there now."""
        path = self.folder / name
        known = self.hashes.get(name)
        return bool(known) and path.is_file() and not path.is_symlink() and _sha256(path) in known

    def made(self, path: Path) -> bool:
        """Whether a file, wherever it lies, is one of these results."""
        return self.owns(_relative(path, self.folder))

    def check_free(self, names: Iterable[str]) -> None:
        """Refuse names that somebody else's files have.

        Raises:
            UserError: if there is one.
        """
        for name in names:
            if os.path.lexists(self.folder / name) and not self.owns(name):
                raise UserError(
                    f"{self.folder / name} is there and was not written by this program, or was changed since; move it "
                    "away, or choose another folder."
                )

    def name_for(self, source: Path | str, endings: Sequence[str], *, folders: Sequence[str] = ()) -> str:
        """The beginning of the names of what is made from a file: its stem where no other file's results have that.

        The same file gets the same name again. To be asked for all files before the first one is worked on.

        Args:
            source: the file.
            endings: of the results, such as `_mask.png`.
            folders: endings of folders of numbered pictures, such as `_masks`.

        Raises:
            UserError: if results would take the place of somebody else's file.
        """
        source = Path(source)
        origin, kinds = _relative(source, self.folder), (*endings, *folders)
        if (origin, kinds) in self.names:
            return self.names[origin, kinds]
        used = {f"{stem}{ending}".lower() for (_, kinds), stem in self.names.items() for ending in kinds}
        candidates = [source.stem, source.name.replace(".", "_"), *(f"{source.stem}_{i}" for i in range(2, 10_000))]
        for stem in candidates:
            names = [f"{stem}{ending}" for ending in kinds]
            if any(name.lower() in used or self.sources.get(name.lower(), origin) != origin for name in names):
                continue
            self.check_free(f"{stem}{ending}" for ending in endings)
            for name in (f"{stem}{ending}" for ending in folders):
                if os.path.lexists(self.folder / name) and not (self.folder / name).is_dir():
                    self.check_free([name])
                self.check_free(self.numbered(name))
            self.names[origin, kinds] = stem
            if any(self.sources.get(name.lower()) != origin for name in names):
                self.planned.append({"source": origin, "names": names})
            for name in names:
                _remove_partial(self.folder / name)
            return stem
        raise UserError(f"{self.folder} holds results of 10,000 files named {source.stem}; choose another folder.")

    def numbered(self, name: str) -> list[str]:
        """Numbered pictures `NAME/000000.png` that lie in a folder, whoever made them."""
        found = (self.folder / name).glob("*.png") if (self.folder / name).is_dir() else ()
        return sorted(f"{name}/{path.name}" for path in found if len(path.stem) >= 6 and path.stem.isdigit())

    @contextmanager
    def replacing(self, name: str) -> Iterator[Path]:
        """Like `slotworks.files.replacing` of a file in the folder, and the list knows of it.

        Raises:
            UserError: if somebody else's file lies there, or the disk refuses.
        """
        self.check_free([name])
        if self.planned:
            self._note([])
        with replacing(self.folder / name) as beside:
            yield beside
            self._note_contents({name: beside})

    def write_text(self, name: str, text: str) -> Path:
        """Write text in UTF-8, whole or not at all.

        Raises:
            UserError: if somebody else's file lies there, or the disk refuses.
        """
        with self.replacing(name) as beside:
            beside.write_text(text, encoding="utf-8")
        return self.folder / name

    def place(self, folder: Path, name: str, *, only: bool = False) -> None:
        """Give the files below a folder their place below `name`, each whole.

        Args:
            folder: with the new files, on the same disk.
            name: of the folder of results.
            only: remove numbered pictures there that the program wrote earlier and now did not.

        Raises:
            UserError: if somebody else's file lies in the place of one, or the disk refuses.
        """
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        names = {f"{name}/{path.relative_to(folder).as_posix()}": path for path in files}
        self.check_free(names)
        self._note_contents(names)
        try:
            probe = folder / f"{PARTIAL}mode"
            probe.touch()
            mode = probe.stat().st_mode
            probe.unlink()
            for new, path in names.items():
                path.chmod(mode)
                flush(path)
                (self.folder / new).parent.mkdir(parents=True, exist_ok=True)
                path.replace(self.folder / new)
            for old in set(self.numbered(name)) - names.keys() if only else ():
                if self.owns(old):
                    (self.folder / old).unlink()
            flush(self.folder / name)
        except OSError as error:
            raise UserError(f"{self.folder / name} could not be written ({error.strerror or error}).") from None

    def _note_contents(self, names: Mapping[str, Path]) -> None:
        found = ((name, _sha256(path)) for name, path in names.items())
        new = [{"name": name, "sha256": sha256} for name, sha256 in found if sha256 not in self.hashes.get(name, ())]
        if new:
            self._note(new)

    def _note(self, entries: Iterable[Mapping[str, object]]) -> None:
        """Add lines to the list.

        Raises:
            UserError: if the disk refuses.
        """
        entries, self.planned = [*self.planned, *entries], []
        lines = [json.dumps(entry).encode() for entry in entries]
        path = self.folder / LIST
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with path.open("ab") as file:
                file.write(b"\n" * self.cut_off + b"\n".join(lines) + b"\n")
                self.cut_off = True  # until all of it is there
                file.flush()
                os.fsync(file.fileno())
                self.cut_off = False
        except OSError as error:
            reason = error.strerror or error
            raise UserError(f"{path} could not be extended ({reason}); nothing was replaced.") from None
        for line in lines:
            self._learn(line)


@contextmanager
def writing(folder: "Path | str | Outputs", *, doing: str) -> Iterator[Outputs]:
    """The results in a folder, which no other process writes to meanwhile; those that a caller opened stay as they are.

    Raises:
        UserError: if another process does, or the disk refuses.
    """
    if isinstance(folder, Outputs):
        yield folder
        return
    with locked(folder, doing=doing, name=f"{LIST}.lock"):
        yield Outputs(folder)


def without_own(files: Iterable[Path]) -> list[Path]:
    """Files that are not results which the program wrote itself."""

    @cache
    def known(folder: Path) -> list[Outputs]:
        """Lists that may name what is in a folder: its own and that of the folder around it."""
        return [Outputs(place) for place in (folder, folder.parent) if (place / LIST).is_file()]

    return [
        file
        for file in files
        if not any(outputs.owns(file.relative_to(outputs.folder).as_posix()) for outputs in known(file.parent))
    ]


def _plain(name: object) -> str:
    """The name of a file below the folder.

    Raises:
        ValueError: if it is none.
    """
    parts = PurePosixPath(name).parts if isinstance(name, str) else ()
    if not parts or ".." in parts or PurePosixPath(str(name)).is_absolute():
        raise ValueError
    return str(name)


def _remove_partial(path: Path) -> None:
    """Remove what a killed process left of a result, file or folder of pictures."""
    beside = path.with_name(f"{PARTIAL}{path.name}")
    try:
        if beside.is_dir() and not beside.is_symlink():
            for file in beside.iterdir():
                file.unlink()
            beside.rmdir()
        else:
            beside.unlink(missing_ok=True)
    except OSError:
        pass


def _relative(path: Path, folder: Path) -> str:
    """A path as seen from a folder, so that both may move together; where that cannot be, the whole path."""
    try:
        return Path(os.path.relpath(path.resolve(), folder.resolve())).as_posix()
    except (OSError, ValueError):
        return str(path)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
