"""template-managed.yaml: chat-stream on Lambda Managed Instances, and everything else as in template.yaml."""

from __future__ import annotations

import re
import unittest
from typing import Any

import managed
from effective import MANAGED, ROOT, SOURCE, VPC, Effective, accepts

from functions import FUNCTIONS

CHAT = "ChatStreamFunction"
# Resources that only one of the templates has.
INSTANCES = {"ChatCapacity", "ChatCapacityOperatorRole"}


def on_instances(given: dict[str, Any] | None = None) -> Effective:
    return Effective({**VPC, **(given or {})}, template=MANAGED)


def comparable(stack: Effective) -> dict[str, Any]:
    """Returns all resources without hashes: the name of chat-stream's version contains one of the function, and the
    API's deployment one of the time."""
    hashed = re.compile(rf"\b({CHAT}Version|ApiDeployment|deployment id: )(?:[0-9a-f]{{40}}|[0-9a-f]{{10}})\b")

    def named(what: Any) -> Any:
        if isinstance(what, dict):
            return {named(key): named(value) for key, value in what.items()}
        if isinstance(what, list):
            return [named(one) for one in what]
        return hashed.sub(r"\1", what) if isinstance(what, str) else what

    return named(stack.resources)


class Managed(unittest.TestCase):
    def test_the_file_is_what_is_derived_from_the_template(self) -> None:
        derived = managed.derive((ROOT / "template.yaml").read_text(encoding="utf-8"))
        written = (ROOT / "template-managed.yaml").read_text(encoding="utf-8")
        self.assertEqual(written, derived, "run: make template-managed")

    def test_only_chat_stream_and_its_instances_differ(self) -> None:
        for given in ({}, {"CreateCache": "true", "RedisUrl": "", "SecurityGroupIds": "sg-1"}):
            usual, other = comparable(Effective({**VPC, **given})), comparable(on_instances(given))
            self.assertEqual(set(other) - set(usual), INSTANCES)
            self.assertEqual(set(usual) - set(other), set())
            differ = {name for name in usual if usual[name] != other[name]}
            self.assertEqual(differ, {CHAT, CHAT + "Version"})

    def test_chat_stream_runs_on_the_instances_many_turns_at_once(self) -> None:
        stack = on_instances({"ChatStreamsPerEnvironment": 40, "ChatMinEnvironments": 2, "ChatMaxEnvironments": 9})
        usual, chat = Effective(VPC).properties(CHAT), stack.properties(CHAT)
        arn = "arn:aws:lambda:eu-west-1:111122223333:capacity-provider:${ChatCapacity}"
        expected = {
            "CapacityProviderConfig": {
                "LambdaManagedInstancesCapacityProviderConfig": {
                    "CapacityProviderArn": arn,
                    "PerExecutionEnvironmentMaxConcurrency": "40",
                    "ExecutionEnvironmentMemoryGiBPerVCpu": 2,
                }
            },
            "FunctionScalingConfig": {"MinExecutionEnvironments": "2", "MaxExecutionEnvironments": "9"},
            "PublishToLatestPublished": False,
            "MemorySize": "2048",
        }
        self.assertEqual({name: chat[name] for name in expected}, expected)
        # A function on instances may have none of these.
        refused = {"VpcConfig", "ReservedConcurrentExecutions", "ProvisionedConcurrencyConfig", "SnapStart"}
        self.assertEqual(set(chat) & refused, set())
        rest = set(usual) - refused - set(expected)
        self.assertEqual({name: chat[name] for name in rest}, {name: usual[name] for name in rest})
        self.assertEqual(set(chat), rest | set(expected))
        # The alias serves the published version, which scales within the same bounds and goes when it is replaced: its
        # environments would run on.
        (version,) = (
            one
            for one in stack.resources.values()
            if one["Type"] == "AWS::Lambda::Version" and one["Properties"]["FunctionName"] == f"${{{CHAT}}}"
        )
        self.assertEqual(version["Properties"]["FunctionScalingConfig"], expected["FunctionScalingConfig"])
        self.assertEqual(version["DeletionPolicy"], "Delete")

    def test_the_other_functions_run_as_before(self) -> None:
        stack = on_instances()
        for function in FUNCTIONS:
            if function.resource != CHAT:
                properties = stack.properties(function.resource)
                self.assertNotIn("CapacityProviderConfig", properties)
                self.assertIn("VpcConfig", properties)

    def test_instances_are_arm64_in_the_vpc_and_limited(self) -> None:
        for given, groups, types in (
            ({}, ["${FunctionSecurityGroup}"], {}),
            (
                {"SecurityGroupIds": "sg-1", "InstanceTypes": "c8g.xlarge,m8g.xlarge"},
                ["${FunctionSecurityGroup}", "sg-1"],
                {"AllowedInstanceTypes": ["c8g.xlarge", "m8g.xlarge"]},
            ),
        ):
            stack = on_instances({"InstanceMaxVcpus": 12, **given})
            self.assertEqual(stack.rejections(), [])
            capacity = stack.properties("ChatCapacity")
            self.assertEqual(
                capacity["VpcConfig"], {"SubnetIds": ["subnet-1a", "subnet-1b"], "SecurityGroupIds": groups}
            )
            self.assertEqual(capacity["InstanceRequirements"], {"Architectures": ["arm64"], **types})
            self.assertEqual(capacity["CapacityProviderScalingConfig"]["MaxVCpuCount"], "12")
            self.assertEqual(
                capacity["PermissionsConfig"], {"CapacityProviderOperatorRoleArn": "${ChatCapacityOperatorRole.Arn}"}
            )
            role = stack.properties("ChatCapacityOperatorRole")
            self.assertEqual(role["ManagedPolicyArns"], ["arn:aws:iam::aws:policy/AWSLambdaManagedEC2ResourceOperator"])

    def test_a_vpc_must_be_named_and_parameters_are_described(self) -> None:
        for name in ("VpcId", "SubnetIds"):
            self.assertNotIn("Default", MANAGED["Parameters"][name])
            self.assertFalse(accepts(MANAGED["Parameters"][name], ""))
        grouped = MANAGED["Metadata"]["AWS::CloudFormation::Interface"]["ParameterGroups"]
        grouped = [name for group in grouped for name in group["Parameters"]]
        self.assertEqual(sorted(grouped), sorted(MANAGED["Parameters"]))
        page = (ROOT / "docs/deploy.md").read_text(encoding="utf-8")
        for name in set(MANAGED["Parameters"]) - set(SOURCE["Parameters"]):
            self.assertLessEqual(len(MANAGED["Parameters"][name]["Description"]), 150, name)
            self.assertTrue(f"`{name}`" in page, f"docs/deploy.md does not explain {name}")


if __name__ == "__main__":
    unittest.main()
