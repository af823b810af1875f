"""Learning-rate schedules and optimizers by name."""

import jax
import jax.numpy as jnp
import optax

from domino_jax.core.paths import require_known

SCHEDULES = ("cosine", "constant")
DENSE_OPTIMIZERS = ("sgd", "adamw")
DECOUPLED = "adamw_decoupled"  # for SR-STE alone: its term stands beside Adam
OPTIMIZERS = (*DENSE_OPTIMIZERS, DECOUPLED)


def learning_rate(schedule: str, peak: float, steps: int, warmup: int = 0) -> optax.Schedule:
    """Makes a schedule step -> learning rate: linear warm-up from 0, then cosine to 0 or constant.

    Raises:
        InputError: the schedule is unknown.
    """
    require_known([schedule], SCHEDULES, what="schedule")
    if schedule == "cosine":
        rest = optax.cosine_decay_schedule(peak, max(steps - warmup, 1))
    else:
        rest = optax.constant_schedule(peak)
    if warmup > 0:
        rest = optax.join_schedules([optax.linear_schedule(0.0, peak, warmup), rest], [warmup])
    # Optax divides the step by a float: under strict promotion it must not be an integer.
    return lambda step: rest(jnp.asarray(step, float))


def doubling(start: float, first: int, every: int) -> optax.Schedule:
    """Makes step -> start, doubled at step `first` and again after every `every` steps.

    Source: the published code doubles its penalty at step 30,000 and every 10,000 after.
    """

    def penalty(step: jax.typing.ArrayLike) -> jax.Array:
        times = jnp.maximum((jnp.asarray(step) - first) // every + 1, 0)
        return start * jnp.exp2(times.astype(float))

    return penalty


def dense_optimizer(
    name: str, rate: optax.ScalarOrSchedule, momentum: float, weight_decay: float
) -> optax.GradientTransformation:
    """Makes SGD as PyTorch has it (decay in the gradient, then momentum), or AdamW.

    Raises:
        InputError: the optimizer is unknown.
    """
    require_known([name], DENSE_OPTIMIZERS, what="optimizer")
    if name == "sgd":
        return optax.chain(
            optax.add_decayed_weights(weight_decay), optax.sgd(rate, momentum or None)
        )
    return optax.adamw(rate, weight_decay=weight_decay)
