"""The experiment files: the paper's budgets, and what each docstring must say."""

import ast
import runpy
from pathlib import Path

import pytest

CONFIGS = sorted((Path(__file__).parents[2] / "configs").glob("*.py"))
# Weights and multiply-adds of all layers; test_network_counts.py and test_published.py count them.
TOTALS = {
    "resnet18": {"params": 11_678_912, "macs": 1_814_073_344},
    "resnet50": {"params": 25_502_912, "macs": 4_089_184_256},
    "regnet_x_3_2gf": {"macs": 3_176_621_952},
    "resnet56_bottleneck": {"params": 853_936 + 25_600, "macs": 127_345_664},
}
# The table in the paper: network, objective, budget, M.
ROWS = {
    "resnet18_params_1460k": ("resnet18", "params", 1.46e6, 16),
    "resnet18_macs_227m": ("resnet18", "macs", 227e6, 16),
    "default": ("resnet50", "params", 0.2 * 25_502_912, 16),
    "resnet50_params_3200k": ("resnet50", "params", 3.2e6, 16),
    "resnet50_params_1600k": ("resnet50", "params", 1.6e6, 32),
    "resnet50_macs_511m": ("resnet50", "macs", 511e6, 16),
    "resnet50_macs_256m": ("resnet50", "macs", 256e6, 32),
    "regnetx_macs_400m": ("regnet_x_3_2gf", "macs", 400e6, 16),
    "resnet56_params_210k": ("resnet56_bottleneck", "params", 0.21e6, 16),
    "resnet56_params_110k": ("resnet56_bottleneck", "params", 0.11e6, 16),
    "resnet56_macs_32m": ("resnet56_bottleneck", "macs", 32e6, 16),
    "resnet56_macs_16m": ("resnet56_bottleneck", "macs", 16e6, 16),
    "resnet50_fixed_mask": ("resnet50", "params", 0.125 * 25_502_912, 16),
    "resnet18_fixed_mask": ("resnet18", "params", 0.125 * 11_678_912, 16),
}


def config_of(stem):
    path = next(path for path in CONFIGS if path.stem == stem)
    return runpy.run_path(str(path))["get_config"]()


@pytest.mark.parametrize("stem", ROWS)
def test_a_row_of_the_paper(stem):
    network, objective, target, m = ROWS[stem]
    config = config_of(stem)
    assert (config.model.name, config.search.objective, config.search.m) == (network, objective, m)
    assert config.search.budget * TOTALS[network][objective] == pytest.approx(target, abs=1)
    assert (config.search.method, config.search.pace) == ("domino", "domino")
    assert config.train.method == ("fixed" if stem.endswith("fixed_mask") else "sr_ste")
    # The stem of a network for ImageNet costs too many multiply-adds to stay dense.
    grouped = [value for _, value in config.search.rules]
    assert grouped == (
        ["flatten"] if objective == "macs" and config.data.name == "imagenet2012" else []
    )


@pytest.mark.parametrize("stem", [stem for stem in ROWS if "resnet56" in stem])
def test_the_ablation_differs_in_the_pace_alone(stem):
    config, ablation = config_of(stem), config_of(f"{stem}_constant_pace")
    assert ablation.search.pace == "constant"
    ablation.search.pace = "domino"
    assert ablation == config


@pytest.mark.parametrize("network", ["resnet18", "resnet50", "regnetx", "resnet56"])
def test_uniform_baselines_keep_2_of_16(network):
    search = config_of(f"{network}_uniform").search
    assert (search.method, search.m) == ("uniform", 16)
    assert 2 / 16 < search.budget < 3 / 16  # what stays dense included


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_docstring_says_command_and_outcome(path):
    text = ast.get_docstring(ast.parse(path.read_text()))
    assert f"search.py --config=configs/{path.name}" in text
    assert f"train.py --config=configs/{path.name}" in text
    assert ("Not run here: " in text) != ("Measured" in text)
    if "imagenet2012" in repr(config_of(path.stem).data):
        assert "needs ImageNet and" in text
        assert "GPU-hours" in text


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_sr_ste_of_the_8_gpu_script_is_stated(path):
    config, text = config_of(path.stem), path.read_text()
    row = path.stem in ROWS or "uniform" in path.stem
    if row and config.data.name == "imagenet2012":
        assert ("4e-3" in text) == (config.train.method == "sr_ste")
        assert "per GPU" in text
