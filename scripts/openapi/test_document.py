"""The document by itself: it is valid, its examples are, and its routes and codes are those of the service."""

from __future__ import annotations

import re
import unittest
from collections.abc import Iterator
from typing import Any

from document import ROOT, Document
from openapi_spec_validator import OpenAPIV31SpecValidator

from functions import ROUTES

DOCUMENT = Document.read()
# The schemas of request bodies, whose unknown fields are ignored.
REQUESTS = ("NewMessage", "NewState")
Place = tuple[str, ...]


def nodes(place: Place = (), value: Any = DOCUMENT.content) -> Iterator[tuple[Place, dict[str, Any]]]:
    """Yields every object of the document but for those inside examples."""
    if isinstance(value, dict):
        yield place, value
        for name, inner in value.items():
            if name not in ("example", "examples"):
                yield from nodes((*place, name), inner)
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from nodes((*place, str(index)), inner)


def examples() -> Iterator[tuple[Place, Place, Any]]:
    """Yields where each example is, where its schema or media type is, and its value."""
    for place, node in nodes():
        if place[-1:] == ("properties",):
            continue
        if isinstance(node.get("examples"), list):
            for index, value in enumerate(node["examples"]):
                yield (*place, "examples", str(index)), place, value
        elif "examples" in node:
            for name, example in node["examples"].items():
                yield (*place, "examples", name), place, example["value"]
        elif "example" in node:
            yield (*place, "example"), (*place, "schema"), node["example"]


def errors_of(place: Place, value: Any) -> list[str]:
    """Returns how an example differs from its schema, or from the media type at that place."""
    node, _ = DOCUMENT.at(place)
    if "x-itemSchema" in node:
        return DOCUMENT.body_errors(place, place[-1], value)
    return DOCUMENT.errors((*place, "schema") if "schema" in node else place, value)


def problems() -> set[tuple[int, str]]:
    """Returns each status of a problem document with each of its codes."""
    found = set()
    for place, node in nodes():
        media_type = node.get("content", {}).get("application/problem+json")
        if not media_type:
            continue
        narrowed = media_type["schema"]["allOf"][-1]["properties"]["code"]
        statuses = {example["value"]["status"] for example in media_type["examples"].values()}
        assert len(statuses) == 1, place
        found |= {(status, code) for status in statuses for code in narrowed.get("enum", [narrowed.get("const")])}
    return found


class TheDocument(unittest.TestCase):
    def test_is_valid_openapi_3_1(self) -> None:
        found = [f"{list(error.absolute_path)}: {error.message}" for error in validation_errors()]
        self.assertEqual(found, [])
        self.assertRegex(DOCUMENT.content["openapi"], r"^3\.1\.")

    def test_its_examples_match_their_schemas(self) -> None:
        checked = 0
        for place, schema, value in examples():
            with self.subTest("/".join(place)):
                self.assertEqual(errors_of(schema, value), [])
                checked += 1
        self.assertGreater(checked, 50)

    def test_no_response_may_have_a_member_that_it_does_not_describe(self) -> None:
        for place, schema, value in examples():
            of_schema = place[:2] == ("components", "schemas") and place[2] not in REQUESTS
            if (of_schema or "responses" in place) and isinstance(value, dict):
                with self.subTest("/".join(place)):
                    self.assertNotEqual(errors_of(schema, {**value, "surplus": 1}), [])

    def test_everything_that_is_sent_has_an_example(self) -> None:
        without = [
            "/".join(place) for place, node in nodes() if place[-2:-1] == ("content",) and "examples" not in node
        ]
        for name in ("StreamEvent", "UiStreamEvent", "UiPart", "ExportLine"):
            for index, _ in enumerate(DOCUMENT.content["components"]["schemas"][name]["oneOf"]):
                part, place = DOCUMENT.at(("components", "schemas", name, "oneOf", str(index)))
                if "examples" not in part:
                    without.append("/".join(place))
        self.assertEqual(without, [])

    def test_every_operation_is_named_and_described(self) -> None:
        names = []
        for route, place in DOCUMENT.operations().items():
            operation, _ = DOCUMENT.at(place)
            names.append(operation.get("operationId"))
            for member in ("summary", "description"):
                self.assertTrue(operation.get(member), f"{route} has no {member}")
            for member in operation.get("parameters", []):
                parameter, _ = DOCUMENT.at(tuple(member["$ref"][2:].split("/"))) if "$ref" in member else (member, ())
                self.assertTrue(parameter.get("description") and "example" in parameter, f"{route} {parameter['name']}")
        self.assertEqual(len(names), len(set(names)))
        self.assertNotIn(None, names)

    def test_every_component_is_used(self) -> None:
        referred = {node["$ref"] for _, node in nodes() if "$ref" in node}
        components = DOCUMENT.content["components"]
        named = {f"#/components/{kind}/{name}" for kind in components for name in components[kind]}
        self.assertEqual(named - referred, {"#/components/securitySchemes/token"})

    def test_its_codes_are_those_of_the_page_for_people(self) -> None:
        page = (ROOT / "docs" / "http-api.md").read_text(encoding="utf-8").split("\n## Problems\n")[1]
        rows = re.findall(r"^\| (\d{3}) `(\w+)` \|", page, re.MULTILINE)
        self.assertEqual(problems(), {(int(status), code) for status, code in rows})


class TheRoutes(unittest.TestCase):
    def test_are_those_of_the_service(self) -> None:
        # The tests in infra/ hold the template, and the paths that `make run` serves, to this list.
        self.assertEqual(set(DOCUMENT.operations()), {(method, path) for method, path, _ in ROUTES})


def validation_errors() -> Iterator[Any]:
    return OpenAPIV31SpecValidator(DOCUMENT.content).iter_errors()


if __name__ == "__main__":
    unittest.main()
