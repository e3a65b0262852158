"""Validate bodies of requests, and report a mistake in one."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, ValidationError

from medcap.serving.api.api_error import ApiError, bad_request, one_line


class StrictModel(BaseModel):
    """Values of the right type only, no unknown field, and no value of a client in an error."""

    model_config = ConfigDict(strict=True, extra="forbid", hide_input_in_errors=True, allow_inf_nan=False)


# Instead of pydantic's words, which name our classes.
_WANTED = {"model_type": "it must be a JSON object"}


def refusal(error: ValidationError) -> ApiError:
    """Return the first mistake as a 400 that names the field.

    Args:
        error: error of a :class:`StrictModel`.
    """
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    field = one_line(".".join(map(str, first["loc"])), 200)
    if first["type"] == "extra_forbidden":
        return bad_request(f"there is no field '{field}': leave it out", field, "unknown_field")
    if first["type"] == "missing":
        return bad_request(f"'{field}' is missing", field, "missing_field")
    return bad_request(f"'{field}': {_WANTED.get(first['type'], first['msg'][:300])}", field)
