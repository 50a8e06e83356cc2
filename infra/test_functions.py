"""The functions as they are deployed: versions, timeouts, network, and what each role and cache user may do."""

from __future__ import annotations

import json
import subprocess
import unittest
from typing import Any

import yaml
from effective import PACKAGED, ROOT, SECRET, SOURCE, VPC, Effective

from functions import FUNCTIONS, ROUTES, Function

# The rights that Lambda requires to attach a function to a VPC.
NETWORK_INTERFACES = [
    "ec2:AssignPrivateIpAddresses",
    "ec2:CreateNetworkInterface",
    "ec2:DeleteNetworkInterface",
    "ec2:DescribeNetworkInterfaces",
    "ec2:DescribeSubnets",
    "ec2:UnassignPrivateIpAddresses",
]
# Characters are written by operators, so this user belongs to no function.
CHARACTERS = ("characters", "on ~character:* -@all +ping +cluster|slots +get +set +del")
# The longest wait for secrets and for published keys, together.
SECRETS_AND_KEYS_SECONDS = 6
# IAM rights: effect, action, resource, condition. What matters is their union, not the policy that a right comes from.
Right = tuple[str, str, str, str]


def many(value: Any) -> list:
    return value if isinstance(value, list) else [value]


def allow(actions: Any, resources: Any, condition: Any = None, effect: str = "Allow") -> set[Right]:
    return {
        (effect, action, resource, json.dumps(condition)) for action in many(actions) for resource in many(resources)
    }


def rights(stack: Effective, function: Function) -> set[Right]:
    """Returns everything that a function's role grants or denies, over all its policies."""
    role = stack.properties(stack.properties(function.resource)["Role"].strip("${}").removesuffix(".Arn"))
    statements = [one for policy in role["Policies"] for one in policy["PolicyDocument"]["Statement"]]
    for managed in role["ManagedPolicyArns"]:
        statements += stack.properties(managed.strip("${}"))["PolicyDocument"]["Statement"]
    found: set[Right] = set()
    for one in statements:
        assert set(one) <= {"Sid", "Effect", "Action", "Resource", "Condition"}, one
        found |= allow(one["Action"], one["Resource"], one.get("Condition"), one["Effect"])
    return found


def basics(function: Function) -> set[Right]:
    log_group = f"${{{function.stem}LogGroup.Arn}}"
    traces = allow(["xray:PutTraceSegments", "xray:PutTelemetryRecords"], "*")
    return traces | allow(["logs:CreateLogStream", "logs:PutLogEvents"], log_group)


def secrets(*names: str) -> set[Right]:
    return allow("secretsmanager:GetSecretValue", [SECRET + name for name in names])


def of_tokens(function: Function) -> set[Right]:
    """Returns the right to the secret with which a function checks the tokens of its callers, if it has a route."""
    return secrets("jwt-AbCdEf") if function.routes else set()


def own_secrets(function: Function) -> set[Right]:
    assert set(function.own_secrets) <= {"LlmApiKeySecretArn"}, "a secret that the minimal deployment does not have"
    return secrets(*("model-AbCdEf" for _ in function.own_secrets))


class Deployment(unittest.TestCase):
    def test_the_template_deploys_every_function_of_the_repository(self) -> None:
        self.assertEqual(
            set(Effective().of_type("AWS::Lambda::Function")), {function.resource for function in FUNCTIONS}
        )
        self.assertEqual(
            {path.name for path in (ROOT / "functions").iterdir()}, {function.name for function in FUNCTIONS}
        )
        for function in FUNCTIONS:
            build = SOURCE["Resources"][function.resource]["Metadata"]
            self.assertEqual(build["BuildMethod"], "rust-cargolambda")
            self.assertEqual(build["BuildProperties"], {"Binary": function.name})

    def test_make_run_serves_every_path_of_the_gateway(self) -> None:
        # cargo reads its file itself: Python has a parser of TOML only from 3.11 on.
        command = ["cargo", "metadata", "--no-deps", "--locked", "--format-version", "1"]
        metadata = json.loads(subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout)
        router = metadata["metadata"]["lambda"]["watch"]["router"]
        for path in {path for _, path, _ in ROUTES} | set(router):
            routes = {method.upper(): function.name for method, of, function in ROUTES if of == path}
            served = router[path]
            if isinstance(served, str):
                # This one gets every method.
                self.assertEqual({served}, set(routes.values()), path)
            else:
                self.assertEqual({one["method"]: one["function"] for one in served}, routes, path)

    def test_the_uploaded_template_has_no_yaml_anchors(self) -> None:
        def anchors(text: str) -> list:
            return [token for token in yaml.scan(text) if isinstance(token, (yaml.AnchorToken, yaml.AliasToken))]

        self.assertNotEqual(anchors((ROOT / "template.yaml").read_text(encoding="utf-8")), [])
        self.assertEqual(anchors(PACKAGED), [])
        self.assertNotIn("<<", PACKAGED)

    def test_the_memory_of_chat_stream_is_a_parameter(self) -> None:
        usual, larger = Effective({}), Effective({"ChatMemorySize": 512})
        for function in FUNCTIONS:
            memory = [int(stack.properties(function.resource)["MemorySize"]) for stack in (usual, larger)]
            expected = [128, 512] if function.name == "chat-stream" else [function.memory_megabytes] * 2
            self.assertEqual(memory, expected, function.name)

    def test_platform_tracing_and_logs_are_the_same_for_all_and_memory_is_their_own(self) -> None:
        stack = Effective({"LogRetentionDays": 7})
        for function in FUNCTIONS:
            properties = stack.properties(function.resource)
            self.assertEqual((properties["Runtime"], properties["Architectures"]), ("provided.al2023", ["arm64"]))
            self.assertEqual(properties["TracingConfig"], {"Mode": "Active"})
            self.assertEqual(int(properties["MemorySize"]), function.memory_megabytes)
            self.assertNotIn("VpcConfig", properties)
            log_group = function.stem + "LogGroup"
            logs = {"LogFormat": "JSON", "ApplicationLogLevel": "TRACE", "LogGroup": f"${{{log_group}}}"}
            self.assertEqual(properties["LoggingConfig"], logs)
            expected = {"LogGroupName": "/aws/lambda/chat-" + function.name, "RetentionInDays": "7"}
            self.assertEqual(stack.properties(log_group), expected)

    def test_log_groups_outlive_the_stack_and_have_a_key_only_if_parameters_say_so(self) -> None:
        key = "arn:aws:kms:eu-west-1:111122223333:key/k"
        # A creation that failed must not leave log groups behind: the next attempt would find their names taken.
        for given, deletion, replacement, key_id in (
            ({}, "Delete", "Delete", None),
            ({"RetainLogs": "true", "LogsKmsKeyArn": key}, "RetainExceptOnCreate", "Retain", key),
        ):
            stack = Effective(given)
            groups = {n: one for n, one in stack.resources.items() if one["Type"] == "AWS::Logs::LogGroup"}
            self.assertEqual(len(groups), len(FUNCTIONS) + 1)
            for name, group in groups.items():
                self.assertEqual(group["DeletionPolicy"], deletion, name)
                self.assertEqual(group["UpdateReplacePolicy"], replacement, name)
                self.assertEqual(group["Properties"].get("KmsKeyId"), key_id, name)
        # The transform that makes this possible must come before the one that it prepares the template for.
        self.assertEqual(SOURCE["Transform"], ["AWS::LanguageExtensions", "AWS::Serverless-2016-10-31"])

    def test_a_new_version_gets_a_tenth_of_the_requests_and_rolls_back_on_its_alarms(self) -> None:
        canary, at_once = Effective(), Effective({"DeploymentType": "AllAtOnce"})
        for function in FUNCTIONS:
            deployment = canary.properties(function.resource + "DeploymentGroup")
            self.assertEqual(deployment["DeploymentConfigName"], "CodeDeployDefault.LambdaCanary10Percent10Minutes")
            self.assertTrue(deployment["AutoRollbackConfiguration"]["Enabled"])
            self.assertTrue(deployment["AlarmConfiguration"]["Enabled"])
            alarms = [alarm["Name"].strip("${}") for alarm in deployment["AlarmConfiguration"]["Alarms"]]
            self.assertCountEqual(alarms, [function.new_version_alarm, *function.rolls_back_on])
            self.assertLessEqual(set(alarms), set(canary.resources))
            deployment = at_once.properties(function.resource + "DeploymentGroup")
            self.assertEqual(deployment["DeploymentConfigName"], "CodeDeployDefault.LambdaAllAtOnce")
            self.assertFalse(deployment["AlarmConfiguration"].get("Enabled"))

    def test_concurrency_is_reserved_for_one_function_by_its_parameter(self) -> None:
        def reserved(stack: Effective) -> dict[str, str]:
            functions = stack.of_type("AWS::Lambda::Function").items()
            return {
                name: one["ReservedConcurrentExecutions"]
                for name, one in functions
                if "ReservedConcurrentExecutions" in one
            }

        self.assertEqual(reserved(Effective()), {})
        parameters = {
            name: count for count, name in enumerate(SOURCE["Parameters"], 1) if name.endswith("ReservedConcurrency")
        }
        self.assertIn("ChatReservedConcurrency", parameters)
        self.assertEqual(reserved(Effective({"ChatReservedConcurrency": 5})), {"ChatStreamFunction": "5"})
        together = reserved(Effective(parameters))
        self.assertEqual(set(together), {function.resource for function in FUNCTIONS})
        self.assertCountEqual(together.values(), map(str, parameters.values()))
        # The description of a parameter names the function whose concurrency it reserves.
        of_count = {str(count): SOURCE["Parameters"][name]["Description"] for name, count in parameters.items()}
        for function in FUNCTIONS:
            self.assertIn(f"reserved for {function.name},", of_count[together[function.resource]])

    def test_a_new_release_publishes_versions_even_if_only_settings_changed(self) -> None:
        for release in ("1", "2"):
            stack = Effective({"Release": release})
            versions = stack.of_type("AWS::Lambda::Version")
            self.assertEqual([version["Description"] for version in versions.values()], [release] * len(FUNCTIONS))
            # A new version description makes CloudFormation publish; Lambda refuses to publish a function that did not
            # change.
            for function in FUNCTIONS:
                self.assertEqual(stack.properties(function.resource)["Description"], f"chat, release {release}")
                self.assertEqual(stack.properties(function.resource + "Aliaslive")["Name"], "live")

    def test_the_gateway_waits_longer_than_the_function_and_the_function_longer_than_its_waits(self) -> None:
        def longest_seconds(*names: str) -> float:
            return sum(float(SOURCE["Parameters"][name]["MaxValue"]) for name in names) / 1000

        stack = Effective()
        for function in FUNCTIONS:
            timeout = stack.properties(function.resource)["Timeout"]
            self.assertGreater(timeout, SECRETS_AND_KEYS_SECONDS + longest_seconds(*function.waits_for))
        for method, path, function in ROUTES:
            route = stack.properties("Api")["Body"]["paths"][path][method]["x-amazon-apigateway-integration"]
            self.assertGreater(route["timeoutInMillis"] / 1000, stack.properties(function.resource)["Timeout"])
        self.assertGreater(longest_seconds("LlmFirstTokenTimeoutMs"), longest_seconds("LlmConnectTimeoutMs"))

    def test_a_function_without_a_route_is_named_for_those_who_may_invoke_it(self) -> None:
        stack = Effective()
        (function,) = (function for function in FUNCTIONS if not function.routes)
        # The alias, because the name alone stands for what was deployed last, whether it was rolled back or not.
        output = stack.resolve(stack.transformed["Outputs"][function.resource])
        self.assertEqual(output["Value"], f"${{{function.resource}}}:live")
        self.assertNotIn("Condition", output)

    def test_a_vpc_adds_a_security_group_without_inbound_traffic(self) -> None:
        stack = Effective({**VPC, "SecurityGroupIds": "sg-1,sg-2"})
        for function in FUNCTIONS:
            self.assertEqual(
                stack.properties(function.resource)["VpcConfig"],
                {
                    "SubnetIds": ["subnet-1a", "subnet-1b"],
                    "SecurityGroupIds": ["${FunctionSecurityGroup}", "sg-1", "sg-2"],
                },
            )
        self.assertNotIn("SecurityGroupIngress", stack.properties("FunctionSecurityGroup"))
        self.assertNotIn("FunctionSecurityGroup", Effective().resources)


class Permissions(unittest.TestCase):
    def test_a_function_reads_the_shared_secrets_and_its_own(self) -> None:
        stack = Effective({"RedisPasswordSecretArn": SECRET + "redis-AbCdEf#password"})
        for function in FUNCTIONS:
            shared = secrets("redis-AbCdEf") | of_tokens(function)
            self.assertEqual(rights(stack, function), basics(function) | shared | own_secrets(function))
            variables = stack.environment(function.resource)
            model_key = SECRET + "model-AbCdEf#api_key" if "LlmApiKeySecretArn" in function.own_secrets else None
            self.assertEqual(variables.get("LLM_API_KEY_SECRET_ARN"), model_key)

    def test_without_secrets_a_function_reads_none(self) -> None:
        stack = Effective({"JwtSecretSecretArn": "", "JwtJwksUrl": "https://keys.example.com", "LlmProvider": "echo"})
        for function in FUNCTIONS:
            self.assertEqual(rights(stack, function), basics(function))
            for name, value in stack.environment(function.resource).items():
                self.assertFalse(name.endswith("_SECRET_ARN") and value, name)

    def test_a_customer_managed_key_decrypts_through_secrets_manager_and_only_where_a_secret_is_read(self) -> None:
        key = "arn:aws:kms:eu-west-1:111122223333:key/k"
        decrypt = allow(
            "kms:Decrypt", key, {"StringEquals": {"kms:ViaService": "secretsmanager.eu-west-1.amazonaws.com"}}
        )
        without_shared = {"JwtSecretSecretArn": "", "JwtJwksUrl": "https://keys.example.com"}
        password = {"RedisPasswordSecretArn": SECRET + "redis-AbCdEf"}
        for given in ({}, password, without_shared, {**without_shared, "LlmProvider": "echo"}):
            stack = Effective({"SecretsKmsKeyArn": key, **given})
            for function in FUNCTIONS:
                expected = set() if "JwtJwksUrl" in given else of_tokens(function)
                expected |= secrets("redis-AbCdEf") if given == password else set()
                expected |= set() if "LlmProvider" in given else own_secrets(function)
                expected |= decrypt if expected else set()
                self.assertEqual(rights(stack, function), basics(function) | expected, (given, function.name))

    def test_each_function_is_a_user_of_its_own_in_the_stacks_cache(self) -> None:
        unused = SECRET + "redis-AbCdEf"
        stack = Effective(
            {**VPC, "CreateCache": "true", "CacheName": "memory", "RedisUrl": "", "RedisPasswordSecretArn": unused}
        )
        self.assertEqual(stack.rejections(), [])
        code = {"ArnLike": {"lambda:SourceFunctionArn": "arn:aws:lambda:eu-west-1:111122223333:function:*"}}
        network = allow(NETWORK_INTERFACES, "*") | allow(NETWORK_INTERFACES, "*", code, effect="Deny")
        for function in FUNCTIONS:
            user = f"${{Cache{function.cache_user.capitalize()}User.Arn}}"
            expected = basics(function) | network | of_tokens(function) | own_secrets(function)
            self.assertEqual(rights(stack, function), expected | allow("elasticache:Connect", ["${Cache.ARN}", user]))
            variables = stack.environment(function.resource)
            self.assertEqual(variables["REDIS_USERNAME"], f"memory-{function.cache_user}")
            self.assertEqual(variables["REDIS_URL"], "rediss://${Cache.Endpoint.Address}:${Cache.Endpoint.Port}")
            settings = {
                "MODE": "cluster",
                "AUTH": "iam",
                "IAM_CACHE_NAME": "memory",
                "IAM_SERVERLESS": "true",
                "PASSWORD_SECRET_ARN": "",
            }
            self.assertEqual({name: variables["REDIS_" + name] for name in settings}, settings)

    def test_only_the_functions_reach_the_stacks_cache(self) -> None:
        stack = Effective({**VPC, "CreateCache": "true"})
        (ingress,) = stack.properties("CacheSecurityGroup")["SecurityGroupIngress"]
        self.assertEqual(ingress["SourceSecurityGroupId"], "${FunctionSecurityGroup.GroupId}")
        self.assertEqual((ingress["FromPort"], ingress["ToPort"]), (6379, 6380))
        self.assertEqual(stack.properties("Cache")["SecurityGroupIds"], ["${CacheSecurityGroup.GroupId}"])
        self.assertEqual(stack.properties("Cache")["UserGroupId"], "${CacheUsers}")

    def test_a_cache_user_has_the_commands_of_its_function_and_no_more(self) -> None:
        stack = Effective({**VPC, "CreateCache": "true", "CacheName": "memory"})
        expected = {
            f"Cache{user.capitalize()}User": {
                "UserId": f"memory-{user}",
                "UserName": f"memory-{user}",
                "Engine": "valkey",
                "AuthenticationMode": {"Type": "iam"},
                "AccessString": commands,
            }
            for user, commands in [
                *((function.cache_user, function.cache_rights) for function in FUNCTIONS),
                CHARACTERS,
            ]
        }
        self.assertEqual(stack.of_type("AWS::ElastiCache::User"), expected)
        (group,) = stack.of_type("AWS::ElastiCache::UserGroup").values()
        self.assertCountEqual(group["UserIds"], [f"${{{name}}}" for name in expected])

    def test_an_existing_iam_cache_is_reached_as_one_user(self) -> None:
        for serverless, kind in (("true", "serverlesscache"), ("false", "replicationgroup")):
            given = {
                "RedisAuth": "iam",
                "RedisUsername": "u",
                "RedisIamCacheName": "c",
                "RedisIamServerless": serverless,
            }
            stack = Effective(given)
            self.assertEqual(stack.rejections(), [])
            prefix = "arn:aws:elasticache:eu-west-1:111122223333:"
            connect = allow("elasticache:Connect", [f"{prefix}{kind}:c", f"{prefix}user:u"])
            for function in FUNCTIONS:
                expected = basics(function) | of_tokens(function) | own_secrets(function) | connect
                self.assertEqual(rights(stack, function), expected)

    def test_no_other_role_or_policy_exists(self) -> None:
        aws = "arn:aws:iam::aws:policy/service-role/"
        for given, shared in (
            ({**VPC, "CreateCache": "true"}, []),
            ({"RedisPasswordSecretArn": SECRET + "redis-AbCdEf"}, ["SharedAccess"]),
        ):
            stack = Effective(given)
            managed_of = {
                function.stem + "Role": ["FunctionBasics", *shared, *(["CallerAccess"] if function.routes else [])]
                for function in FUNCTIONS
            }
            expected = {
                **{role: ("lambda", [f"${{{name}}}" for name in names], True) for role, names in managed_of.items()},
                "GatewayLogRole": ("apigateway", [aws + "AmazonAPIGatewayPushToCloudWatchLogs"], False),
                "CodeDeployServiceRole": ("codedeploy", [aws + "AWSCodeDeployRoleForLambda"], False),
            }
            roles = stack.of_type("AWS::IAM::Role")
            self.assertEqual(set(roles), set(expected))
            for name, (service, managed, has_own) in expected.items():
                (trust,) = roles[name]["AssumeRolePolicyDocument"]["Statement"]
                self.assertEqual(many(trust["Principal"]["Service"]), [service + ".amazonaws.com"])
                self.assertEqual(
                    (trust["Effect"], list(trust["Principal"]), many(trust["Action"])),
                    ("Allow", ["Service"], ["sts:AssumeRole"]),
                )
                self.assertEqual(roles[name]["ManagedPolicyArns"], managed)
                self.assertEqual("Policies" in roles[name], has_own, name)
            # Rights come from nowhere else: there are no stand-alone policies and no policies on resources.
            kinds = {resource["Type"] for resource in stack.resources.values()}
            self.assertEqual(
                {kind for kind in kinds if kind.startswith("AWS::IAM::")}, {"AWS::IAM::Role", "AWS::IAM::ManagedPolicy"}
            )
            self.assertEqual(set(stack.of_type("AWS::IAM::ManagedPolicy")), {"FunctionBasics", "CallerAccess", *shared})
            self.assertEqual(
                {kind for kind in kinds if kind.endswith(("Policy", "Permission"))},
                {"AWS::IAM::ManagedPolicy", "AWS::Lambda::Permission"},
            )

    def test_no_policy_is_empty(self) -> None:
        # IAM refuses a policy without statements, and a list of resources without entries.
        without_secrets = {"JwtSecretSecretArn": "", "JwtJwksUrl": "https://keys.example.com"}
        for given in ({}, without_secrets, {**without_secrets, "LlmProvider": "echo"}):
            for more in (
                {},
                {"RedisAuth": "iam", "RedisUsername": "u", "RedisIamCacheName": "c"},
                {"RedisPasswordSecretArn": SECRET + "redis-AbCdEf"},
                {**VPC, "CreateCache": "true"},
            ):
                stack = Effective({**given, **more})
                policies = list(stack.of_type("AWS::IAM::ManagedPolicy").values())
                policies += [
                    policy for role in stack.of_type("AWS::IAM::Role").values() for policy in role.get("Policies", [])
                ]
                for policy in policies:
                    self.assertTrue(policy["PolicyDocument"]["Statement"], (given, more))
                    for statement in policy["PolicyDocument"]["Statement"]:
                        self.assertTrue(statement["Resource"], (given, more, statement["Sid"]))


if __name__ == "__main__":
    unittest.main()
