"""Networks as plain functions of plain nested dicts: the only room that knows Flax.

A network is a `Model`: its forward pass, its parameters and its running statistics. `create` makes
one by name, `from_nnx` makes one of your own Flax NNX module and `plain` one of a stateless
function; Flax is imported only when one of its networks is asked for.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from domino_jax.core.errors import InputError
from domino_jax.core.factories import call_factory, find_factory, told
from domino_jax.core.paths import leaves_by_path, path_of
from domino_jax.deploy.resnet_forms import FORMS

# Where the factory of each network is; a module is imported when one of its networks is asked for.
# A network of a new kind is one file and one line here; another residual one is a line of FORMS.
NETWORKS = {
    **{name: f"domino_jax.models.resnet:{name}" for name in FORMS},
    "regnet_x_400mf": "domino_jax.models.regnet:regnet_x_400mf",
    "regnet_x_800mf": "domino_jax.models.regnet:regnet_x_800mf",
    "regnet_x_1_6gf": "domino_jax.models.regnet:regnet_x_1_6gf",
    "regnet_x_3_2gf": "domino_jax.models.regnet:regnet_x_3_2gf",
    "googlenet": "domino_jax.models.googlenet:googlenet",
    "vgg16_cifar": "domino_jax.models.vgg:vgg16_cifar",
    "vgg19_cifar": "domino_jax.models.vgg:vgg19_cifar",
    "vit_ti16": "domino_jax.models.vit:vit_ti16",
    "vit_s16": "domino_jax.models.vit:vit_s16",
    "vit_b16": "domino_jax.models.vit:vit_b16",
    "byte_lm": "domino_jax.models.byte_lm:byte_lm",
    # Its weights are read from a folder: an entry above this room.
    "causal_lm": "domino_jax.pytorch.hugging_face:causal_lm",
}

FLOAT32 = 4  # bytes


class Model(NamedTuple):
    """A network as a pure function and its state.

    Attributes:
        apply: `apply(params, stats, inputs, *, train, key) -> (outputs, stats)`. Inputs and outputs
            are pytrees whose leaves have the examples along axis 0. `train` is a Python bool; `key`
            is a JAX random key, or None where nothing is random.
        params: what training changes: nested dicts of arrays of floating-point numbers.
        stats: what the forward pass itself changes (running statistics); may be `{}`.
    """

    apply: Callable[..., tuple[Any, Any]]
    params: Any
    stats: Any


def plain(apply: Callable[[Any, Any], Any], params: Any) -> Model:
    """Makes a model of a function without state, the same in training and evaluation.

    Args:
        apply: `apply(params, inputs) -> outputs`.
        params: its parameters, a pytree of arrays.
    """

    def apply_model(
        params: Any, stats: Any, inputs: Any, *, train: bool, key: Any = None
    ) -> tuple[Any, Any]:
        del train, key
        return apply(params, inputs), stats

    return Model(apply_model, params, {})


def from_nnx(module: Any, call: Callable[[Any, Any, Any], Any] | None = None) -> Model:
    """Makes a model of a Flax NNX module.

    Every `nnx.Param` becomes a parameter, every other variable (`nnx.BatchStat`, your own) goes to
    the stats; random streams (`nnx.RngState`, as in `nnx.Dropout`) go to neither: each call reseeds
    them from `key`, which training then needs. `train` chooses between the module's `train()` and
    `eval()` mode. The module itself is left unchanged.

    Args:
        module: an `nnx.Module`, also an abstract one from `nnx.eval_shape`: the leaves are then
            `jax.ShapeDtypeStruct`.
        call: (module, inputs, rngs) -> outputs, for a module that takes several inputs or wants
            `rngs=` in its call; by default it is called with the inputs alone.

    Raises:
        InputError: not an NNX module.
    """
    from domino_jax.models import nnx_module  # Flax, only where needed  # noqa: PLC0415

    return Model(*nnx_module.functional(module, call or nnx_module.with_inputs))


def names() -> tuple[str, ...]:
    """Lists the networks that `create` knows by name."""
    return tuple(NETWORKS)


def factory(name: str) -> Callable[..., Model]:
    """Finds the factory of a network; nothing is made.

    Raises:
        InputError: an unknown name, or a factory that cannot be imported.
    """
    return find_factory(name, NETWORKS, what="model")


def create(name: str, *, example: Any, classes: int, seed: int, **options: Any) -> Model:
    """Makes a network with fresh weights.

    Args:
        name: one of `names()`, or 'package.module:factory': that module's function, called with
            the keyword arguments of this one (without `name`); it returns a `Model`.
        example: the inputs of one example, leading axis 1, as a pytree of `jax.ShapeDtypeStruct`,
            for instance of shape (1, 32, 32, 3).
        classes: length of the outputs' last axis.
        seed: of the weights, a non-negative integer.
        **options: the factory's own, for instance `dtype='bfloat16'`.

    Returns:
        The network; its parameters and stats are JAX arrays, and whatever its `apply` raises is a
        ValueError with the name and the inputs.

    Raises:
        InputError: an unknown name or option, a factory that cannot be imported, or one that
            returns something else than a `Model`, or parameters that no gradient can change or that
            are narrower than float32 though no option `param_dtype` asks for that: the search and
            SR-STE decay them by less than such can hold.
    """
    arguments = {"example": example, "classes": classes, "seed": seed, **options}
    model = call_factory(name, NETWORKS, arguments, Model, what="model")
    params, stats = _to_arrays(name, "params", model.params), _to_arrays(name, "stats", model.stats)
    for path, leaf in leaves_by_path(params).items():
        if not jnp.issubdtype(leaf.dtype, jnp.inexact):
            raise InputError(
                f"model {name!r}: parameter {path!r} is {leaf.dtype}{list(leaf.shape)}, which no "
                "gradient can change: put it into stats, or let apply close over it"
            )
        if leaf.dtype.itemsize < FLOAT32 and leaf.dtype.name != options.get("param_dtype"):
            raise InputError(
                f"model {name!r}: parameter {path!r} is {leaf.dtype}{list(leaf.shape)}, in which "
                "small decays are lost: make it float32, and let apply compute in less"
            )
    return Model(_explained(name, model.apply), params, stats)


def _to_arrays(name: str, part: str, tree: Any) -> Any:
    """Makes every leaf a JAX array of the dtype that JAX gives it, also a Python number."""

    def to_array(keys: tuple[Any, ...], leaf: Any) -> jax.Array:
        if isinstance(leaf, jax.Array) and not getattr(leaf, "weak_type", False):
            return leaf
        try:
            return jnp.asarray(np.asarray(leaf))  # a Python number alone would be weakly typed
        except TypeError:
            raise InputError(
                f"model {name!r}: {part} {path_of(keys)!r}: expected an array or a number, got "
                f"{leaf!r}"
            ) from None

    return jax.tree_util.tree_map_with_path(to_array, tree)


def _explained(name: str, apply: Callable[..., tuple[Any, Any]]) -> Callable[..., tuple[Any, Any]]:
    """Says on which inputs of which model an `apply` failed, wherever it is traced."""

    def explained(params: Any, stats: Any, inputs: Any, **options: Any) -> tuple[Any, Any]:
        try:
            return apply(params, stats, inputs, **options)
        except (InputError, KeyboardInterrupt):
            raise
        except BaseException as error:  # whatever a user's function does, sys.exit too
            shapes = ", ".join(
                f"{path} {getattr(leaf, 'dtype', type(leaf).__name__)}{list(np.shape(leaf))}"
                for path, leaf in leaves_by_path(inputs).items()
            ).strip()
            raise InputError(
                f"model {name!r}: apply failed on inputs {shapes}: {told(error, name)}"
            ) from error

    return explained
