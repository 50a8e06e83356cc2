"""What checkov, a reviewer's list of good practice for AWS, finds in the templates.

Every finding is mended, or skipped in the metadata of its resource with the reason. Needs what
`scripts/setup.sh checkov` installs."""

from __future__ import annotations

import copy
import json
import subprocess
import tempfile
import unittest
from pathlib import Path
from typing import Any

from effective import MANAGED, ROOT, SOURCE, VPC, Effective

CHECKOV = ROOT / ".tools/checkov/bin/checkov"
# A check and the resource in which it fails, without the resource's type.
Finding = tuple[str, str]


def template(source: dict[str, Any]) -> dict[str, Any]:
    """Returns a transformed template, with all conditional resources. The conditions are not resolved."""
    transformed = copy.deepcopy(Effective({**VPC, "CreateCache": "true"}, template=source).transformed)
    resources = transformed["Resources"]
    # SAM makes several resources of an API, and only the first gets its metadata.
    resources["ApiStage"]["Metadata"] = resources["Api"].pop("Metadata")
    # checkov evaluates simple conditions with the defaults of the parameters, and leaves out what they exclude.
    for resource in resources.values():
        resource.pop("Condition", None)
    return transformed


def run(checked: dict[str, Any]) -> dict[str, Any]:
    """Returns checkov's report on a template."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "template.json")
        path.write_text(json.dumps(checked), encoding="utf-8")
        # The folder has no configuration of its own that could skip something. Nothing is downloaded.
        command = [str(CHECKOV), "--framework", "cloudformation", "--file", str(path)]
        command += ["--skip-download", "--soft-fail", "--output", "json"]
        report = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=600)
    assert report.returncode == 0, report.stderr
    return json.loads(report.stdout)


def found(report: dict[str, Any], verdict: str) -> set[Finding]:
    return {(one["check_id"], one["resource"].split(".")[-1]) for one in report["results"][verdict]}


class Checkov(unittest.TestCase):
    def test_it_finds_nothing_but_what_is_skipped_with_a_reason(self) -> None:
        for source in (SOURCE, MANAGED):
            report = run(template(source))
            self.assertEqual(report["summary"]["parsing_errors"], 0)
            self.assertGreater(report["summary"]["passed"], 100)
            self.assertEqual(found(report, "failed_checks"), set())

    def test_every_skip_has_a_reason_and_something_to_skip(self) -> None:
        for source in (SOURCE, MANAGED):
            checked = template(source)
            skips = {}
            for name, resource in checked["Resources"].items():
                for skip in resource.pop("Metadata", {}).get("checkov", {}).get("skip", []):
                    skips[skip["id"], name] = skip["comment"]
            self.assertEqual(found(run(checked), "failed_checks"), set(skips))
            for comment in skips.values():
                self.assertRegex(comment, r"^[A-Z].{40,}\.$")


if __name__ == "__main__":
    unittest.main()
