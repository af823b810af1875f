"""Kills a writer before each of its file operations; run as a process, with a scenario's name.

Every attempt is a fork of a process that has imported everything and started nothing: the child
counts its file operations by an audit hook and ends before the k-th. A second child then is the
next start, which is killed before each of its own operations, and a third looks at what is there.
"""

import json
import os
import shutil
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

import numpy as np
import orbax.checkpoint  # noqa: F401 (once, and not in each of the children)

from domino_jax.core.errors import InputError
from domino_jax.run import checkpoint, provenance, settings, workdir

KILLED = 9
OPERATIONS = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.truncate", "os.link"}
PHASES = (*provenance.PHASES, "train/sparse")


def in_child(act: Callable[[], None], kill_before: int | None = None) -> int:
    """Acts in a forked process, which may be killed before one of its operations."""
    sys.stdout.flush()
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    try:
        if kill_before is not None:
            sys.addaudithook(counter(kill_before))
        act()
        os._exit(0)
    except BaseException:
        traceback.print_exc()
        os._exit(1)


def counter(left: int) -> Callable[[str, tuple], None]:
    def count(event: str, arguments: tuple) -> None:
        nonlocal left
        writes = event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        if event in OPERATIONS or writes:
            if left == 0:
                os._exit(KILLED)
            left -= 1

    return count


def values(step: int) -> dict[str, np.ndarray]:
    return {"a": np.full(300, step, np.float32), "b": np.full(2, step, np.int32)}


def held(folder: Path) -> dict[int, int]:
    """Returns step -> value of all steps of a folder, each whole and the same in all leaves."""
    found = {}
    for step in checkpoint.steps(folder):
        restored = checkpoint.restore(folder, values(0), step)
        (found[step],) = {int(value) for leaf in restored.values() for value in leaf}
    return found


def saved(folder: Path, *steps: int) -> None:
    for step in steps:
        checkpoint.save(folder, step, values(step), keep=3)


def require_steps(folder: Path, allowed: list[dict[int, int]]) -> None:
    found = held(folder)
    assert found in allowed, (found, allowed)
    left = {path.name for path in folder.iterdir()} if folder.exists() else set()
    assert left == set(map(str, found)), left


def config(budget: float = 0.5):
    made = settings.defaults()
    made.search.budget = budget
    return made


def begin(folder: Path, *, budget: float = 0.5, anew: bool = False, script: str = "search") -> None:
    with workdir.taken(folder):
        if script == "search":
            provenance.begin_search(folder, config(budget), data="d", anew=anew)
        else:
            provenance.begin_train(folder, config(budget), {}, data="d", anew=anew)


def work_directory(folder: Path) -> None:
    begin(folder)
    for phase in PHASES:
        saved(folder / phase, 1, 2)
    begin(folder, script="train")
    (folder / "dense" / "notes.txt").write_text("a user's own")
    with workdir.taken(folder):
        for name in ("scheme.json", "report.png"):
            (folder / name).write_text("{}")
        for name in ("results.json", "timing.json"):
            workdir.update_json(folder / name, search={"steps": 1}, train={"steps": 2})
        workdir.resume_curve(folder / "search" / workdir.CURVE, 0)


def require_forgotten(folder: Path) -> None:
    """After a kill in `--anew`: what is there is of one make, and the command works again."""
    assert (folder / "dense" / "notes.txt").exists()
    assert json.loads((folder / provenance.RECORD).read_text())["program"] == "domino_jax"
    for phase in PHASES:
        assert all(step == value for step, value in held(folder / phase).items())
    left = any(checkpoint.latest(folder / phase) for phase in PHASES)
    made = left or any((folder / name).exists() for name in provenance.FILES[:2])
    try:
        begin(folder, budget=0.25)
    except InputError as error:
        assert made
        assert "made with other settings" in str(error)
        begin(folder)
    else:
        assert not made
        begin(folder, budget=0.5, anew=True)
    begin(folder, anew=True)
    names = {path.name for path in folder.iterdir()}
    assert names == {"dense", workdir.LOCK, provenance.RECORD}, names


def require_training_forgotten(folder: Path) -> None:
    for phase in ("dense", "search"):
        assert held(folder / phase) == {1: 1, 2: 2}
    begin(folder, script="train")
    begin(folder, script="train", anew=True)
    assert not (folder / "train").exists()
    for name in ("results.json", "timing.json"):
        assert set(json.loads((folder / name).read_text())) == {"search"}


def refused(folder: Path) -> None:
    try:
        with workdir.taken(folder / "a" / "b"):
            raise InputError("refused")
    except InputError:
        pass


def require_free(folder: Path) -> None:
    begin(folder / "a" / "b")


def curve(folder: Path) -> None:
    workdir.resume_curve(folder / "c", 0)
    for step in (1, 2, 3):
        workdir.append_point(folder / "c", {"step": step, "share": 0.5})


def shortened(folder: Path) -> None:
    workdir.resume_curve(folder / "c", 2)
    workdir.append_point(folder / "c", {"step": 4, "share": 0.5})


def require_curve(folder: Path) -> None:
    steps = [point["step"] for point in workdir.read_curve(folder / "c")]
    assert steps in ([1, 2, 3], [1, 2], [1, 2, 4]), steps


def require_json(folder: Path) -> None:
    assert workdir.read_json(folder / "j") in ({"a": 1}, {"a": 1, "b": 2}, {"b": 2})


def entries(folder: Path) -> None:
    workdir.update_json(folder / "j", b=2)
    workdir.drop_json(folder / "j", "a")


THREE = {1: 1, 2: 2, 3: 3}
FOUR = {2: 2, 3: 3, 4: 4}
# name: (what is there before, the writer, the next start, what must be there then)
SCENARIOS = {
    "first": (
        lambda folder: None,
        lambda folder: saved(folder, 1),
        checkpoint.tidy,
        lambda folder: require_steps(folder, [{}, {1: 1}]),
    ),
    "next": (
        lambda folder: saved(folder, 1, 2, 3),
        lambda folder: saved(folder, 4),
        checkpoint.tidy,
        lambda folder: require_steps(folder, [THREE, THREE | FOUR, FOUR]),
    ),
    "again": (
        lambda folder: saved(folder, 1, 2, 3),
        lambda folder: checkpoint.save(folder, 3, values(30)),
        checkpoint.tidy,
        lambda folder: require_steps(folder, [THREE, THREE | {3: 30}]),
    ),
    "same": (
        lambda folder: saved(folder, 1, 2, 3),
        lambda folder: saved(folder, 3),
        checkpoint.tidy,
        lambda folder: require_steps(folder, [THREE]),
    ),
    "only": (
        lambda folder: saved(folder, 1),
        lambda folder: checkpoint.save(folder, 1, values(10), keep=1),
        checkpoint.tidy,
        lambda folder: require_steps(folder, [{1: 1}, {1: 10}]),
    ),
    "forget": (
        lambda folder: saved(folder, 1, 2, 3),
        checkpoint.forget,
        checkpoint.tidy,
        lambda folder: require_steps(folder, [THREE, {2: 2, 3: 3}, {3: 3}, {}]),
    ),
    "anew": (
        work_directory,
        lambda folder: begin(folder, anew=True),
        lambda folder: None,
        require_forgotten,
    ),
    "train anew": (
        work_directory,
        lambda folder: begin(folder, anew=True, script="train"),
        lambda folder: None,
        require_training_forgotten,
    ),
    "begin": (
        lambda folder: None,
        begin,
        lambda folder: None,
        lambda folder: begin(folder, budget=0.25),
    ),
    "refused": (lambda folder: None, refused, lambda folder: None, require_free),
    "curve": (curve, shortened, lambda folder: None, require_curve),
    "json": (
        lambda folder: workdir.update_json(folder / "j", a=1),
        entries,
        lambda folder: None,
        require_json,
    ),
}


def kill_everywhere(name: str, folder: Path, *, twice: bool) -> tuple[int, int, int]:
    """Returns how often the writer and the next start were killed, and how often a step was away.

    Away: no folder had the name of the step that was the last before, as between two renames. The
    next start is killed as well if `twice`.
    """
    before, write, start, look = SCENARIOS[name]
    first, work, again = folder / "before", folder / "work", folder / "again"
    first.mkdir()
    assert in_child(lambda: before(first)) == 0
    kills = starts = away = 0
    while True:
        reset(first, work)
        code = in_child(lambda: write(work), kills)
        assert code in (0, KILLED), (name, kills, code)
        away += bool(checkpoint.steps(first)) and checkpoint.latest(work) != checkpoint.latest(
            first
        )
        second = 0
        while True:
            reset(work, again)
            started = in_child(lambda: start(again), second)
            assert started in (0, KILLED), (name, kills, second, started)
            assert in_child(lambda: (start(again), look(again))) == 0, (name, kills, second)
            if started == 0:
                break
            second += 1
        starts += second if twice else 0
        if code == 0:
            return kills, starts, away
        kills += 1


def reset(source: Path, copy: Path) -> None:
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(source, copy)


if __name__ == "__main__":
    print(*kill_everywhere(sys.argv[1], Path(sys.argv[2]), twice=sys.argv[3] == "twice"))
