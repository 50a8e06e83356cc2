"""Hooks of schemathesis: which cases it leaves out, which findings are no defects, and how it reads JSON lines."""

from __future__ import annotations

import json
import re
import unicodedata
import uuid
from typing import Any

import schemathesis

MAX_ID_BYTES = 128
MAX_METADATA_BYTES = 2 * 1024
# Letters and a symbol with an empty glyph.
EMPTY_GLYPHS = "\u115f\u1160\u2800\u3164\uffa0"
# In the document.
EXAMPLE_KEY = '"5b0c1d9e-8a41-4c57-b0d3-2f6e7a9c1b84"'
# Refusals that depend on an earlier turn, on the character or on another parameter, and not on one value alone.
REFUSED_TOGETHER = (
    '"code":"idempotency_key_reused"',
    "is not the id of an event of this turn",
    '"detail":"greeting: must be the number of one of',
    "is not for this protocol",
)


@schemathesis.hook
def filter_case(_context: Any, case: Any) -> bool:
    """Leaves out what the document describes in words alone, because JSON Schema has no keyword for it."""
    body = case.body.items() if isinstance(case.body, dict) else ()
    return not any(breaks_a_rule_in_words(*field) for field in (*(case.query or {}).items(), *body))


def breaks_a_rule_in_words(name: str, value: Any) -> bool:
    """Returns whether the service refuses a value that matches its schema: limits in bytes, and visible text."""
    if name == "metadata":
        text = json.dumps(value, ensure_ascii=False)
        return isinstance(value, dict) and len(text.encode("utf-8", "replace")) > MAX_METADATA_BYTES
    if not isinstance(value, str):
        return False
    if name in ("message", "user_name"):
        return re.search(r"\S", value) is not None and not any(map(is_surely_visible, value))
    return len(value) <= MAX_ID_BYTES < len(value.encode("utf-8", "replace"))


def is_surely_visible(char: str) -> bool:
    return unicodedata.category(char)[0] in "LNPS" and char not in EMPTY_GLYPHS


@schemathesis.hook
def before_call(_context: Any, case: Any, _kwargs: dict[str, Any]) -> None:
    """Gives each request a key of its own in the place of the example's, because a key is for one body.

    Where a case is about the headers they stay: schemathesis would add again what the case leaves out.
    """
    about = getattr(case.meta.phase.data, "parameter_location", None) if case.meta else None
    if about != "header" and (case.headers or {}).get("Idempotency-Key") == EXAMPLE_KEY:
        case.headers["Idempotency-Key"] = f'"{uuid.uuid4()}"'


@schemathesis.hook
def filter_failure(_context: Any, failure: Any, case: Any, response: Any) -> bool:
    """Drops findings that are no defects of the service or of the document."""
    text = response.content.decode("utf-8", "replace")
    return not (
        is_of_cargo_lambda(text, response)
        or ("positive_data_acceptance" in failure.checks and any(reason in text for reason in REFUSED_TOGETHER))
        or ("negative_data_rejection" in failure.checks and has_two_offsets(failure, case))
    )


def is_of_cargo_lambda(text: str, response: Any) -> bool:
    """Returns whether cargo-lambda has answered in the gateway's place.

    It does so for methods that a path of several functions does not have, for bodies that are not UTF-8, and for
    headers that are not ASCII.
    """
    if response.status_code == 404:
        return "the default function route is disabled" in text
    return response.status_code == 500 and "httpstatuses.com" in text and cannot_be_passed_on(response.request)


def cannot_be_passed_on(request: Any) -> bool:
    """Returns whether cargo-lambda cannot make an event of a request."""
    try:
        (request.body if isinstance(request.body, bytes) else b"").decode("utf-8")
    except UnicodeDecodeError:
        return True
    return not all(value.isascii() for value in request.headers.values())


def has_two_offsets(failure: Any, case: Any) -> bool:
    """Returns whether `after` is wrong beside a header `Last-Event-ID`, which counts alone."""
    return "Last-Event-ID" in (case.headers or {}) and "`after` in query" in failure.message


@schemathesis.deserializer("application/x-ndjson")
def lines(_context: Any, response: Any) -> list[Any]:
    """Returns the values in JSON lines."""
    return [json.loads(line) for line in response.content.decode("utf-8").removesuffix("\n").split("\n")]
