"""Budgets as people say them: 0.25, '25 %', '1/4', '5.0M', '227M MACs'; exact, never floats."""

import re
from fractions import Fraction
from typing import NamedTuple

from domino_jax.core.errors import InputError

FORMS = (
    "a share above 0 and below 1, also as '25%' or '1/4', or a count such as '5.0M' or '3M MACs'"
)
_TIMES = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "b": 10**9}
_UNITS = {"": "", "mac": "macs", "macs": "macs", "param": "params", "params": "params"}
_UNITS |= {"weight": "params", "weights": "params"}
_DECIMAL = r"[0-9]{1,20}(?:\.[0-9]{1,20})?"
_COUNT = re.compile(rf"({_DECIMAL}) ?([kmgb]?) ?([a-z]*)", re.IGNORECASE | re.ASCII)
_SHARE = re.compile(rf"({_DECIMAL}) ?%|([0-9]{{1,20}})/([0-9]{{1,20}})", re.ASCII)


class Amount(NamedTuple):
    """How much a scheme may cost.

    Attributes:
        value: a share in (0, 1), or a count above 1.
        unit: of a count: 'macs', 'params', or '' where it was not said.
    """

    value: Fraction
    unit: str = ""

    @property
    def is_share(self) -> bool:
        """Says whether it is a share of a cost, and no count."""
        return self.value < 1


def parse_amount(budget: float | Fraction | str) -> Amount:
    """Reads a budget; a float as the decimal it is written as.

    Raises:
        InputError: it has no form that is known, or is no share in (0, 1) and no count of 1 or
            more.
    """
    amount = _read(budget)
    if amount is None or amount.value <= 0:
        raise InputError(f"budget: expected {FORMS}, got {budget!r}")
    return amount


def _read(budget: float | Fraction | str) -> Amount | None:
    if isinstance(budget, str):
        return _of_text(budget.strip())
    if isinstance(budget, bool) or not isinstance(budget, int | float | Fraction):
        return None
    if isinstance(budget, int) and budget > 1:
        return Amount(Fraction(budget))
    if not 0 < budget < 1:
        return None
    return Amount(budget if isinstance(budget, Fraction) else Fraction(repr(float(budget))))


def _of_text(text: str) -> Amount | None:
    if match := _SHARE.fullmatch(text):
        percent, part, whole = match.groups()
        if whole is not None and int(whole) == 0:
            return None
        share = Fraction(percent) / 100 if percent else Fraction(int(part), int(whole))
        return Amount(share) if share < 1 else None
    match = _COUNT.fullmatch(text)
    if match is None or match[3].lower() not in _UNITS:
        return None
    value = Fraction(match[1]) * _TIMES[match[2].lower()]
    unit = _UNITS[match[3].lower()]
    if value < 1 and (unit or match[2]):
        return None
    return Amount(value, unit) if value != 1 or unit else None
