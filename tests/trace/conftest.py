"""What tests of the trace share."""

import jax
import pytest


@pytest.fixture
def users_promotion():
    """Users' networks promote types and ranks as they like."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield
