"""What a user's own data set raises while it is read: one line with its name, file and line."""

from collections.abc import Callable, Generator
from dataclasses import dataclass, replace
from typing import Any

from domino_jax.core.factories import named
from domino_jax.data.pipeline import Batch, Batches, Finished


def train(name: str, function: Callable[..., Batches], *arguments: Any, **options: Any) -> Batches:
    """Calls the `train` of a data set; what it returns names the data set where it fails.

    Raises:
        InputError: whatever it raises.
    """
    with named(f"data set {name!r}", name):
        batches = function(*arguments, **options)
    if isinstance(batches, Finished):  # which `stream` asks for
        return replace(batches, raw=_Own(batches.raw, name))
    return _Own(batches, name)


def evaluate(
    name: str, function: Callable[..., Any], *arguments: Any, **options: Any
) -> Generator[Batch, None, None]:
    """Reads the `evaluate` of a data set.

    Raises:
        InputError: whatever it raises.
    """
    with named(f"data set {name!r}", name):
        yield from function(*arguments, **options)


@dataclass(frozen=True, eq=False)
class _Own:
    """Batches of a data set; what it raises is an InputError."""

    batches: Any
    name: str

    def __len__(self) -> int:
        with named(f"data set {self.name!r}", self.name):
            return len(self.batches)

    def __getitem__(self, step: int) -> Batch:
        with named(f"data set {self.name!r}", self.name):
            batch: Batch = self.batches[step]
        return batch
