"""Work directories: one process at a time, one set of settings, and the same end after any stop."""

import json
import math
import os
import shutil
import struct
import time
from pathlib import Path

import numpy as np
import pytest
import scripts
from tensorboardX.proto.event_pb2 import Event

from domino_jax.core import scheme
from domino_jax.run import checkpoint, provenance, workdir
from domino_jax.run import settings as settings_
from domino_jax.train import loop


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A work directory that was searched and trained in without a stop."""
    folder = tmp_path_factory.mktemp("made") / "run"
    scripts.search(folder)
    scripts.train(folder)
    return folder


@pytest.fixture
def copy(made, tmp_path):
    return shutil.copytree(made, tmp_path / "run")


def contents(folder):
    """Reads all files, but for TensorBoard's events and the number in the lock."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in files
        if "tfevents" not in path.name and path.name != workdir.LOCK
    }


def stopping_after(questions):
    left = iter(range(questions))
    return lambda: next(left, None) is None


def test_stopped_again_and_again_ends_the_same(made, tmp_path):
    for run in (scripts.search, scripts.train):
        # Three times after 15 steps, or batches of an evaluation.
        for _ in range(3):
            with pytest.raises(loop.Stopped, match=r"^stopped (at step \d+|in an evaluation)$"):
                run(tmp_path, should_stop=stopping_after(15))
        run(tmp_path)
    scripts.require_same_end(made, tmp_path)
    times = json.loads((tmp_path / "timing.json").read_text())
    for phase in scripts.PHASES:
        assert times[phase]["steps"] == checkpoint.latest(tmp_path / phase)


def test_a_finished_run_started_again_changes_nothing(made, copy, capsys):
    scripts.search(copy)
    first = capsys.readouterr().out
    scripts.train(copy)
    assert "fine-tuned" in capsys.readouterr().out
    assert contents(copy) == contents(made)
    events = [
        len(list((folder / p).glob("*tfevents*")))
        for folder in (copy, made)
        for p in scripts.PHASES
    ]
    assert set(events) == {1}
    scripts.search(copy, "log_every=1", "checkpoint_every=1", "data.dir=/elsewhere")
    again = capsys.readouterr()
    assert again.out == first
    assert "steps/s" not in again.err


def test_killed_between_the_last_step_and_the_results(made, copy):
    for name in ("scheme.json", "results.json", "report.png"):
        (copy / name).unlink()
    with (copy / "search" / workdir.CURVE).open("a") as file:
        file.write('{"step": 99')
    shutil.rmtree(copy / "train" / "sparse")
    scripts.search(copy)
    scripts.train(copy)
    scripts.require_same_end(made, copy)


def test_a_later_search_or_training_step_is_made_again(made, copy):
    for phase in scripts.PHASES:
        shutil.rmtree(copy / phase / str(checkpoint.latest(copy / phase)))
        if not checkpoint.steps(copy / phase):
            shutil.rmtree(copy / phase)
    shutil.rmtree(copy / "train", ignore_errors=True)
    scripts.search(copy)
    scripts.train(copy)
    scripts.require_same_end(made, copy)


def test_what_a_killed_process_was_writing_goes_away(made, copy):
    for name in (
        ".scheme.json.77.new",
        ".results.json.77",
        ".report.png.77",
        "search/.votes.jsonl.77",
    ):
        (copy / name).write_text("half")
    for name in ("dense/40.new", "train/20.old", "train/sparse/30.new.orbax-checkpoint-tmp-7"):
        (copy / name).mkdir()
    scripts.search(copy)
    scripts.train(copy)
    assert contents(copy) == contents(made)
    assert not list(copy.rglob("*.new*")) + list(copy.rglob("*.old"))


def events(path):
    """Reads the events of one of TensorBoard's files."""
    data, found = path.read_bytes(), []
    while data:
        (length,) = struct.unpack("<Q", data[:8])
        found.append(Event.FromString(data[12 : 12 + length]))
        data = data[16 + length :]
    return found


def test_tensorboard_hides_what_was_lost(tmp_path):
    """What a killed process wrote after its last checkpoint has steps above the next start."""
    with pytest.raises(loop.Stopped, match="stopped at step 17"):
        scripts.search(tmp_path, should_stop=stopping_after(17))
    time.sleep(1.1)  # the files are named by the second
    with pytest.raises(loop.Stopped):
        scripts.search(tmp_path, should_stop=stopping_after(3))
    first, second = (events(path) for path in sorted((tmp_path / "dense").glob("*tfevents*")))
    starts = [
        event.step for file in (first, second) for event in file if event.HasField("session_log")
    ]
    assert starts == [1, 18]


@pytest.mark.parametrize(
    ("every", "error", "saved"),
    [
        (1, "body/kernel became NaN or infinite at step 1, ", [1]),
        (50, "the loss became nan at step 2, ", []),
    ],
)
def test_weights_that_overflow_are_not_saved(made, tmp_path, every, error, saved, monkeypatch):
    """Their last loss was finite."""
    monkeypatch.setattr(settings_, "_MOST_DECAY", math.inf)  # which refuses these at the start
    foreign = (f"init={made / 'dense'}", f"scheme={made / 'scheme.json'}")
    settings = [*foreign, f"checkpoint_every={every}", "train.lr=1e38", "train.sr_ste=1e9"]
    with pytest.raises(FloatingPointError, match=error):
        scripts.train(tmp_path, *settings)
    assert checkpoint.steps(tmp_path / "train") == saved


def test_a_second_process_is_refused(made, copy):
    before = contents(copy)
    with workdir.locked(copy):
        code, out, err = scripts.end(scripts.start("search", copy, "--anew"))
    assert (code, out) == (1, "")
    assert err == (
        f"workdir {copy}: process {os.getpid()} is at work there; wait for it, or choose another\n"
    )
    assert contents(copy) == before
    scripts.search(copy)  # as soon as the first has ended


@pytest.mark.parametrize(
    ("overrides", "said", "remedy"),
    [
        (["search.budget=0.25"], "search.budget 0.5 there, 0.25 here", "init"),
        (
            ["search.m=8", "search.candidates=(2,8)"],
            "search.candidates None there, [2, 8] here; search.m 4 there, 8 here",
            "init",
        ),
        (["seed=3"], "seed 0 there, 3 here", ""),
        (["dense.lr=0.5", "search.lr=0.5"], "dense.lr 0.1 there, 0.5 here; search.lr 0.01", ""),
        (["init=/elsewhere"], "init '' there, '/elsewhere' here", ""),
        (["model.name=mine:net"], "model.name 'tiny:network' there, 'mine:net' here", ""),
    ],
)
def test_other_settings_are_refused_by_both(made, overrides, said, remedy, monkeypatch):
    before = contents(made)
    config = scripts.settings(*overrides)
    keeping = f" (with --config.init={made / 'dense'})" if remedy else ""
    for script, forgetting in (("search", "--anew"), ("train", "search.py --anew")):
        with pytest.raises(ValueError) as caught:
            require(script, made, config)
        assert str(caught.value).startswith(f"workdir {made} was made with other settings: {said}")
        assert str(caught.value).endswith(
            f"; choose another --workdir{keeping}, or start anew with {forgetting}"
        )
    assert contents(made) == before


def require(script, folder, config, data=""):
    if script == "search":
        provenance.begin_search(folder, config, data=data, anew=False)
    else:
        provenance.require_train(folder, config, scheme.load(folder / "scheme.json"), data=data)


def test_other_data_are_refused_by_both(made, copy):
    """Also where only the folder, or what is installed, is another."""
    found = json.loads((made / "config.json").read_text())["common"]["data.fingerprint"]
    assert len(found) == 16
    for script in ("search", "train"):
        require(script, copy, scripts.settings("data.dir=/elsewhere"), data=found)
        with pytest.raises(
            ValueError, match=rf"settings: data\.fingerprint '{found}' there, 'other' here; choose"
        ):
            require(script, copy, scripts.settings(), data="other")


def test_a_directory_where_nothing_was_made_takes_other_settings(tmp_path):
    """As after a run that met a broken image: it is mended, and the data are others then."""
    for budget, data in (("0.5", "broken"), ("0.25", "mended")):
        config = scripts.settings(f"search.budget={budget}")
        with workdir.locked(tmp_path):
            provenance.begin_search(tmp_path, config, data=data, anew=False)
        found = json.loads((tmp_path / "config.json").read_text())
        assert found["search"]["search.budget"] == float(budget)
        assert found["common"]["data.fingerprint"] == data
    checkpoint.save(tmp_path / "dense", 1, {"a": np.ones(2)})
    with (
        workdir.locked(tmp_path),
        pytest.raises(ValueError, match="made with other settings"),
    ):
        provenance.begin_search(tmp_path, scripts.settings(), data="mended", anew=False)


def test_a_data_set_without_a_fingerprint_is_not_compared(copy):
    for script in ("search", "train"):
        require(script, copy, scripts.settings(), data="")


def test_what_an_older_record_does_not_say_was_at_its_default(copy):
    path = copy / "config.json"
    document = json.loads(path.read_text())
    for part, keys in (
        ("common", ["data.fingerprint", "init_head"]),
        ("search", ["search.shrink_m"]),
        ("train", ["search.shrink_m"]),
    ):
        for key in keys:
            document[part].pop(key)
    path.write_text(json.dumps(document))
    for script in ("train", "search"):
        with pytest.raises(ValueError, match=r"search\.shrink_m False there, True here"):
            require(script, copy, scripts.settings("search.shrink_m=True"), data="any")
        require(script, copy, scripts.settings(), data="any")
    assert json.loads(path.read_text())["common"]["data.fingerprint"] == "any"


def test_settings_of_the_training_concern_train_only(made, copy):
    other = "train.lr=0.01"
    scripts.search(copy, other)
    with pytest.raises(
        ValueError, match=r"settings: train\.lr 0\.05 there, 0\.01 here; choose"
    ) as e:
        scripts.train(copy, other)
    assert f"(with --config.init={copy / 'dense'} --config.scheme={copy / 'scheme.json'})" in str(
        e.value
    )
    assert str(e.value).endswith("or start anew with --anew")
    with pytest.raises(ValueError, match=r"train\.lr 0\.05 there"):
        scripts.train(copy, other, "evaluate=True")


def test_settings_of_the_search_do_not_concern_a_foreign_scheme(made, tmp_path):
    foreign = [f"init={made / 'dense'}", f"scheme={made / 'scheme.json'}"]
    scripts.train(tmp_path, *foreign)
    scripts.train(tmp_path, *foreign, "search.budget=0.25", "search.penalty=3.0")
    with pytest.raises(ValueError, match=r"search\.rules \[\] there, \[\['fc', 'dense'\]\] here"):
        scripts.train(tmp_path, *foreign, "search.rules=(('fc','dense'),)")


def test_another_scheme_in_the_same_file_is_refused(made, tmp_path):
    path = shutil.copy(made / "scheme.json", tmp_path)
    foreign = [f"init={made / 'dense'}", f"scheme={path}"]
    scripts.train(tmp_path / "run", *foreign)
    document = json.loads(Path(path).read_text())
    n = document["layers"]["body/kernel"]["n"]
    document["layers"]["body/kernel"]["n"] = 3 - n
    Path(path).write_text(json.dumps(document))
    with pytest.raises(ValueError, match=rf"scheme of body/kernel {n}:4 there, {3 - n}:4 here;"):
        scripts.train(tmp_path / "run", *foreign)


def test_settings_that_are_no_json_are_refused_before_anything_runs(tmp_path):
    config = scripts.settings()
    with config.unlocked():
        config.model.activation = np.tanh
    with pytest.raises(
        ValueError, match=r"^model\.activation: expected finite numbers, text, .* got <ufunc"
    ):
        require("search", tmp_path, config)
    assert list(tmp_path.iterdir()) == []


def put_own_files(folder, *names):
    """Puts files of a user next to ours; returns their contents."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("mine")
    return dict.fromkeys(names, b"mine")


def test_search_anew_forgets_what_the_scripts_wrote(copy):
    mine = put_own_files(copy, "notes.txt", "dense/notes.txt", "train/0/image.png", "models/a.bin")
    scripts.search(copy, "seed=5", "search.method=uniform", anew=True)
    left = contents(copy)
    assert left == left | mine
    assert set(left) - set(mine) == {"config.json", "scheme.json", "report.png", "results.json"}
    assert set(scripts.results(copy)) == {"search"}
    assert {path.name for path in copy.iterdir() if path.is_dir()} == {"dense", "train", "models"}


def test_train_anew_forgets_the_training_only(made, copy):
    mine = put_own_files(copy, "notes.txt", "train/notes.txt", "train/sparse/notes.txt")
    before, shorter = contents(copy), "train.epochs=1.0"
    scripts.train(copy, shorter, anew=True)
    left = contents(copy)
    assert left == left | mine
    others = {name for name in before if not name.startswith("train/")}
    assert {name for name in others if left.get(name) != before[name]} == {
        *("config.json", "results.json", "timing.json")
    }
    assert checkpoint.steps(copy / "train" / "sparse") == [15]
    assert checkpoint.steps(copy / "train") == [10, 15]
    assert scripts.results(copy)["search"] == scripts.results(made)["search"]
    scripts.train(copy, shorter)


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        (["search.budget=0.01"], "out of reach"),
        (["model.name=nowhere:net"], "nowhere"),
        (["init={}/dense"], "--anew would remove it"),
        (["init={}/dense/30"], "--anew would remove it"),
    ],
)
def test_a_refused_start_forgets_nothing(made, copy, settings, error):
    before = contents(copy)
    with pytest.raises(ValueError, match=error):
        scripts.search(copy, *(setting.format(copy) for setting in settings), anew=True)
    assert contents(copy) == before


@pytest.mark.parametrize("anew", [False, True])
@pytest.mark.parametrize(
    ("name", "text", "error"),
    [
        ("config.json", '{"hidden_size": 768}', r"config\.json is no record of this program"),
        ("results.json", "{}", r"holds results\.json but no config\.json that tells"),
        ("train/0/image.png", "x", r"holds train but no config\.json that tells"),
    ],
)
def test_directories_of_others_are_left_alone(tmp_path, name, text, error, anew):
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=error):
        scripts.search(tmp_path, anew=anew)
    assert contents(tmp_path) == {name: text.encode()}


@pytest.fixture
def held(tmp_path):
    """A new work directory, locked."""
    folder = tmp_path / "held"
    with workdir.taken(folder):
        yield folder


def test_the_same_start_named_from_another_folder_is_the_same(made, held, tmp_path, monkeypatch):
    start = shutil.copytree(made / "dense", tmp_path / "start")
    require("search", held, scripts.settings(f"init={start}"))
    checkpoint.save(held / "search", 1, {"a": np.ones(2)})
    monkeypatch.chdir(tmp_path)
    require("search", held, scripts.settings("init=start"))
    moved = start.rename(tmp_path / "moved")
    require("search", held, scripts.settings(f"init={moved}"))
    other = shutil.copytree(made / "train" / "sparse", tmp_path / "other")
    with pytest.raises(ValueError, match=r"settings: init '.*moved' there, '.*other' here"):
        require("search", held, scripts.settings(f"init={other}"))
    shutil.rmtree(moved)
    other.rename(moved)
    with pytest.raises(
        ValueError, match=r"settings: the start .*moved \(init\) has changed since; choose"
    ):
        require("search", held, scripts.settings(f"init={moved}"))


def test_a_cost_table_that_changed_is_named(held, tmp_path):
    table = tmp_path / "costs.json"
    table.write_text('{"a": 1}')
    config = scripts.settings(f"search.objective={table}")
    require("search", held, config)
    checkpoint.save(held / "search", 1, {"a": np.ones(2)})
    require("search", held, config)
    table.write_text('{"a": 2}')
    changed = rf"the cost table {table} \(search\.objective\) has changed since; choose"
    with pytest.raises(ValueError, match=changed):
        require("search", held, config)
    table.write_text('{"a": 1}')
    again = shutil.move(table, tmp_path / "again.json")
    require("search", held, scripts.settings(f"search.objective={again}"))
