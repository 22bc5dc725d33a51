"""The format of an answer, from the many ways in which clients ask for one over HTTP. Pure.

``response_format`` is OpenAI's, ``structured_outputs`` and the older ``guided_*`` are vLLM's.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from galerne.errors import InvalidRequestError
from router.guidance.formats import (
    JSON_OBJECT,
    FormatKind,
    OutputFormat,
    choice_format,
    schema_format,
    text_format,
)

_STRUCTURED = ("json", "json_object", "regex", "choice", "grammar")


def read_output_format(fields: Mapping[str, Any]) -> OutputFormat | None:
    """The one format that a body asks for; None for free text.

    Args:
        fields: ``response_format``, ``structured_outputs`` and ``guided_*`` of a body, as JSON.

    Raises:
        InvalidRequestError: It is no format, or there are two; names the field.
    """
    asked = [
        format_
        for field, value in fields.items()
        if value is not None and (format_ := _read(field, value)) is not None
    ]
    if len(asked) > 1:
        raise InvalidRequestError(asked[1].field, f"does not go with {asked[0].field}")
    return asked[0] if asked else None


def json_text_format(text: object, field: str) -> OutputFormat:
    """The format of a schema that is given as JSON text.

    Raises:
        InvalidRequestError: It is no JSON, or no schema.
    """
    if isinstance(text, str):
        try:
            text = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise InvalidRequestError(field, f"is no JSON: {error}") from error
    return schema_format(text, field)


def _read(field: str, value: Any) -> OutputFormat | None:  # noqa: ANN401 - a client's JSON
    match field:
        case "response_format":
            return _response_format(value)
        case "structured_outputs":
            return _structured_outputs(value)
        case "guided_json" | "guided_regex" | "guided_choice" | "guided_grammar":
            return _constraint(field.removeprefix("guided_"), value, field)
    raise ValueError(f"{field} holds no format")


def _response_format(value: object) -> OutputFormat | None:
    field = "response_format"
    if not isinstance(value, Mapping):
        raise InvalidRequestError(field, "must be an object")
    match value.get("type"):
        case "text":
            return None
        case "json_object":
            return schema_format(JSON_OBJECT, field)
        case "json_schema":
            return _json_schema(value.get("json_schema"), f"{field}.json_schema")
    raise InvalidRequestError(f"{field}.type", "must be text, json_object or json_schema")


def _json_schema(value: object, field: str) -> OutputFormat:
    if not isinstance(value, Mapping):
        raise InvalidRequestError(field, "must be an object with a schema")
    strict = value.get("strict")
    if not isinstance(strict, bool | None):
        raise InvalidRequestError(f"{field}.strict", "must be true or false")
    return schema_format(value.get("schema"), f"{field}.schema", is_lenient=not strict)


def _structured_outputs(value: object) -> OutputFormat | None:
    field = "structured_outputs"
    if not isinstance(value, Mapping):
        raise InvalidRequestError(field, "must be an object")
    given = [name for name, part in value.items() if part is not None]
    unknown = [name for name in given if name not in _STRUCTURED]
    if unknown:
        raise InvalidRequestError(f"{field}.{unknown[0]}"[:100], "is not supported")
    if len(given) > 1:
        raise InvalidRequestError(f"{field}.{given[1]}", f"does not go with {given[0]}")
    if not given:
        return None
    return _constraint(given[0], value[given[0]], f"{field}.{given[0]}")


def _constraint(kind: str, value: object, field: str) -> OutputFormat | None:
    match kind:
        case "json":
            return json_text_format(value, field)
        case "json_object":
            if not isinstance(value, bool):
                raise InvalidRequestError(field, "must be true or false")
            return schema_format(JSON_OBJECT, field) if value else None
        case "choice":
            return choice_format(value, field)
    return text_format(FormatKind(kind), value, field)
