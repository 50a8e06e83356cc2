"""docs/openapi.yaml: reads it, and validates values against its schemas.

It checks one response at a time, so it refuses nothing about the order of requests or of the events of a stream."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import yaml
from jsonschema import ValidationError
from jsonschema.validators import extend
from openapi_schema_validator import OAS31Validator, oas31_format_checker
from referencing import Registry
from referencing.jsonschema import DRAFT202012

ROOT = Path(__file__).resolve().parent.parent.parent
PATH = ROOT / "docs" / "openapi.yaml"
METHODS = ("get", "put", "post", "delete", "options", "head", "patch", "trace")

# The document's name in references.
NAME = "urn:openapi"


def check_content(validator: Any, schema: Any, value: Any, _parent: Any) -> Iterator[ValidationError]:
    """Validates JSON in a string. JSON Schema leaves `contentSchema` to applications."""
    if not isinstance(value, str):
        return
    try:
        content = json.loads(value)
    except ValueError as error:
        yield ValidationError(f"{value!r} is not valid JSON: {error}")
        return
    yield from validator.descend(content, schema)


Validator = extend(OAS31Validator, {"contentSchema": check_content})


class Document:
    """The document, with its references resolved on demand."""

    def __init__(self, content: Mapping[str, Any]) -> None:
        self.content = content
        self._registry = Registry().with_resource(NAME, DRAFT202012.create_resource(content))

    @classmethod
    def read(cls) -> Document:
        return cls(yaml.safe_load(PATH.read_text(encoding="utf-8")))

    def operations(self) -> dict[tuple[str, str], tuple[str, ...]]:
        """Returns where each operation is, by its method and path."""
        paths = self.content["paths"]
        return {
            (method, path): ("paths", path, method)
            for path, item in paths.items()
            for method in item
            if method in METHODS
        }

    def at(self, place: tuple[str, ...]) -> tuple[Any, tuple[str, ...]]:
        """Returns what is at a place, and where that is after its references are followed."""
        value: Any = self.content
        for position, step in enumerate(place):
            value = value[int(step)] if isinstance(value, list) else value[step]
            if isinstance(value, dict) and "$ref" in value and set(value) <= {"$ref", "summary", "description"}:
                return self.at((*value["$ref"].removeprefix("#/").split("/"), *place[position + 1 :]))
        return value, place

    def errors(self, place: tuple[str, ...], value: Any) -> list[str]:
        """Returns how a value differs from the schema at a place."""
        pointer = "/".join(quote(step.replace("~", "~0").replace("/", "~1"), safe="~") for step in place)
        validator = Validator(
            {"$ref": f"{NAME}#/{pointer}"}, registry=self._registry, format_checker=oas31_format_checker
        )
        return [text for error in validator.iter_errors(value) for text in causes(error)]

    def body_errors(self, place: tuple[str, ...], media_type: str, body: str) -> list[str]:
        """Returns how a body differs from what the media type at a place describes."""
        described, place = self.at(place)
        if "x-itemSchema" not in described:
            try:
                return self.errors((*place, "schema"), json.loads(body))
            except ValueError as error:
                return [f"the body is not valid JSON: {error}"]
        errors = self.errors((*place, "schema"), body)
        try:
            items = events(body) if media_type == "text/event-stream" else [json.loads(line) for line in lines(body)]
        except ValueError as error:
            return [*errors, f"the body cannot be split: {error}"]
        for item in items:
            errors += self.errors((*place, "x-itemSchema"), item)
        return errors

    def answer_errors(self, place: tuple[str, ...], status: int, headers: Mapping[str, str], body: str) -> list[str]:
        """Returns how an answer differs from the responses at a place. Header names are in lower case."""
        responses, place = self.at(place)
        if str(status) not in responses:
            return [f"the status {status} is not described"]
        response, place = self.at((*place, str(status)))
        errors = []
        described = {name.lower(): name for name in response.get("headers", {})}
        for name in sorted(set(headers) - set(described) - {"content-type"}):
            errors.append(f"the header {name} is not described")
        for name, spelled in described.items():
            header, header_place = self.at((*place, "headers", spelled))
            if name in headers:
                errors += self.errors((*header_place, "schema"), headers[name])
            elif header.get("required"):
                errors.append(f"the header {name} is missing")
        media_type, _, parameters = headers.get("content-type", "").partition("; ")
        if "content" not in response:
            return errors if (media_type, body) == ("", "") else [*errors, "no body is described"]
        if media_type not in response["content"] or parameters not in ("", "charset=utf-8"):
            return [*errors, f"the content type {headers.get('content-type')} is not described"]
        return errors + self.body_errors((*place, "content", media_type), media_type, body)


def causes(error: ValidationError) -> list[str]:
    """Returns an error in words; for alternatives, why each of them does not match."""
    where = "/".join(str(step) for step in error.absolute_path) or "the value"
    texts = [f"{where}: {error.message}"]
    for cause in error.context or ():
        texts += [f"  {text}" for text in causes(cause)]
    return texts


def lines(body: str) -> list[str]:
    """Returns the lines of JSON lines. Raises ValueError if the last one does not end."""
    if body and not body.endswith("\n"):
        raise ValueError("the last line does not end")
    return body.split("\n")[:-1]


def events(body: str) -> list[dict[str, str]]:
    """Returns the events and comments of a stream, each with its fields.

    Raises ValueError for what parsers would accept, but this service never sends: a field twice, or a last event
    without an empty line after it.
    """
    blocks = body.split("\n\n")
    if blocks.pop():
        raise ValueError("the last event does not end")
    found = []
    for block in blocks:
        event: dict[str, str] = {}
        for line in block.split("\n"):
            name, colon, value = line.partition(": ")
            name = name or "comment"
            if not colon or name in event:
                raise ValueError(f"{line!r} is not a field of its own")
            event[name] = value
        found.append(event)
    return found
