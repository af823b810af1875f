"""Files of a work directory: JSON that appears whole or not at all, and the curve of a search."""

import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def prepare(workdir: Path) -> None:
    """Makes the work directory.

    Raises:
        ValueError: it cannot be made or written.
    """
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=workdir):
            pass
    except OSError as error:
        raise ValueError(f"workdir {workdir}: cannot be written ({error.strerror})") from None


def write_text(path: Path, text: str) -> None:
    """Writes a file that appears whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with temporary.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def read_json(path: Path) -> dict[str, Any]:
    """Reads a JSON object; {} if there is no such file.

    Raises:
        ValueError: the file is broken or holds something else.
    """
    if not path.exists():
        return {}
    try:
        document = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path}: broken JSON ({error})") from None
    if not isinstance(document, dict):
        raise ValueError(f"{path}: a JSON object is wanted, got a {type(document).__name__}")
    return document


def update_json(path: Path, **entries: Mapping[str, Any]) -> None:
    """Replaces entries of a JSON object on disk, the others stay."""
    document = read_json(path) | entries
    write_text(path, json.dumps(document, indent=1, sort_keys=True) + "\n")


def resume_curve(path: Path, start: int) -> None:
    """Makes the file of a curve, a JSON object a line; drops the points from after step `start`."""
    points = [point for point in read_curve(path) if point["step"] <= start] if start else []
    write_text(path, "".join(json.dumps(point) + "\n" for point in points))


def append_point(path: Path, point: Mapping[str, Any]) -> None:
    """Appends a point, which has a 'step', to a curve."""
    with path.open("a") as file:
        file.write(json.dumps(point) + "\n")


def read_curve(path: Path) -> list[dict[str, Any]]:
    """Reads the points of a curve; a last line that a killed process left unfinished is dropped."""
    points: list[dict[str, Any]] = []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            points.append(json.loads(line))
        except ValueError:
            break
    return points
