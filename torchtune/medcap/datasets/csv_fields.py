"""How long a field of a CSV file may be."""

from __future__ import annotations

import csv

_MAX_FIELD = 1 << 27  # characters


def allow_long_fields() -> None:
    """Let Python's csv module read fields of more than 131,072 characters, its own limit.

    Whole cases of PMC-Patients and long generations stand in one field. The limit is one for the whole process; it is
    only ever raised.
    """
    csv.field_size_limit(max(csv.field_size_limit(), _MAX_FIELD))
