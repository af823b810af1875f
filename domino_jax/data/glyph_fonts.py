"""Finds font files, names their families and the designs that families share."""

import hashlib
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

_PACKAGES = (
    "fonts-adf-accanthis fonts-adf-baskervald fonts-adf-berenis fonts-adf-gillius "
    "fonts-adf-ikarius fonts-adf-irianis fonts-adf-mekanus fonts-adf-oldania fonts-adf-romande "
    "fonts-adf-switzera fonts-adf-tribun fonts-adf-universalis fonts-averia-gwf "
    "fonts-averia-sans-gwf fonts-averia-serif-gwf fonts-cabin fonts-cantarell fonts-clear-sans "
    "fonts-comfortaa fonts-courier-prime fonts-crosextra-caladea fonts-dejavu-core "
    "fonts-dejavu-extra fonts-dosis fonts-ebgaramond fonts-go fonts-junicode fonts-jura fonts-lato "
    "fonts-liberation fonts-linuxlibertine fonts-lmodern fonts-open-sans fonts-paratype "
    "fonts-quicksand fonts-roboto-unhinted fonts-sil-gentium-basic fonts-tuffy fonts-urw-base35 "
    "fonts-vollkorn fonts-yanone-kaffeesatz"
)
INSTALL = f"apt-get update && apt-get install -y --no-install-recommends {_PACKAGES}"
_KINDS = {".ttf", ".otf"}
_TEST_EVERY = 5  # designs
# Families that draw nearly the same letters under other names: those of the 35 PostScript fonts,
# Computer Modern, Bitstream Vera and Lato.
_COPIES = (
    ("helvetica", r"Nimbus Sans|TeX Gyre Heros|FreeSans|IndUni-H"),
    ("times", r"Nimbus Roman|TeX Gyre Termes|FreeSerif|IndUni-T|STIX"),
    ("courier", r"Nimbus Mono|TeX Gyre Cursor|FreeMono|IndUni-C"),
    ("palatino", r"P052|URW Palladio|TeX Gyre Pagella|IndUni-P"),
    ("schoolbook", r"C059|Century Schoolbook L|TeX Gyre Schola|IndUni-N"),
    ("bookman", r"URW Bookman|TeX Gyre Bonum"),
    ("gothic", r"URW Gothic|TeX Gyre Adventor"),
    ("chancery", r"Z003|URW Chancery|TeX Gyre Chorus"),
    ("computer modern", r"CMU|Latin Modern|cm[a-z]+[0-9]+"),
    ("vera", r"Bitstream Vera|DejaVu|Verana"),
    ("lato", r"Lato|Carlito"),
)


def system_folders() -> tuple[Path, ...]:
    """Lists the folders in which systems keep fonts, whether they exist or not."""
    home = Path.home()
    shared = os.environ.get("XDG_DATA_DIRS") or "/usr/local/share:/usr/share"
    own = os.environ.get("XDG_DATA_HOME") or str(home / ".local/share")
    roots = [Path(folder) for folder in [*shared.split(":"), own] if folder]
    # Debian keeps Latin Modern among TeX's.
    folders = [root / kind for root in roots for kind in ("fonts", "texmf/fonts")]
    mac = [Path("/System/Library/Fonts"), Path("/Library/Fonts"), home / "Library/Fonts"]
    return (*folders, home / ".fonts", *mac)


def find_files(folders: Iterable[Path]) -> tuple[Path, ...]:
    """Finds the .ttf and .otf files below folders, ordered by name.

    Of files with one name and size the first is taken, by folder, then by path.
    """
    file_by_mark: dict[tuple[str, int], Path] = {}
    for folder in folders:
        for path in sorted(_below(folder)):
            file_by_mark.setdefault(_mark(path), path)
    return tuple(file_by_mark[mark] for mark in sorted(file_by_mark))


def fingerprint(files: Sequence[Path]) -> str:
    """Returns 12 hexadecimal digits that depend on the names and sizes of files, not on where."""
    text = "\n".join(f"{name} {size}" for name, size in map(_mark, files))
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()[:12]


def design_of(family: str) -> str:
    """Names the design of a family, by which fonts are split.

    Families whose names begin with the same word ('DejaVu Sans', 'DejaVu Serif') are one design,
    and so are the known copies of a typeface.
    """
    for design, names in _COPIES:
        if re.match(rf"(?:{names})", family):
            return design
    return family.split(maxsplit=1)[0].lower() if family.strip() else ""


def is_test(design: str) -> bool:
    """Says whether the fonts of a design belong to the test set."""
    return int(hashlib.sha256(design.encode()).hexdigest(), 16) % _TEST_EVERY == 0


def _mark(path: Path) -> tuple[str, int]:
    return path.name, path.stat().st_size


def _below(folder: Path) -> Iterator[Path]:
    for root, _, names in os.walk(folder):
        paths = (Path(root) / name for name in names)
        yield from (path for path in paths if path.suffix.lower() in _KINDS and path.is_file())
