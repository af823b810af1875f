"""Python runs this file at every start where its folder is in PYTHONPATH; see `raises`."""

import os
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

if "DOMINO_JAX_RAISES" in os.environ:
    spec = spec_from_file_location("raises", Path(__file__).parents[1] / "raises.py")
    sys.modules["raises"] = raises = module_from_spec(spec)
    spec.loader.exec_module(raises)
    raises.watch(Path(os.environ["DOMINO_JAX_RAISES"]))
