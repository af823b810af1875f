"""Which error messages no test provokes: every `raise X(...)` of the package, against those made.

    DOMINO_JAX_RAISES=/tmp/raises python -m pytest …     writes down each that is made, once
    python tests/raises.py /tmp/raises                   lists the others

Processes that a test starts write down theirs too: `watched/sitecustomize.py` is run in each.
"""

import ast
import sys
from contextlib import suppress
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import CodeType

PACKAGE = Path(__file__).parents[1] / "domino_jax"


def sites(path: Path) -> list[int]:
    """Lists the lines that raise a new error; `raise` alone, and of what came, says nothing new."""
    nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    return sorted(
        node.lineno
        for node in nodes
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call)
    )


def watch(record: Path) -> None:
    """Makes every module of the package, imported from now on, write down the lines that raise."""
    seen = set()
    code_of = SourceFileLoader.get_code

    def raised(path: str, line: int) -> None:
        if (path, line) not in seen:
            seen.add((path, line))
            # One short line at a time, appended: several processes may write. Some tests forbid
            # theirs to write any more.
            with suppress(OSError), record.open("a", encoding="utf-8") as file:
                file.write(f"{path}:{line}\n")

    class Telling(ast.NodeTransformer):
        def __init__(self, path: str) -> None:
            self.path = path

        def visit_Raise(self, node: ast.Raise) -> list[ast.stmt]:
            call = ast.parse(f"__import__('sys').domino_jax_raised({self.path!r}, {node.lineno})")
            for each in ast.walk(call):
                ast.copy_location(each, node)
            return [*call.body, node]

    def telling(self: SourceFileLoader, name: str) -> CodeType | None:
        where = Path(self.path)
        if not where.is_relative_to(PACKAGE):
            return code_of(self, name)
        # Compiled anew, and kept nowhere.
        tree = ast.parse(where.read_bytes(), self.path)
        short = where.relative_to(PACKAGE.parent).as_posix()
        whole = ast.fix_missing_locations(Telling(short).visit(tree))
        return compile(whole, self.path, "exec", dont_inherit=True)

    sys.domino_jax_raised = raised
    SourceFileLoader.get_code = telling


def main() -> int:
    """Prints the raises that are not in a record; returns how many."""
    made = set(Path(sys.argv[1]).read_text(encoding="utf-8").split())
    silent = [
        place
        for path in sorted(PACKAGE.rglob("*.py"))
        for line in sites(path)
        if (place := f"{path.relative_to(PACKAGE.parent).as_posix()}:{line}") not in made
    ]
    print(*silent, sep="\n")
    return len(silent)


if __name__ == "__main__":
    sys.exit(min(main(), 1))
