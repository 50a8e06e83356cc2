"""samconfig.toml.example: what `sam deploy` reads from each of its blocks is accepted by CloudFormation."""

from __future__ import annotations

import contextlib
import inspect
import os
import re
import tempfile
import unittest
from pathlib import Path
from typing import Any
from unittest import mock

from click.testing import CliRunner
from effective import ROOT, SECRET, SOURCE, Effective
from samcli.commands.deploy import command

EXAMPLE = (ROOT / "samconfig.toml.example").read_text(encoding="utf-8")
# What a reader puts in place of the words in capitals.
PLACEHOLDERS = {
    "YOUR-REGION": "eu-west-1",
    "YOUR-SECRET-ARN": SECRET + "companion-chat-AbCdEf",
    "YOUR-REDIS-HOST": "redis.example.com",
    "YOUR-MODEL": "m",
    "YOUR-VPC": "vpc-12345678",
    "YOUR-SUBNET-1": "subnet-1a",
    "YOUR-SUBNET-2": "subnet-1b",
    "YOUR-WEB-APP": "app.example.com",
    "YOUR-SNS-TOPIC-ARN": "arn:aws:sns:eu-west-1:111122223333:alarms",
}
BLOCK = re.compile(r"^((?:# )?)parameter_overrides = \[\n.*?^(?:# )?\]\n", re.DOTALL | re.MULTILINE)


def deploy(samconfig: str) -> dict[str, Any]:
    """Returns the arguments with which `sam deploy` would deploy in a folder with this samconfig.toml."""
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as restore:
        Path(folder, "samconfig.toml").write_text(samconfig, encoding="utf-8")
        Path(folder, "template.yaml").write_text((ROOT / "template.yaml").read_text(encoding="utf-8"), encoding="utf-8")
        restore.callback(os.chdir, os.getcwd())
        os.chdir(folder)
        restore.enter_context(mock.patch.dict(os.environ, {"SAM_CLI_TELEMETRY": "0"}))
        signature = inspect.signature(command.do_cli)
        do_cli = restore.enter_context(mock.patch.object(command, "do_cli"))
        result = CliRunner().invoke(command.cli, [])
        assert do_cli.call_count == 1, result.output
        return signature.bind(*do_cli.call_args.args, **do_cli.call_args.kwargs).arguments


class Example(unittest.TestCase):
    def test_every_block_is_a_deployment_that_is_accepted(self) -> None:
        blocks = list(BLOCK.finditer(EXAMPLE))
        self.assertEqual([block[1] for block in blocks], ["", "# ", "# "], "the first block is active")
        filled = EXAMPLE
        for placeholder, value in PLACEHOLDERS.items():
            filled = filled.replace(placeholder, value)
        self.assertIsNone(re.search("YOUR-", filled))
        for chosen, block in enumerate(BLOCK.finditer(filled)):
            active = re.sub("^# ", "", block[0], flags=re.MULTILINE)
            rest = BLOCK.sub("", filled).replace("# Keep exactly one", active + "# Keep exactly one")
            arguments = deploy(rest)
            self.assertEqual((arguments["stack_name"], arguments["region"]), ("companion-chat", "eu-west-1"))
            self.assertEqual((arguments["capabilities"], arguments["resolve_s3"]), (["CAPABILITY_IAM"], True))
            given = arguments["parameter_overrides"]
            self.assertEqual("LlmProvider" in given, chosen == 0)
            self.assertEqual(Effective(given, minimal=False).rejections(), [], given)

    def test_every_named_parameter_exists(self) -> None:
        named = set(re.findall(r'"([A-Z]\w+)=', EXAMPLE))
        self.assertLessEqual({"Release", "CreateGatewayLogRole", "DeploymentType"}, named)
        self.assertLessEqual(named, set(SOURCE["Parameters"]))


if __name__ == "__main__":
    unittest.main()
