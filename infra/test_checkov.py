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


def skips(checked: dict[str, Any]) -> dict[Finding, str]:
    """Returns what a template skips, with the reasons."""
    found = {}
    for name, resource in checked["Resources"].items():
        for skip in resource.get("Metadata", {}).get("checkov", {}).get("skip", []):
            found[skip["id"], name] = skip["comment"]
    return found


def without_skips(checked: dict[str, Any]) -> dict[str, Any]:
    bare = copy.deepcopy(checked)
    for resource in bare["Resources"].values():
        resource.pop("Metadata", None)
    return bare


def run(templates: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Returns checkov's report on templates, which are told apart by their names. Its start takes most of the time."""
    with tempfile.TemporaryDirectory() as folder:
        for name, checked in templates.items():
            Path(folder, f"{name}.json").write_text(json.dumps(checked), encoding="utf-8")
        # The folder has no configuration of its own that could skip something. Nothing is downloaded.
        command = [str(CHECKOV), "--framework", "cloudformation", "--file", *(f"{name}.json" for name in templates)]
        command += ["--skip-download", "--soft-fail", "--output", "json"]
        report = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=600)
    assert report.returncode == 0, report.stderr
    return json.loads(report.stdout)


class Checkov(unittest.TestCase):
    checked: dict[str, dict[str, Any]]
    report: dict[str, Any]

    @classmethod
    def setUpClass(cls) -> None:
        cls.checked = {"template": template(SOURCE), "template-managed": template(MANAGED)}
        bare = {f"{name}-without-skips": without_skips(checked) for name, checked in cls.checked.items()}
        cls.report = run({**cls.checked, **bare})

    def found(self, name: str, verdict: str) -> set[Finding]:
        results = [one for one in self.report["results"][verdict] if Path(one["file_path"]).stem == name]
        return {(one["check_id"], one["resource"].split(".")[-1]) for one in results}

    def test_it_finds_nothing_but_what_is_skipped_with_a_reason(self) -> None:
        self.assertEqual(self.report["summary"]["parsing_errors"], 0)
        for name in self.checked:
            self.assertGreater(len(self.found(name, "passed_checks")), 100, name)
            self.assertEqual(self.found(name, "failed_checks"), set(), name)

    def test_every_skip_has_a_reason_and_something_to_skip(self) -> None:
        for name, checked in self.checked.items():
            skipped = skips(checked)
            self.assertEqual(self.found(f"{name}-without-skips", "failed_checks"), set(skipped), name)
            for comment in skipped.values():
                self.assertRegex(comment, r"^[A-Z].{40,}\.$")


if __name__ == "__main__":
    unittest.main()
