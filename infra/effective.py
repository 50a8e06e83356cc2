"""The template as CloudFormation sees it for given parameters.

The SAM CLI packages it, SAM's own translator transforms it, and this file resolves conditions and intrinsic functions.
Needs the Python of `scripts/setup.sh sam`, but no account and no network."""

from __future__ import annotations

import copy
import logging
import os
import re
from pathlib import Path
from typing import Any

os.environ.setdefault("AWS_DEFAULT_REGION", "eu-west-1")
logging.disable(logging.WARNING)

from samcli import yamlhelper  # noqa: E402
from samtranslator.parser.parser import Parser  # noqa: E402
from samtranslator.translator.translator import Translator  # noqa: E402
from samtranslator.yaml_helper import yaml_parse  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent


def packaged(name: str) -> str:
    """Returns the text that `sam build` and `sam deploy` write for a template, with YAML anchors expanded."""
    return yamlhelper.yaml_dump(yamlhelper.yaml_parse((ROOT / name).read_text(encoding="utf-8")))


PACKAGED = packaged("template.yaml")
SOURCE: dict[str, Any] = yaml_parse(PACKAGED)
# The one for Lambda Managed Instances, which is derived from it.
MANAGED: dict[str, Any] = yaml_parse(packaged("template-managed.yaml"))

# The parameters of a minimal deployment: an existing Redis, a model, a secret.
SECRET = "arn:aws:secretsmanager:eu-west-1:111122223333:secret:"
MINIMAL = {
    "RedisUrl": "rediss://redis.example.com:6379",
    "JwtSecretSecretArn": SECRET + "jwt-AbCdEf",
    "LlmBaseUrl": "https://model.example.com/v1",
    "LlmModel": "m",
    "LlmApiKeySecretArn": SECRET + "model-AbCdEf#api_key",
}
VPC = {"VpcId": "vpc-12345678", "SubnetIds": "subnet-1a,subnet-1b"}

PSEUDO_PARAMETERS = {
    "AWS::AccountId": "111122223333",
    "AWS::Partition": "aws",
    "AWS::Region": "eu-west-1",
    "AWS::StackName": "chat",
    "AWS::URLSuffix": "amazonaws.com",
}
# The longest value that CloudFormation accepts for any parameter.
MAX_PARAMETER_CHARACTERS = 4096
NO_VALUE = object()


def accepts(parameter: dict[str, Any], value: str) -> bool:
    """Returns whether CloudFormation accepts a value for a parameter. A pattern must match the entire value."""
    if "AllowedValues" in parameter and value not in map(str, parameter["AllowedValues"]):
        return False
    if parameter["Type"] == "Number":
        return float(parameter.get("MinValue", "-inf")) <= float(value) <= float(parameter.get("MaxValue", "inf"))
    if re.fullmatch(parameter.get("AllowedPattern", r"(?s:.*)"), value) is None:
        return False
    return len(value) <= parameter.get("MaxLength", MAX_PARAMETER_CHARACTERS)


class Effective:
    """One deployment. `resources` contains the resources whose condition holds. A parameter without a default must be
    given."""

    def __init__(self, given: dict[str, Any] | None = None, minimal: bool = True, template: dict[str, Any] = SOURCE):
        parameters = {**(MINIMAL if minimal else {}), **(given or {})}
        self.described = template["Parameters"]
        unknown = set(parameters) - set(self.described)
        assert not unknown, f"unknown parameters: {unknown}"
        self.parameters = {
            name: str(parameters[name] if name in parameters else what["Default"])
            for name, what in self.described.items()
        }
        source = copy.deepcopy(template)
        # `sam package` replaces the folder by an uploaded object; without a build there is nothing to upload.
        source["Globals"]["Function"].pop("CodeUri")
        for resource in source["Resources"].values():
            if resource["Type"] == "AWS::Serverless::Function":
                resource["Properties"]["CodeUri"] = "s3://bucket/code"
        self.transformed = Translator({}, Parser()).translate(source, dict(self.parameters))
        self.resources = {
            name: self.resolve({key: value for key, value in resource.items() if key != "Condition"})
            for name, resource in self.transformed["Resources"].items()
            if "Condition" not in resource or self.condition(resource["Condition"])
        }

    def of_type(self, kind: str) -> dict[str, Any]:
        """Returns the properties of all resources of a type, by logical id."""
        return {name: resource["Properties"] for name, resource in self.resources.items() if resource["Type"] == kind}

    def properties(self, name: str) -> dict[str, Any]:
        return self.resources[name]["Properties"]

    def environment(self, function: str) -> dict[str, str]:
        return {name: str(value) for name, value in self.properties(function)["Environment"]["Variables"].items()}

    def rejections(self) -> list[str]:
        """Returns the reasons for which CloudFormation refuses these parameters before it creates anything."""
        given = self.parameters.items()
        reasons = [f"{name} has a bad value" for name, value in given if not accepts(self.described[name], value)]
        for rule in self.transformed["Rules"].values():
            if "RuleCondition" in rule and not self.holds(rule["RuleCondition"]):
                continue
            reasons += [one["AssertDescription"] for one in rule["Assertions"] if not self.holds(one["Assert"])]
        return reasons

    def condition(self, name: str) -> bool:
        return self.holds(self.transformed["Conditions"][name])

    def holds(self, what: Any) -> bool:
        """Evaluates a condition function."""
        ((function, argument),) = what.items()
        if function == "Condition":
            return self.condition(argument)
        if function == "Fn::Equals":
            left, right = (str(self.resolve(one)) for one in argument)
            return left == right
        if function == "Fn::Not":
            return not self.holds(argument[0])
        if function == "Fn::And":
            return all(self.holds(one) for one in argument)
        if function == "Fn::Or":
            return any(self.holds(one) for one in argument)
        raise AssertionError(f"not a condition function: {function}")

    def resolve(self, what: Any) -> Any:
        """Resolves intrinsic functions. An attribute of a resource stays as text, such as `${Cache.ARN}`."""
        if isinstance(what, list):
            return [one for one in map(self.resolve, what) if one is not NO_VALUE]
        if not isinstance(what, dict):
            return what
        if len(what) == 1:
            ((function, argument),) = what.items()
            if function == "Ref":
                return self.reference(argument)
            if function.startswith("Fn::"):
                return self.intrinsic(function, argument)
        resolved = {key: self.resolve(value) for key, value in what.items()}
        return {key: value for key, value in resolved.items() if value is not NO_VALUE}

    def reference(self, name: str) -> Any:
        if name == "AWS::NoValue":
            return NO_VALUE
        return {**PSEUDO_PARAMETERS, **self.parameters}.get(name, f"${{{name}}}")

    def intrinsic(self, function: str, argument: Any) -> Any:
        if function == "Fn::If":
            condition, then, otherwise = argument
            return self.resolve(then if self.condition(condition) else otherwise)
        if function == "Fn::Sub":
            return self.substitute(argument)
        if function == "Fn::GetAtt":
            return "${%s}" % (argument if isinstance(argument, str) else ".".join(argument))
        if function == "Fn::Split":
            return self.resolve(argument[1]).split(argument[0])
        if function == "Fn::Select":
            return self.resolve(argument[1])[int(argument[0])]
        if function == "Fn::Join":
            return argument[0].join(str(one) for one in self.resolve(argument[1]))
        raise AssertionError(f"not an intrinsic function that is known here: {function}")

    def substitute(self, argument: Any) -> str:
        """Evaluates Fn::Sub. `${!Name}` stands for the literal text `${Name}`."""
        text, variables = (argument, {}) if isinstance(argument, str) else argument
        variables = {name: self.resolve(value) for name, value in variables.items()}

        def value(found: re.Match) -> str:
            name = found[1]
            return f"${{{name[1:]}}}" if name.startswith("!") else str(variables.get(name, self.reference(name)))

        return re.sub(r"\$\{([^}]+)\}", value, text)
