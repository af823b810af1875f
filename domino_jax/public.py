"""The public names of the package; `domino_jax/__init__.py` hands them out."""

from domino_jax.allocate.domino import domino
from domino_jax.allocate.erk import erk_scheme
from domino_jax.allocate.exact import exact_scheme
from domino_jax.allocate.fisher import fisher_table
from domino_jax.allocate.kdiag import kdiag_table
from domino_jax.allocate.kronecker import kronecker_table
from domino_jax.allocate.paces import constant_pace, domino_pace
from domino_jax.allocate.problem import Problem
from domino_jax.allocate.scores import SCORES, make_scores
from domino_jax.allocate.search import Search, SearchState, scheme_of
from domino_jax.allocate.sensitivity import sensitivity_table
from domino_jax.allocate.table import ALLOCATORS, allocator
from domino_jax.allocate.uniform import uniform, uniform_scheme
from domino_jax.allocate.update import update_matrix, update_weights
from domino_jax.core.canonical import Axes
from domino_jax.core.costs import (
    Budget,
    budget_of,
    count_macs,
    count_weights,
    table_cost,
    total_cost,
)
from domino_jax.core.errors import InputError
from domino_jax.core.kernels import n_by_path
from domino_jax.core.layers import Groups, LayerSpec
from domino_jax.core.masked import apply_masks, hard_mask, make_masks
from domino_jax.core.masks import top_n
from domino_jax.core.permute import permute_channels
from domino_jax.core.rules import flattened
from domino_jax.core.scheme import NM, Scheme
from domino_jax.core.scheme import load as load_scheme
from domino_jax.core.scheme import save as save_scheme
from domino_jax.models import Model, plain
from domino_jax.trace.activations import activation_macs
from domino_jax.trace.channels import find_channels
from domino_jax.trace.kernels import find_kernels
from domino_jax.trace.layers import find_layers
from domino_jax.trace.taps import tap, tap_each
from domino_jax.train.decay import decay_masked
from domino_jax.train.distill import distilled, teaching
from domino_jax.train.masking import straight_through
from domino_jax.train.maxq import axis_factors, rising_masks
from domino_jax.train.precondition import scale_by_step, step_adamw
from domino_jax.train.ramps import gradual_n, halved_n, make_ramp
from domino_jax.train.trainer import Training
from domino_jax.train.trainers import TRAINERS, make_trainer
from domino_jax.train.transforms import (
    fixed_masks,
    sr_ste,
    sr_ste_adamw,
    sr_ste_adamw_decoupled,
    survivor_decay,
    survivors,
)

__all__ = [
    "ALLOCATORS",
    "NM",
    "SCORES",
    "TRAINERS",
    "Axes",
    "Budget",
    "Groups",
    "InputError",
    "LayerSpec",
    "Model",
    "Problem",
    "Scheme",
    "Search",
    "SearchState",
    "Training",
    "activation_macs",
    "allocator",
    "apply_masks",
    "axis_factors",
    "budget_of",
    "constant_pace",
    "count_macs",
    "count_weights",
    "decay_masked",
    "distilled",
    "domino",
    "domino_pace",
    "erk_scheme",
    "exact_scheme",
    "find_channels",
    "find_kernels",
    "find_layers",
    "fisher_table",
    "fixed_masks",
    "flattened",
    "gradual_n",
    "halved_n",
    "hard_mask",
    "kdiag_table",
    "kronecker_table",
    "load_scheme",
    "make_masks",
    "make_ramp",
    "make_scores",
    "make_trainer",
    "n_by_path",
    "permute_channels",
    "plain",
    "rising_masks",
    "save_scheme",
    "scale_by_step",
    "scheme_of",
    "sensitivity_table",
    "sr_ste",
    "sr_ste_adamw",
    "sr_ste_adamw_decoupled",
    "step_adamw",
    "straight_through",
    "survivor_decay",
    "survivors",
    "table_cost",
    "tap",
    "tap_each",
    "teaching",
    "top_n",
    "total_cost",
    "uniform",
    "uniform_scheme",
    "update_matrix",
    "update_weights",
]
