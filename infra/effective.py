"""The template as CloudFormation would have it for given parameters: transformed by SAM's own translator, conditions and functions
resolved. Needs the Python of scripts/setup.sh sam, no account and no network."""

import copy
import logging
import os
import re
from pathlib import Path
from typing import Any, Dict, Optional

os.environ.setdefault("AWS_DEFAULT_REGION", "eu-west-1")
logging.disable(logging.WARNING)

from samtranslator.parser.parser import Parser  # noqa: E402
from samtranslator.translator.translator import Translator  # noqa: E402
from samtranslator.yaml_helper import yaml_parse  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent
SOURCE: Dict[str, Any] = yaml_parse((ROOT / "template.yaml").read_text(encoding="utf-8"))

# What a deployment gives at least: a Redis of one's own, a model, a secret.
SECRET = "arn:aws:secretsmanager:eu-west-1:111122223333:secret:"
SMALLEST = {
    "RedisUrl": "rediss://redis.example.com:6379",
    "JwtSecretSecretArn": SECRET + "jwt-AbCdEf",
    "LlmBaseUrl": "https://model.example.com/v1",
    "LlmModel": "m",
    "LlmApiKeySecretArn": SECRET + "model-AbCdEf#api_key",
}
VPC = {"VpcId": "vpc-12345678", "SubnetIds": "subnet-1a,subnet-1b"}

PSEUDO = {
    "AWS::AccountId": "111122223333",
    "AWS::Partition": "aws",
    "AWS::Region": "eu-west-1",
    "AWS::StackName": "chat",
    "AWS::URLSuffix": "amazonaws.com",
}
NOTHING = object()


def taken(parameter: Dict[str, Any], value: str) -> bool:
    """Whether CloudFormation lets a parameter have this value."""
    if "AllowedValues" in parameter and value not in map(str, parameter["AllowedValues"]):
        return False
    if parameter["Type"] == "Number":
        return float(parameter.get("MinValue", "-inf")) <= float(value) <= float(parameter.get("MaxValue", "inf"))
    # 4,096 characters are the most that any parameter may have.
    return re.search(parameter.get("AllowedPattern", ""), value) is not None and len(value) <= parameter.get("MaxLength", 4096)


class Effective:
    """One deployment. `resources` are those whose condition holds."""

    def __init__(self, given: Optional[Dict[str, Any]] = None, smallest: bool = True):
        parameters = {**(SMALLEST if smallest else {}), **(given or {})}
        unknown = set(parameters) - set(SOURCE["Parameters"])
        assert not unknown, f"no such parameters: {unknown}"
        self.parameters = {name: str(parameters.get(name, what["Default"])) for name, what in SOURCE["Parameters"].items()}
        source = copy.deepcopy(SOURCE)
        # What `sam package` does; and without a build there is nothing to package.
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

    def of_type(self, kind: str) -> Dict[str, Any]:
        return {name: resource["Properties"] for name, resource in self.resources.items() if resource["Type"] == kind}

    def properties(self, name: str) -> Dict[str, Any]:
        return self.resources[name]["Properties"]

    def environment(self, function: str) -> Dict[str, str]:
        return {name: str(value) for name, value in self.properties(function)["Environment"]["Variables"].items()}

    def refused(self) -> list:
        """What CloudFormation would say before it did anything."""
        said = [f"{name} is not allowed" for name, value in self.parameters.items() if not taken(SOURCE["Parameters"][name], value)]
        for rule in self.transformed["Rules"].values():
            if "RuleCondition" in rule and not self.holds(rule["RuleCondition"]):
                continue
            said += [one["AssertDescription"] for one in rule["Assertions"] if not self.holds(one["Assert"])]
        return said

    def condition(self, name: str) -> bool:
        return self.holds(self.transformed["Conditions"][name])

    def holds(self, what: Any) -> bool:
        (function, argument), = what.items()
        if function == "Condition":
            return self.condition(argument)
        if function == "Fn::Equals":
            left, right = (str(self.resolve(one)) for one in argument)
            return left == right
        if function == "Fn::Not":
            return not self.holds(argument[0])
        if function == "Fn::And":
            return all([self.holds(one) for one in argument])
        if function == "Fn::Or":
            return any([self.holds(one) for one in argument])
        raise AssertionError(f"not a condition: {function}")

    def resolve(self, what: Any) -> Any:
        """Attributes of resources stay readable: `${Cache.ARN}`."""
        if isinstance(what, list):
            return [one for one in map(self.resolve, what) if one is not NOTHING]
        if not isinstance(what, dict):
            return what
        if len(what) == 1:
            (function, argument), = what.items()
            if function == "Ref":
                return self.reference(argument)
            if function.startswith("Fn::"):
                return getattr(self, function[4:].lower())(argument)
        resolved = {key: self.resolve(value) for key, value in what.items()}
        return {key: value for key, value in resolved.items() if value is not NOTHING}

    def reference(self, name: str) -> Any:
        if name == "AWS::NoValue":
            return NOTHING
        known = {**PSEUDO, **self.parameters}
        return known.get(name, "${%s}" % name)

    def sub(self, argument: Any) -> str:
        text, own = (argument, {}) if isinstance(argument, str) else argument
        own = {name: self.resolve(value) for name, value in own.items()}
        return re.sub(r"\$\{([^!}]+)\}", lambda found: str(own.get(found[1], self.reference(found[1]))), text)

    def getatt(self, argument: Any) -> str:
        return "${%s}" % (argument if isinstance(argument, str) else ".".join(argument))

    def split(self, argument: Any) -> list:
        return self.resolve(argument[1]).split(argument[0])

    def select(self, argument: Any) -> Any:
        return self.resolve(argument[1])[int(argument[0])]

    def join(self, argument: Any) -> str:
        return argument[0].join(str(one) for one in self.resolve(argument[1]))

    def findinmap(self, argument: Any) -> Any:
        first, second, third = self.resolve(argument)
        return self.transformed["Mappings"][first][second][third]

    def __getattr__(self, name: str) -> Any:
        if name == "if":
            return lambda argument: self.resolve(argument[1] if self.condition(argument[0]) else argument[2])
        raise AttributeError(name)
