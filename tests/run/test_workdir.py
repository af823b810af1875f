"""Files of a work directory: whole or not there, and a curve that survives a killed process."""

import errno
import fcntl
import json
import math
import os
import shutil

import pytest

from domino_jax.core.errors import InputError
from domino_jax.run import workdir


def test_prepare_makes_the_directory_and_leaves_it_empty(tmp_path):
    folder = tmp_path / "runs" / "digits"
    workdir.prepare(folder)
    workdir.prepare(folder)
    assert list(folder.iterdir()) == []


def test_a_directory_that_cannot_be_made(tmp_path):
    file = tmp_path / "file"
    file.write_text("")
    for folder in (file, file / "below"):
        with pytest.raises(ValueError, match=rf"^workdir {folder}: cannot be written \(.+\)$"):
            workdir.prepare(folder)
    assert file.read_text() == ""


@pytest.mark.parametrize("there", [False, True])
def test_what_a_refused_run_made_goes_again(tmp_path, there):
    folder = tmp_path / "runs" / "none"
    if there:
        folder.mkdir(parents=True)
    with pytest.raises(ValueError, match="refused"), workdir.taken(folder):
        assert (folder / workdir.LOCK).exists()
        raise ValueError("refused")
    assert folder.exists() == (tmp_path / "runs").exists() == there


def test_what_a_run_wrote_stays(tmp_path):
    folder = tmp_path / "runs" / "some"
    with pytest.raises(ValueError, match="late"), workdir.taken(folder):
        (folder / "config.json").write_text("{}")
        raise ValueError("late")
    assert {path.name for path in folder.iterdir()} == {workdir.LOCK, "config.json"}


def test_what_another_made_anew_in_its_place_stays(tmp_path):
    folder = tmp_path / "run"
    with workdir.taken(folder):
        shutil.rmtree(folder)
        folder.mkdir()
        (folder / ".lock").write_text("1 another")
    assert (folder / ".lock").read_text() == "1 another"


def test_the_lock_of_a_removed_directory_is_none(tmp_path, monkeypatch):
    """A process that opened the file before another removed it, and locked it after, stops."""
    take = fcntl.flock

    def late(file, kind):
        (tmp_path / workdir.LOCK).unlink()
        take(file, kind)

    monkeypatch.setattr(workdir.fcntl, "flock", late)
    with pytest.raises(ValueError, match="has just left it"), workdir.locked(tmp_path):
        pass


def moved(folder):
    folder.rename(folder.with_name("elsewhere"))


def taken_by_another(folder):
    (folder / workdir.LOCK).unlink()
    (folder / workdir.LOCK).write_text("77 abc")


def unreadable(folder):
    """Not by its mode, which does not count for the root user."""
    (folder / workdir.LOCK).unlink()
    (folder / workdir.LOCK).symlink_to(workdir.LOCK)


def replaced(folder):
    moved(folder)
    folder.mkdir()


@pytest.mark.parametrize(
    ("happens", "words"),
    [
        (moved, "was moved or removed"),
        (shutil.rmtree, "was moved or removed"),
        (replaced, "lost its .lock"),
        (unreadable, "has a .lock that cannot be read \\("),
        (lambda folder: (folder / workdir.LOCK).unlink(), "lost its .lock"),
        (taken_by_another, "was taken by process 77"),
    ],
)
def test_who_has_lost_the_lock_writes_nothing(tmp_path, happens, words):
    folder = tmp_path / "run"
    with workdir.taken(folder):
        (folder / workdir.RECORD).write_text("{}")
        workdir.require_held(folder)
        happens(folder)
        before = sorted(tmp_path.rglob("*"))
        with pytest.raises(InputError, match=f"^workdir {folder}: it {words}"):
            workdir.require_held(folder)
        with pytest.raises(InputError, match=words), workdir.writing(folder):
            (folder / "file").write_text("")
        assert sorted(tmp_path.rglob("*")) == before


def test_what_fails_while_the_directory_goes_is_told_by_that(tmp_path):
    folder = tmp_path / "run"
    with workdir.taken(folder):
        (folder / workdir.RECORD).write_text("{}")
        with pytest.raises(OSError, match="of another kind"), workdir.writing(folder):
            raise OSError("of another kind")
        with pytest.raises(InputError, match="was moved or removed"), workdir.writing(folder):
            moved(folder)
            (folder / "file").write_text("")


def test_who_has_lost_the_record_says_so(tmp_path):
    """Also where it goes during the last write: the run must not end well."""
    record = tmp_path / workdir.RECORD
    said = f"^workdir {tmp_path}: it lost its config.json"
    with workdir.taken(tmp_path):
        record.write_text("{}")
        with workdir.writing(tmp_path):
            pass
        with pytest.raises(InputError, match=said), workdir.writing(tmp_path):
            record.unlink()
        with pytest.raises(InputError, match=said), workdir.writing(tmp_path):
            (tmp_path / "file").write_text("")
    assert not (tmp_path / "file").exists()


def link(path):
    path.with_name("target").write_text("precious")
    path.symlink_to("target")


def device(path):
    path.symlink_to("/dev/null")


@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (link, "link"),
        (device, "link"),
        (os.mkfifo, "pipe"),
        (os.mkdir, "folder"),
    ],
)
def test_what_is_no_lock_is_refused_and_left_alone(tmp_path, make, kind):
    make(tmp_path / workdir.LOCK)
    with (
        pytest.raises(
            InputError, match=rf"{tmp_path}: cannot be locked \(its \.lock is a {kind}; remove it\)"
        ),
        workdir.locked(tmp_path),
    ):
        pass
    assert [path.read_text() for path in tmp_path.glob("target")] in ([], ["precious"])


def test_a_lock_of_other_bytes_is_taken(tmp_path):
    (tmp_path / workdir.LOCK).write_bytes(b"\xff\xfe" * 500)
    with workdir.taken(tmp_path):
        workdir.require_held(tmp_path)


@pytest.mark.parametrize("target", ["nothing", "run"])
def test_a_link_to_nothing_is_no_directory(tmp_path, target):
    folder = tmp_path / "run"
    folder.symlink_to(target)
    with pytest.raises(InputError, match=rf"^workdir {folder}: .* \(it is a link to nothing\)$"):
        workdir.prepare(folder)


@pytest.mark.parametrize("below", ["dense", "train/sparse/a/b", "link/b"])
def test_a_directory_among_the_checkpoints_of_a_run_is_refused(tmp_path, below):
    (tmp_path / "search").mkdir()
    (tmp_path / "link").symlink_to("search")
    with workdir.taken(tmp_path / below):  # no run yet
        pass
    workdir.write_json(tmp_path / workdir.RECORD, {"program": workdir.PROGRAM})
    with (
        pytest.raises(InputError, match=rf"^workdir .*: expected a folder outside {tmp_path}/"),
        workdir.taken(tmp_path / below),
    ):
        pass
    assert not (tmp_path / below).exists()
    workdir.require_outside_runs(tmp_path / "other" / "dense", "out")


def test_json_entries_are_merged(tmp_path):
    path = tmp_path / "results.json"
    assert workdir.read_json(path) == {}
    workdir.update_json(path, search={"steps": 3}, train={"steps": 9})
    workdir.update_json(path, search={"share": 0.5})
    expected = {"search": {"share": 0.5}, "train": {"steps": 9}}
    assert json.loads(path.read_text()) == workdir.read_json(path) == expected


@pytest.mark.parametrize("text", ['{"search": {', "", "[1, 2]"])
def test_broken_json_is_refused(tmp_path, text):
    path = tmp_path / "results.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=rf"^{path}: "):
        workdir.read_json(path)
    with pytest.raises(ValueError, match=rf"^{path}: "):
        workdir.update_json(path, train={})
    assert path.read_text() == text


def test_a_number_that_is_not_finite_is_told_with_its_file(tmp_path):
    path = tmp_path / "results.json"
    with pytest.raises(InputError, match=rf"^{path}: not JSON, which has finite numbers"):
        workdir.write_json(path, {"x": math.nan})
    assert not path.exists()


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 10**400, True, "1", None])
def test_what_is_no_number(value):
    assert not workdir.is_number(value)


def test_parts_that_are_no_objects_are_refused(tmp_path):
    path = tmp_path / "timing.json"
    path.write_text('{"dense": {"steps": 3}, "train": 3}')
    with pytest.raises(ValueError, match=rf"^{path}: 'train': expected an object, got a int"):
        workdir.read_parts(path)
    path.write_text('{"dense": {"steps": 3}}')
    assert workdir.read_parts(path) == {"dense": {"steps": 3}}


@pytest.mark.parametrize(
    "line",
    [
        *("3", "[]", "{}", '{"step": "a", "share": 1}', "{", "[" * 100_000),
        *('{"step": 1, "share": NaN}', '{"step": 1e999, "share": 1}'),
        '{"step": 1, "share": 1, "x": NaN}',
    ],
)
def test_a_line_that_is_no_point_is_refused_unless_it_is_the_last(tmp_path, line):
    path = tmp_path / workdir.CURVE
    first, last = (json.dumps(point) for point in points(10, 20))
    path.write_text(f"{first}\n{line}")
    assert workdir.read_curve(path) == points(10)
    path.write_text(f"{first}\n{line}\n{last}\n")
    with pytest.raises(ValueError, match=rf"^{path}, line 2: expected a point with 'step'"):
        workdir.read_curve(path)


def test_a_curve_that_is_no_text_is_named(tmp_path):
    path = tmp_path / workdir.CURVE
    path.write_bytes(b"\xff\n")
    with pytest.raises(InputError, match=rf"^{path}: expected a text file of UTF-8 text$"):
        workdir.read_curve(path)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(InputError, match=rf"^{path}: expected a text file, got a pipe$"):
        workdir.read_curve(path)


def points(*steps):
    return [{"step": step, "share": 1 - step / 100} for step in steps]


def curve(path, *steps):
    workdir.resume_curve(path, 0)
    for point in points(*steps):
        workdir.append_point(path, point)


def test_a_curve_comes_back(tmp_path):
    path = tmp_path / "votes.jsonl"
    assert workdir.read_curve(path) == []
    curve(path, 10, 20)
    assert workdir.read_curve(path) == points(10, 20)
    assert len(path.read_text().splitlines()) == 2


@pytest.mark.parametrize(
    ("start", "left"),
    [(0, ()), (9, ()), (10, (10,)), (29, (10, 20)), (30, (10, 20, 30)), (99, (10, 20, 30))],
)
def test_a_resumed_curve_drops_the_points_after_its_start(tmp_path, start, left):
    path = tmp_path / "votes.jsonl"
    curve(path, 10, 20, 30)
    workdir.resume_curve(path, start)
    assert workdir.read_curve(path) == points(*left)


def test_a_search_that_starts_again_drops_its_first_point(tmp_path):
    path = tmp_path / "votes.jsonl"
    curve(path, 0, 10)
    workdir.resume_curve(path, 0)
    assert workdir.read_curve(path) == []


@pytest.mark.parametrize("half", ['{"step": 30, "sha', '{"step": 3', "{", '{"step": 30}garbage'])
def test_a_half_written_last_line_is_dropped(tmp_path, half):
    path = tmp_path / "votes.jsonl"
    curve(path, 10, 20)
    with path.open("a") as file:
        file.write(half)
    assert workdir.read_curve(path) == points(10, 20)
    workdir.resume_curve(path, 25)
    workdir.append_point(path, *points(30))
    assert workdir.read_curve(path) == points(10, 20, 30)


def test_a_last_line_without_its_newline_counts(tmp_path):
    path = tmp_path / "votes.jsonl"
    curve(path, 10, 20)
    path.write_text(path.read_text().rstrip("\n"))
    workdir.resume_curve(path, 25)
    workdir.append_point(path, *points(30))
    assert workdir.read_curve(path) == points(10, 20, 30)


def test_a_directory_that_cannot_be_locked(tmp_path, monkeypatch):
    with pytest.raises(InputError, match=r"absent: cannot be locked \(No such file"):
        workdir.locked(tmp_path / "absent").__enter__()

    def without(file, kind):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(workdir.fcntl, "flock", without)
    with pytest.raises(InputError, match=r"cannot be locked \(No locks available\)"):
        workdir.locked(tmp_path).__enter__()
