"""What no mask can save: multiply-adds of products of two activations, such as attention's."""

from typing import Any

from domino_jax.trace.example import Apply
from domino_jax.trace.weights import find_products


def activation_macs(apply: Apply, params: Any, inputs: Any, *, batched: Any = True) -> int:
    """Counts the multiply-adds of one example in products that no weight takes part in.

    Those of matrix products and convolutions whose operands both depend on the inputs. A while loop
    counts as one pass, a cond as its dearest branch. Nothing is executed. They come from the walk
    that finds the layers, so no product is counted in both.

    Args:
        apply: `apply(params, inputs)`.
        params: as for `find_layers`.
        inputs: as for `find_layers`.
        batched: as for `find_layers`.
    """
    _, unweighted = find_products(apply, params, inputs, batched)
    return int(sum(product.macs for product in unweighted))
