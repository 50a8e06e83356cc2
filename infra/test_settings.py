"""The parameters: each reaches its setting, defaults and bounds equal the code's, and bad values are refused early."""

from __future__ import annotations

import json
import math
import re
import unittest

from effective import ROOT, SECRET, SOURCE, VPC, Effective, accepts

from functions import FUNCTIONS

CODE = "\n".join(path.read_text(encoding="utf-8") for path in sorted((ROOT / "shared/src").rglob("*.rs")))

# Settings that have no parameter, and the reason. docs/settings.md has what to do instead.
WITHOUT_PARAMETER = {
    "REDIS_PASSWORD": "secrets are named by ARN",
    "LLM_API_KEY": "secrets are named by ARN",
    "JWT_SECRET": "secrets are named by ARN",
    "REDIS_SENTINEL_USERNAME": "useful with a password only",
    "REDIS_SENTINEL_PASSWORD": "would put a secret into the environment",
    "LOG_FORMAT": "text is meant for terminals",
    "LLM_STARTS_THINKING": "for self-hosted models",
    "LLM_TLS_CA_FILE": "needs a file in the package",
    "JWT_JWKS_TLS_CA_FILE": "needs a file in the package",
}


def parameter_of(setting: str) -> str:
    return "".join(part.capitalize() for part in setting.split("_"))


def settings() -> set[str]:
    """Returns every setting that a parameter sets. AUTH_TRUST_AUTHORIZER follows from CognitoUserPoolArn."""
    stack = Effective()
    return {name for function in FUNCTIONS for name in stack.environment(function.resource)} - {"AUTH_TRUST_AUTHORIZER"}


def number_settings() -> set[str]:
    return {name for name in settings() if SOURCE["Parameters"][parameter_of(name)]["Type"] == "Number"}


class Settings(unittest.TestCase):
    def test_parameters_set_exactly_the_settings_that_the_code_reads(self) -> None:
        groups = "REDIS|MEMORY|TURN|CONTEXT|DEFAULT|LIMIT|LLM|JWT|AUTH|CORS|LOG|METRICS"
        # Two of these words are also commands of Redis or arguments of them.
        read = set(re.findall(rf'"((?:{groups})(?:_[A-Z]+)*)"', CODE)) - {"AUTH", "LIMIT"}
        self.assertEqual(settings(), read - set(WITHOUT_PARAMETER) - {"AUTH_TRUST_AUTHORIZER"})
        for name in settings():
            self.assertIn(parameter_of(name), SOURCE["Parameters"])
        page = (ROOT / "docs/settings.md").read_text(encoding="utf-8")
        listed = page.partition("## Without a parameter")[2].partition("\n## ")[0]
        for name in {*WITHOUT_PARAMETER, "AUTH_TRUST_AUTHORIZER"}:
            self.assertIn(f"`{name}`", listed)

    def test_a_parameter_reaches_its_setting_and_no_other(self) -> None:
        # Two deployments, because IAM uses no password and echo needs no key.
        both = {
            "RedisUrl": "rediss://one:6379,rediss://two:6379",
            "RedisMode": "sentinel",
            "RedisSentinelMaster": "master",
            "RedisKeyLayout": "tagged",
            "RedisUsername": "user",
            "RedisIamCacheName": "cache",
            "RedisIamServerless": "false",
            "RedisTlsCaFile": "/opt/ca.pem",
            "LlmBaseUrl": "https://other.example.com/v2",
            "LlmModel": "model",
            "DefaultSystemPrompt": 'Du bist {{char}}.\n"Bleib in der Rolle."',
            "JwtSecretSecretArn": SECRET + "tokens-AbCdEf",
            "JwtJwksUrl": "https://keys.example.com",
            "JwtIssuer": "issuer",
            "JwtAudience": "audience",
            "CorsAllowedOrigins": "https://pages.example.com",
            "LogLevel": "debug",
            "Metrics": "off",
            "MetricsNamespace": "Namespace",
        }
        most = {name: SOURCE["Parameters"][name]["MaxValue"] for name in map(parameter_of, number_settings())}
        # Distinct numbers, the smallest for the parameter with the lowest maximum.
        both.update({name: count for count, name in enumerate(sorted(most, key=lambda name: (most[name], name)), 3)})
        secrets = {"RedisPasswordSecretArn": SECRET + "password-AbCdEf", "LlmApiKeySecretArn": SECRET + "key-AbCdEf"}
        reached = set()
        for given in ({**both, **secrets}, {**both, "RedisAuth": "iam", "LlmProvider": "echo"}):
            self.assertEqual(len({str(value) for value in given.values()}), len(given), "values must be distinct")
            stack = Effective(given)
            self.assertEqual(stack.rejections(), [])
            for function in FUNCTIONS:
                for name, value in stack.environment(function.resource).items():
                    parameter = parameter_of(name)
                    if parameter in given:
                        self.assertNotEqual(value, str(SOURCE["Parameters"][parameter]["Default"]), name)
                        self.assertEqual(value, str(given[parameter]), name)
                        reached.add(name)
        self.assertEqual(reached, settings())

    def test_a_setting_reaches_the_functions_that_read_it_alone(self) -> None:
        stack = Effective()
        everyone = {"REDIS", "MEMORY", "TURN", "LOG", "METRICS"}
        callers = {"JWT", "AUTH", "CORS"}
        prompts = {"CONTEXT", "DEFAULT"}
        for function in FUNCTIONS:
            expected = everyone | (callers if function.routes else set())
            expected |= prompts if function.name in ("chat-stream", "put-character") else set()
            expected |= {"LLM", "LIMIT"} if function.name == "chat-stream" else set()
            sections = {name.split("_")[0] for name in stack.environment(function.resource)}
            self.assertEqual(sections, expected, function.name)

    def test_defaults_of_numbers_equal_those_of_the_code(self) -> None:
        defaults = dict(re.findall(r'\(\s*lookup,\s*"([A-Z_]+)",\s*([0-9_]+)\s*[,)]', CODE))
        numbers = number_settings()
        self.assertLessEqual(numbers, set(defaults))
        for name in numbers:
            self.assertEqual(int(SOURCE["Parameters"][parameter_of(name)]["Default"]), int(defaults[name]), name)

    def test_bounds_of_numbers_lie_within_those_of_the_code(self) -> None:
        names = dict(re.findall(r"const ([A-Z_]+): u64 = ([0-9_* ]+);", CODE))

        def number(text: str) -> int:
            return math.prod(int(factor) for factor in names.get(text, text).split("*"))

        bounds = {
            name: (number(low), number(high))
            for name, low, high in re.findall(r'"([A-Z_]+)",\s*[0-9_]+,\s*([0-9_]+),\s*([0-9A-Z_]+),?\s*\)', CODE)
        }
        for name in re.findall(r'milliseconds\(\s*lookup,\s*"([A-Z_]+)"', CODE):
            bounds[name] = (1, number("LONGEST_INVOCATION_MS"))
        parameters = {name: SOURCE["Parameters"][parameter_of(name)] for name in settings()}
        self.assertEqual({name for name, parameter in parameters.items() if parameter["Type"] == "Number"}, set(bounds))
        for name, (low, high) in bounds.items():
            self.assertGreaterEqual(parameters[name]["MinValue"], low, name)
            self.assertLessEqual(parameters[name]["MaxValue"], high, name)

    def test_parameters_are_grouped_described_and_used(self) -> None:
        groups = SOURCE["Metadata"]["AWS::CloudFormation::Interface"]["ParameterGroups"]
        grouped = [name for group in groups for name in group["Parameters"]]
        self.assertEqual(sorted(grouped), sorted(SOURCE["Parameters"]))
        rest = json.dumps({key: value for key, value in SOURCE.items() if key not in ("Parameters", "Metadata")})
        for name, what in SOURCE["Parameters"].items():
            self.assertGreater(len(what["Description"]), 20, name)
            # The console shows it beside the field; reasons are in docs/deploy.md.
            self.assertLessEqual(len(what["Description"]), 150, name)
            self.assertTrue(f'"Ref": "{name}"' in rest or f"${{{name}}}" in rest, f"{name} is not used")

    def test_no_secret_is_a_default_or_in_an_environment(self) -> None:
        stack = Effective({"RedisPasswordSecretArn": SECRET + "redis-AbCdEf"})
        for function in FUNCTIONS:
            for name, value in stack.environment(function.resource).items():
                if re.search("SECRET|PASSWORD|KEY", name) and name != "REDIS_KEY_LAYOUT":
                    self.assertTrue(name.endswith("_SECRET_ARN") and value.startswith("arn:"), f"{name}={value}")
        for name, what in SOURCE["Parameters"].items():
            if re.search("Secret|Password|ApiKey", name):
                self.assertEqual(what["Default"], "", name)
                if name.endswith("SecretArn"):
                    self.assertIsNone(re.fullmatch(what["AllowedPattern"], "hunter2"), name)
                    # IAM compares the whole ARN. Without the six characters at its end the policy would allow nothing.
                    self.assertIsNone(re.fullmatch(what["AllowedPattern"], SECRET + "companion"), name)
                    self.assertIsNotNone(re.fullmatch(what["AllowedPattern"], SECRET + "a/b-AbCdEf#key"), name)
        for given in ("redis://user:hunter2@host", "rediss://:hunter2@host:6379"):
            self.assertIsNone(re.fullmatch(SOURCE["Parameters"]["RedisUrl"]["AllowedPattern"], given))

    def test_combinations_that_cannot_work_are_refused_before_anything_is_created(self) -> None:
        self.assertEqual(Effective().rejections(), [])
        self.assertEqual(len(Effective(minimal=False).rejections()), 3, "no authentication, no model, no Redis")
        for given in (
            {"JwtSecretSecretArn": ""},
            {"CognitoUserPoolArn": "arn:aws:cognito-idp:eu-west-1:111122223333:userpool/a"},
            {"LlmModel": ""},
            {"RedisUrl": ""},
            {"RedisMode": "cluster", "RedisKeyLayout": "plain"},
            {"RedisAuth": "iam"},
            {"CreateCache": "true"},
            {**VPC, "CreateCache": "true", "RedisWaitReplicas": 1},
            {"VpcId": VPC["VpcId"]},
            {"SecurityGroupIds": "sg-1"},
        ):
            self.assertTrue(Effective(given).rejections(), given)
        for given in (
            {"RedisMode": "cluster", "RedisKeyLayout": "tagged"},
            {"RedisMode": "sentinel", "RedisKeyLayout": "plain"},
            # The parameters of an existing Redis are ignored then.
            {**VPC, "CreateCache": "true", "RedisUrl": "", "RedisMode": "cluster", "RedisKeyLayout": "plain"},
        ):
            self.assertEqual(Effective(given).rejections(), [], given)

    def test_values_that_a_function_would_refuse_at_start_are_refused(self) -> None:
        # The rules are those of shared/src/config, whose own tests have these values too. Origins are in
        # test_gateway.py.
        for name, good, bad in (
            (
                "MetricsNamespace",
                ["CompanionChat", "AWS", "team/AWS/chat", "n" * 255],
                ["", " ", "AWS/Lambda", "n" * 256, "a\nb", 'a"b', "雨"],
            ),
            (
                "RedisUrl",
                ["redis://10.0.0.1:6379/0", "rediss://a:6379,rediss://b:6379"],
                ["http://a", "redis://", "redis://a,b:6379", "redis://a,", "redis://a b", "redis://u:p@a"],
            ),
            (
                "LlmBaseUrl",
                [
                    "https://model.example.com/api/v3",
                    "http://10.0.0.1:8000",
                    "http://[::1]:8000/v1",
                    "https://x.openai.azure.com/openai/deployments/d?api-version=2024-10-21",
                    "https://model.example.com?a=1&b=2",
                ],
                [
                    "model.example.com",
                    "https://",
                    "https:///v1",
                    "https://model.example.com/a b",
                    "https://key@model.example.com",
                    "https://user:key@model.example.com/v1?a=1",
                    "https://model.example.com/v1#fragment",
                    "https://model.example.com/v1?a=1#fragment",
                    "https://model.example.com/v1?a= b",
                ],
            ),
            (
                "JwtJwksUrl",
                ["https://keys.example.com/.well-known/jwks.json", "https://keys.example.com/keys?p=B2C_1"],
                ["http://keys.example.com", "https://", "https:///keys", "https://keys.example.com/a b"],
            ),
            ("MemoryTtlSeconds", ["1", "315360000"], ["0", "315360001"]),
            ("TurnTtlSeconds", ["0", "604800"], ["-1", "604801"]),
            ("DefaultSystemPrompt", ["", "You are {{char}}.\n\nReply in 中文.", "中" * 1000], ["a" * 1001]),
            ("LimitTurnsPerMinute", ["0", "100000"], ["-1", "100001"]),
            ("LimitTokensPerDay", ["0", "1000000000000"], ["-1", "1000000000001"]),
            ("RedisBreakerCooldownMs", ["1", "900000"], ["0", "900001"]),
            *(
                (
                    name,
                    [SECRET + "a/b_+=.@-c-AbCdEf", SECRET + "a-AbCdEf#key"],
                    [SECRET + "a!b-AbCdEf", SECRET + "a-AbCdEf#", SECRET + "a b-AbCdEf"],
                )
                for name in SOURCE["Parameters"]
                if name.endswith("SecretArn")
            ),
        ):
            for value in good:
                self.assertTrue(accepts(SOURCE["Parameters"][name], value), f"{name}={value}")
            for value in bad:
                self.assertFalse(accepts(SOURCE["Parameters"][name], value), f"{name}={value}")


if __name__ == "__main__":
    unittest.main()
