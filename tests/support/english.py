"""English text of Debian packages, as files that the data set `text` reads.

    python -m tests.support.english DIR

DIR/calibration has the chapters of a book on politics (anarchism), DIR/other those of the Debian
handbook with odd numbers, DIR/evaluation those with even ones and novels of Jane Austen
(r-cran-janeaustenr): no file is in two of them. The same packages give the same bytes.
"""

import argparse
import gzip
import re
import subprocess
import tempfile
import zlib
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

PACKAGES = ("anarchism", "debian-handbook", "r-cran-janeaustenr")
_DOCS = "usr/share/doc"
_LEAST = 5000  # characters; shorter ones are covers and lists
_MOST = 300_000  # of a novel
_BLOCKS = {"p", "li", "dt", "dd", "h1", "h2", "h3", "h4", "td", "pre"}
_LEFT_OUT = {"script", "style", "pre", "table"}


def download(folder: Path) -> bool:
    """Unpacks the packages into a folder; False where they cannot be downloaded."""
    command = ["apt-get", "-o", "APT::Sandbox::User=root", "download", *PACKAGES]
    if subprocess.run(
        command, cwd=folder, capture_output=True, timeout=600, check=False
    ).returncode:
        return False
    for package in sorted(folder.glob("*.deb")):
        subprocess.run(["dpkg-deb", "-x", package, folder], check=True)
        package.unlink()
    return True


def write(packages: Path, folder: Path) -> Path:
    """Writes the text of unpacked packages."""
    chapters = list(_handbook(packages))
    parts = {
        "calibration": dict(_politics(packages)),
        "other": dict(chapters[1::2]),
        "evaluation": dict(chapters[::2]) | dict(_novels(packages)),
    }
    for part, texts in parts.items():
        (folder / part).mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            (folder / part / f"{name}.txt").write_text(text, encoding="utf-8")
    return folder


def _politics(packages: Path) -> Iterator[tuple[str, str]]:
    for path in sorted((packages / _DOCS / "anarchism/markdown").glob("sec*.md.gz")):
        text = gzip.decompress(path.read_bytes()).decode()
        text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", text)  # a link is its words
        text = re.sub(r"(?m)^\s*[*_#>|-]+\s*|[*_\\]", "", text)
        if len(text) >= _LEAST:
            yield path.name.removesuffix(".md.gz"), _joined(re.split(r"\n\s*\n", text))


def _handbook(packages: Path) -> Iterator[tuple[str, str]]:
    for path in sorted((packages / _DOCS / "debian-handbook/html/en-US").glob("*.html")):
        page = _Page()
        page.feed(path.read_text(encoding="utf-8"))
        text = _joined(page.paragraphs)
        if len(text) >= _LEAST:
            yield path.stem, text


def _novels(packages: Path) -> Iterator[tuple[str, str]]:
    """Finds the character vectors in the database of an R package: lines of novels.

    An entry is its size and a zlib stream; a string in it is a tag, its length and its bytes.
    """
    (path,) = packages.glob("usr/lib/R/site-library/janeaustenr/data/Rdata.rdb")
    data, place, number = path.read_bytes(), 0, 0
    while place < len(data):
        stream = zlib.decompressobj()
        entry = stream.decompress(data[place + 4 :])
        place = len(data) - len(stream.unused_data)
        lines = [part.decode("utf-8", "replace") for part in _strings(entry)]
        text = _joined("\n".join(lines).split("\n\n"))[:_MOST]
        if len(text) >= _LEAST:
            yield f"novel{number}", text
            number += 1


def _strings(entry: bytes) -> Iterator[bytes]:
    tag = re.compile(rb"\x00[\x04\x00][\x00-\xff]\x09")
    place = 0
    while (found := tag.search(entry, place)) is not None:
        size = int.from_bytes(entry[found.end() : found.end() + 4], "big")
        place = found.end() + 4 + (size if size < len(entry) else 0)
        if size < len(entry):
            yield entry[found.end() + 4 : place]


class _Page(HTMLParser):
    """Gathers the paragraphs of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.paragraphs = [""]
        self._left_out = 0

    def handle_starttag(self, tag: str, attrs: object) -> None:
        del attrs
        self._left_out += tag in _LEFT_OUT
        if tag in _BLOCKS:
            self.paragraphs.append("")

    def handle_endtag(self, tag: str) -> None:
        self._left_out -= tag in _LEFT_OUT
        if tag in _BLOCKS:
            self.paragraphs.append("")

    def handle_data(self, data: str) -> None:
        if not self._left_out:
            self.paragraphs[-1] += data


def _joined(paragraphs: list[str]) -> str:
    """Makes one line of each paragraph, and drops what is too short to be one."""
    lines = (re.sub(r"\s+", " ", paragraph).strip() for paragraph in paragraphs)
    return "\n\n".join(line for line in lines if len(line) >= 40) + "\n"


def main() -> None:
    """Is the command of the module."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    flags = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        if not download(Path(temporary)):
            raise SystemExit(f"{', '.join(PACKAGES)} cannot be downloaded")
        write(Path(temporary), flags.folder)


if __name__ == "__main__":
    main()
