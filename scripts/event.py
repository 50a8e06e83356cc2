#!/usr/bin/env python3
"""Prints a sample event, or one that is refused, for `cargo lambda invoke`.

scripts/event.py                                         what there is
scripts/event.py chat-stream.post.http --token "$TOKEN"       a sample, with a token in it
scripts/event.py unsupported-media-type.http             a refusal: a sample, patched as events/refusals.json says
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

EVENTS = Path(__file__).resolve().parent.parent / "events"


def merged(target: Any, patch: Any) -> Any:
    """Returns the target with a JSON Merge Patch (RFC 7396) applied."""
    if not isinstance(patch, dict):
        return patch
    result = dict(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        else:
            result[name] = merged(result.get(name), value)
    return result


def refusals() -> list[dict[str, Any]]:
    return list(json.loads((EVENTS / "refusals.json").read_text()))


def names() -> list[str]:
    samples = sorted(path.stem for path in EVENTS.glob("*.json") if path.stem != "refusals")
    return samples + [row["name"] for row in refusals()]


def event(name: str, token: str = "${TOKEN}") -> str:
    """Returns the event of that name as JSON, with the token in the place of its placeholder.

    Raises KeyError if there is none.
    """
    if name not in names():
        raise KeyError(name)
    refusal = next((row for row in refusals() if row["name"] == name), {"base": f"{name}.json", "patch": {}})
    sample = json.loads((EVENTS / refusal["base"]).read_text())
    text = json.dumps(merged(sample, refusal["patch"]), ensure_ascii=False, indent=2)
    return text.replace("${TOKEN}", token).replace("${64_KIB}", "x" * 65_536)


def main() -> int:
    parser = argparse.ArgumentParser(description="Prints a sample event for `cargo lambda invoke`.")
    parser.add_argument("name", nargs="?", help="a sample or a refusal; without one, their names are listed")
    parser.add_argument("--token", default="${TOKEN}", help="the bearer token that `make run` printed")
    options = parser.parse_args()
    if options.name is None:
        print("\n".join(names()))
        return 0
    try:
        print(event(options.name, options.token))
    except KeyError:
        print(f"there is no event {options.name!r}; without a name, all are listed", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
