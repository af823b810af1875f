"""Both scripts from end to end: what they print, leave behind and exit with, by settings."""

import json
import re
import shutil
import signal
import time

import jax
import numpy as np
import pytest
import scripts

import domino_jax as dj
from domino_jax import export
from domino_jax.core import scheme
from domino_jax.pytorch import exported
from domino_jax.run import checkpoint
from domino_jax.train import loop

DONE, WRONG, STOPPED = 0, 1, 75
LAYERS = ["stem/kernel", "body/kernel", "fc/kernel"]
SEARCHED = {
    *(".lock", "config.json", "scheme.json", "report.png", "results.json", "timing.json"),
    *("dense", "dense/events", "dense/N"),
    *("search", "search/events", "search/votes.jsonl", "search/N"),
}
TRAINED = {"train", "train/events", "train/N", "train/sparse", "train/sparse/N"}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A work directory that processes made: search.py, train.py, train.py evaluating.

    Also what each of them returned and printed, and the files and results after it.
    """
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    done, seen = {}, {}
    for name, script, *arguments in (
        ("search", "search"),
        ("train", "train"),
        ("evaluate", "train", "--config.evaluate"),
    ):
        done[name] = scripts.end(scripts.start(script, folder, *arguments))
        assert done[name][0] == DONE, done[name]
        seen[name] = scripts.files(folder), (folder / "results.json").read_bytes()
    return folder, done, seen


@pytest.fixture(scope="module")
def dense(made):
    return f"init={made[0] / 'dense'}"


def test_files(made):
    searched, trained, evaluated = (
        {re.sub(r"\d+$", "N", name) for name in files} for files, _ in made[2].values()
    )
    assert searched == SEARCHED
    assert trained == evaluated == SEARCHED | TRAINED


def test_the_last_line_says_where_it_is(made):
    folder, done, _ = made
    last = {name: err.splitlines()[-1] for name, (_, _, err) in done.items()}
    found = f"{folder}: scheme.json, report.png; next: train.py with the same flags"
    trained = f"{folder}: results.json, train/sparse"
    assert last == {"search": found, "train": trained, "evaluate": trained}


def test_evaluating_repeats_the_numbers(made):
    _, done, seen = made
    assert done["evaluate"][1] == done["train"][1] != ""
    assert seen["evaluate"][1] == seen["train"][1]


def test_the_run_exports(made, tmp_path, capsys):
    """The whole way: search.py, train.py, and what PyTorch is to get."""
    folder, *_ = made
    assert export.main([f"--workdir={folder}", f"--out={tmp_path / 'out'}"]) == DONE
    capsys.readouterr()
    found = scheme.load(tmp_path / "out" / exported.SCHEME)
    assert found == scheme.load(folder / "scheme.json")
    kept = exported.read_arrays(tmp_path / "out" / exported.WEIGHTS)
    sparse = scripts.arrays(folder / "train" / "sparse")
    for name in found:
        np.testing.assert_array_equal(kept[name] != 0, np.float16(sparse[f"params/{name}"]) != 0)


def test_the_scheme_file(made):
    folder, *_ = made
    document = json.loads((folder / "scheme.json").read_text())
    assert set(document) == {
        *("format", "order", "layers", "model", "objective", "budget", "achieved"),
        *("steps", "config", "versions", "fingerprints"),
    }
    assert document["format"] == 1
    assert document["order"] == list(document["layers"]) == LAYERS
    assert (document["model"], document["objective"]) == ("tiny:network", "params")
    assert document["achieved"] <= document["budget"] == 0.5
    assert document["steps"] == checkpoint.latest(folder / "search") > 0
    assert document["config"]["search"]["vote_every"] == 2
    assert {"domino-jax", "python", "jax", "flax", "numpy", "pillow"} <= set(document["versions"])


def shown(value):
    """Yields the ways in which the numbers and texts of a document may be printed."""
    if isinstance(value, dict | list):
        for entry in value.values() if isinstance(value, dict) else value:
            yield from shown(entry)
        if isinstance(value, list):
            yield "x".join(map(str, value))
    elif isinstance(value, str):
        yield value
    else:
        yield from (f"{value:,}", f"{value:.2%}", f"{value:.4f}")


def test_results_hold_every_number_printed(made):
    folder, done, _ = made
    printed = done["search"][1] + done["train"][1]
    words = [word.strip("(),") for word in re.split(r"[\s│┃━╇]+", printed)]
    numbers = [word for word in words if re.search(r"\d", word)]
    assert len(numbers) > 20
    assert set(numbers) <= set(shown(scripts.results(folder)))


def test_clocks_are_in_one_file(made):
    folder, *_ = made
    keys = re.findall(r'"([^"]+)":', (folder / "results.json").read_text())
    keys += json.loads((folder / "scheme.json").read_text())
    assert not [key for key in keys if re.search("second|time|date|wait", key)]
    timing = json.loads((folder / "timing.json").read_text())
    assert set(timing) == {"dense", "search", "train"}
    for phase, times in timing.items():
        assert times["steps"] == checkpoint.latest(folder / phase)
        assert times["seconds"] > 0
        assert times["steps_per_second"] == pytest.approx(times["steps"] / times["seconds"])
        assert 0 < times["share_waiting_for_data"] < 1


def test_wrong_input_is_one_line(tmp_path):
    code, out, err = scripts.end(scripts.start("train", tmp_path / "new"))
    assert (code, out) == (WRONG, "")
    assert len(err.splitlines()) == 1
    assert "scheme.json" in err
    assert not (tmp_path / "new").exists()


def wait_for(step, folder, process):
    """Waits until a process has saved a step, 0 for any."""
    until = time.monotonic() + 60
    while (checkpoint.latest(folder) or -1) < step:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until
        time.sleep(0.01)


@pytest.mark.parametrize(
    ("number", "phase"), [(signal.SIGTERM, "dense"), (signal.SIGINT, "search")]
)
def test_a_stopped_search_says_how_to_go_on_and_does(made, tmp_path, number, phase):
    often = "--config.checkpoint_every=5"
    process = scripts.start("search", tmp_path, often)
    wait_for(5, tmp_path / phase, process)
    process.send_signal(number)
    code, out, err = scripts.end(process)
    assert (code, out) == (STOPPED, ""), err
    stopped = r"stopped at step \d+; the same command goes on from there"
    assert re.fullmatch(stopped, err.splitlines()[-1])
    assert not (tmp_path / "scheme.json").exists()
    if phase == "dense":
        code, out, err = scripts.end(scripts.start("search", tmp_path, often))
        assert (code, out) == (DONE, made[1]["search"][1]), err
        assert scripts.results(tmp_path)["search"] == scripts.results(made[0])["search"]
        scripts.require_same_arrays(tmp_path / "search", made[0] / "search")


def test_a_second_interrupt_ends_at_once(tmp_path):
    process = scripts.start("search", tmp_path, "--config.dense.epochs=9999.0")
    wait_for(0, tmp_path / "dense", process)
    process.send_signal(signal.SIGINT)
    line = next(line for line in process.stderr if "Ctrl-C" in line)
    assert line == "stopping as soon as all is saved; Ctrl-C again ends at once\n"
    process.send_signal(signal.SIGINT)
    assert scripts.end(process)[0] == -signal.SIGINT


def kept_of(folder):
    return {name: nm.n for name, nm in scheme.load(folder / "scheme.json").items()}


@pytest.mark.parametrize(
    ("overrides", "cost"),
    [
        (["search.objective=macs", "search.macs_weight=1.0", "search.erk_weight=0.0"], "macs"),
        (["search.pace=constant", "search.candidates=(1,2,3,4)"], "weights"),
        (
            ["search.m=8", "search.candidates=(2,8)", "search.rules=(('stem',2),('fc','dense'))"],
            "weights",
        ),
        (["search.method=uniform"], "weights"),
        (["search.method=uniform", "search.objective=macs"], "macs"),
    ],
)
def test_search_settings(tmp_path, dense, overrides, cost):
    scripts.search(tmp_path, dense, *overrides)
    found = scripts.results(tmp_path)["search"]
    assert found["totals"]["cost"]["scheme"] == found["totals"][cost]["scheme"]
    assert found["totals"]["cost"]["share"] <= 0.5
    assert (tmp_path / "search").exists() == ("search.method=uniform" not in overrides)
    assert not (tmp_path / "dense").exists()
    rows = {row["name"]: row for row in found["layers"]}
    kept = kept_of(tmp_path)
    if "search.method=uniform" in overrides:
        assert set(kept.values()) == {2}
    if "search.m=8" in overrides:
        assert rows["stem/kernel"]["nm"] == "2:2"
        assert rows["body/kernel"]["nm"] == "2:8"
        assert "rule" in rows["fc/kernel"]["reason"]
        assert list(kept) == LAYERS[:2]


def test_a_cost_table(tmp_path, dense):
    # Only the stem costs anything, so it must go down.
    costs = {1: 1.0, 2: 1.25, 4: 4.0}
    table = {name: costs if name == LAYERS[0] else dict.fromkeys(costs, 0.0) for name in LAYERS}
    (tmp_path / "table.json").write_text(json.dumps(table))
    scripts.search(tmp_path / "run", dense, f"search.objective={tmp_path / 'table.json'}")
    assert kept_of(tmp_path / "run")[LAYERS[0]] <= 2
    cost = scripts.results(tmp_path / "run")["search"]["totals"]["cost"]
    assert (cost["dense"], cost["budget"]) == (4, 2)


@pytest.mark.parametrize(
    "overrides",
    [
        ["train.method=straight_through", "train.label_smoothing=0.1"],
        ["train.optimizer=adamw", "train.lr=0.003"],
        ["train.optimizer=adamw_decoupled", "train.lr=0.003"],
        ["train.method=fixed", "train.optimizer=adamw", "train.lr=0.003"],
        ["train.start=random", "train.epochs=8.0", "train.schedule=constant"],
    ],
)
def test_train_settings_side_by_side(tmp_path, made, dense, overrides):
    folder = made[0]
    with jax.numpy_dtype_promotion("standard"):  # for Optax's Adam
        scripts.train(tmp_path, dense, f"scheme={folder / 'scheme.json'}", *overrides)
    ours, theirs = scripts.results(tmp_path)["train"], scripts.results(folder)["train"]
    for name in ("dense", "masked", "recalibrated", "shares"):
        assert ours[name] == pytest.approx(theirs[name], rel=1e-4)  # on two devices here
    assert ours["tuned"]["accuracy"] > 0.8
    assert ours["tuned"] != theirs["tuned"]
    sparse = scripts.arrays(tmp_path / "train" / "sparse")
    for name, n in kept_of(folder).items():
        rows = np.moveaxis(sparse[f"params/{name}"], -2, -1)
        assert (rows != 0).reshape(-1, 4).sum(-1).max() == n
    assert not {"dense", "search", "scheme.json"} & scripts.files(tmp_path)


def test_fixed_masks_stay(tmp_path, made, dense):
    folder, name = made[0], "body/kernel"
    found = {}
    for method in ("fixed", "sr_ste"):
        settings = [f"scheme={folder / 'scheme.json'}", f"train.method={method}", "train.lr=1.0"]
        scripts.train(tmp_path / method, dense, *settings)
        found[method] = scripts.arrays(tmp_path / method / "train" / "sparse")[f"params/{name}"]
    before = {name: scripts.arrays(folder / "dense")[f"params/{name}"]}
    first = np.zeros((1, 8), np.float32)
    layers = dj.find_layers(lambda p, x: x @ p[name][0, 0], before, first, 4)
    masks = dj.make_masks(before, layers, {name: np.int32(kept_of(folder)[name])})
    np.testing.assert_array_equal(found["fixed"] != 0, masks[name])
    assert ((found["sr_ste"] != 0) != masks[name]).any()


def test_training_without_a_dense_network_trains_one(tmp_path, made):
    scripts.train(tmp_path, f"scheme={made[0] / 'scheme.json'}")
    assert checkpoint.latest(tmp_path / "dense") == 30


def test_evaluating_trains_nothing(tmp_path, made, dense):
    shutil.copy(made[0] / "scheme.json", tmp_path)
    with pytest.raises(ValueError, match=r"dense: the dense network is not trained yet, step 0 of"):
        scripts.train(tmp_path, "evaluate=True")
    scripts.train(tmp_path, dense, "evaluate=True")
    assert set(scripts.results(tmp_path)["train"]) == {"dense", "masked", "recalibrated", "shares"}
    assert scripts.files(tmp_path) == {".lock", "config.json", "scheme.json", "results.json"}
    with pytest.raises(loop.Stopped):  # training is not refused afterwards
        scripts.train(tmp_path, dense, should_stop=lambda: True)
