"""Checks an export: python -m deploy --check exported."""

import runpy
from pathlib import Path

runpy.run_path(str(Path(__file__).with_name("runtime.py")), run_name="__main__")
