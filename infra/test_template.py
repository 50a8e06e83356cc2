"""The template as it would be deployed: what streams, how long things take, what each function may do, what can be set."""

import contextlib
import io
import json
import math
import re
import unittest
from typing import Any

import airspeed
from samcli.commands.deploy.auth_utils import auth_per_resource
from samcli.lib.providers.sam_stack_provider import SamLocalStackProvider

from effective import ROOT, SECRET, SMALLEST, SOURCE, VPC, Effective, taken

FUNCTIONS = ("ChatStreamFunction", "ClearHistoryFunction", "SessionMetaFunction")
ROUTES = {
    ("/api/v1/chat/stream", "post"): "ChatStreamFunction",
    ("/api/v1/chat/history", "delete"): "ClearHistoryFunction",
    ("/api/v1/chat/session", "get"): "SessionMetaFunction",
    ("/api/v1/chat/session", "patch"): "SessionMetaFunction",
}
# What stops a deployment of each, and takes it back.
GOES_BACK_ON = {
    "ChatStreamFunction": ["ChatStreamNewVersionAlarm", "UpstreamErrorsAlarm", "CommitFailuresAlarm", "MemoryDownAlarm"],
    "ClearHistoryFunction": ["ClearHistoryNewVersionAlarm"],
    "SessionMetaFunction": ["SessionMetaNewVersionAlarm"],
}
# All that anybody may do in a cache of the stack: the keys, and the commands that a client or a script of shared/src/memory sends.
RIGHTS = {
    "turns": "on ~chat:* ~character:* -@all +ping +cluster|slots "
    "+eval +evalsha +time +get +lrange +lindex +llen +lpush +ltrim +rpop +hmget +hset +expire",
    "clear": "on ~chat:* -@all +ping +cluster|slots +eval +evalsha +time +del +get +set",
    "session": "on ~chat:* -@all +ping +cluster|slots +eval +evalsha +exists +llen +hmget +hset +ttl",
    "characters": "on ~character:* -@all +ping +cluster|slots +get +set +del",
}
# What Lambda needs to put a function into a VPC.
INTERFACES = [
    "ec2:AssignPrivateIpAddresses", "ec2:CreateNetworkInterface", "ec2:DeleteNetworkInterface", "ec2:DescribeNetworkInterfaces",
    "ec2:DescribeSubnets", "ec2:UnassignPrivateIpAddresses",
]
CODE = "\n".join(path.read_text(encoding="utf-8") for path in sorted((ROOT / "shared/src").rglob("*.rs")))

# What an operator of a deployment does not set, and why.
NOT_HERE = {
    "REDIS_PASSWORD": "a secret is named by its ARN",
    "LLM_API_KEY": "a secret is named by its ARN",
    "JWT_SECRET": "a secret is named by its ARN",
    "REDIS_SENTINEL_USERNAME": "only with a password",
    "REDIS_SENTINEL_PASSWORD": "would be a secret in the environment",
    "LOG_FORMAT": "text is for people at a terminal",
}


# As browsers send them, and as they do not.
ORIGINS = [
    "https://app.example.com", "http://localhost:5173", "http://127.0.0.1", "http://[::1]:3000", "http://[2001:db8::80]",
    "http://a.example:443", "https://a.example:4430", "https://a.example:65535", "capacitor://localhost",
]
NO_ORIGINS = [
    "https://app.example.com/", "https://app.example.com/chat", "https://app.example.com?x", "https://App.example.com",
    "HTTPS://app.example.com", "https://app.example.com:443", "http://app.example.com:80", "https://[::1]:443",
    "https://app.example.com:", "https://app.example.com:0443", "https://app.example.com:99999", "https://app.example.com:65536",
    "https://me@app.example.com", "https://*.example.com", "https://", "https://:1", "https://雨.example", "app.example.com",
    "//app.example.com", "null", "https://a.example,", ",https://a.example", ",", "*,https://a.example", "https://a.example,*",
    "https://a.example https://b.example", "https://a.examplehttps://b.example", "https://b.example,https://a.example:443",
    "https://a.example:443,https://b.example", 'https://a.example"', "https://$a.example", "https://a.example#",
]


def many(value: Any) -> list:
    return value if isinstance(value, list) else [value]


def body(stack: Effective) -> dict:
    return stack.properties("Api")["Body"]


class Gateway(unittest.TestCase):
    def test_the_stream_route_streams_and_no_other_does(self) -> None:
        paths = body(Effective())["paths"]
        self.assertEqual(
            {(path, method) for path, methods in paths.items() for method in methods if method != "options"}, set(ROUTES)
        )
        for (path, method), function in ROUTES.items():
            integration = paths[path][method]["x-amazon-apigateway-integration"]
            self.assertEqual((integration["type"], integration["httpMethod"]), ("aws_proxy", "POST"))
            prefix = "arn:aws:apigateway:eu-west-1:lambda:path/"
            if path.endswith("/stream"):
                self.assertEqual(integration["responseTransferMode"], "STREAM")
                self.assertEqual(integration["timeoutInMillis"], 900_000)
                uri = prefix + "2021-11-15/functions/${%sAliaslive}/response-streaming-invocations" % function
            else:
                self.assertNotIn("responseTransferMode", integration)
                uri = prefix + "2015-03-31/functions/${%sAliaslive}/invocations" % function
            self.assertEqual(integration["uri"], uri)

    def test_the_gateway_may_call_what_it_calls(self) -> None:
        stack = Effective()
        expected = [
            {
                "FunctionName": "${%sAliaslive}" % function,
                "Action": "lambda:InvokeFunction",
                "Principal": "apigateway.amazonaws.com",
                "SourceArn": "arn:aws:execute-api:eu-west-1:111122223333:${Api}/*/" + method.upper() + path,
            }
            for (path, method), function in ROUTES.items()
        ]
        self.assertCountEqual(stack.of_type("AWS::Lambda::Permission").values(), expected)

    def test_the_stage_is_regional_throttled_and_served_as_it_was_deployed_last(self) -> None:
        stack = Effective({"ThrottleRate": 7, "ThrottleBurst": 9})
        self.assertEqual(stack.properties("Api")["EndpointConfiguration"], {"Types": ["REGIONAL"]})
        (stage,) = stack.of_type("AWS::ApiGateway::Stage").values()
        (settings,) = stage["MethodSettings"]
        self.assertEqual((settings["ResourcePath"], settings["HttpMethod"]), ("/*", "*"))
        self.assertEqual((settings["ThrottlingRateLimit"], settings["ThrottlingBurstLimit"]), ("7", "9"))
        self.assertEqual((settings["LoggingLevel"], settings["DataTraceEnabled"]), ("OFF", False))
        self.assertIs(SOURCE["Resources"]["Api"]["Properties"]["AlwaysDeploy"], True)

    def test_access_logs_hold_no_token_no_query_and_nobodys_address(self) -> None:
        (stage,) = Effective().of_type("AWS::ApiGateway::Stage").values()
        line = json.loads(stage["AccessLogSetting"]["Format"])
        # `$context.error.message` and `.messageString` quote an Authorization header; `$context.path` and `$input` are the caller's.
        self.assertEqual(
            {value.removeprefix("$context.") for value in line.values()},
            {
                "requestId", "xrayTraceId", "requestTime", "httpMethod", "resourcePath", "status", "error.responseType",
                "integration.status", "integration.latency", "responseLatency", "responseLength",
                "integration.responseTransferMode", "integration.timeToAllHeaders", "integration.timeToFirstContent",
            },
        )

    def test_only_the_gateway_answers_options(self) -> None:
        paths = body(Effective())["paths"]
        for path, methods in paths.items():
            integration = methods["options"]["x-amazon-apigateway-integration"]
            self.assertEqual(integration["type"], "mock")
            self.assertNotIn("security", methods["options"])
            answer = integration["responses"]["default"]
            allowed = answer["responseParameters"]["method.response.header.Access-Control-Allow-Methods"].strip("'").split(",")
            self.assertEqual(set(allowed), {method.upper() for of, method in ROUTES if of == path})
            declared = {"method.response.header." + name for name in methods["options"]["responses"]["204"]["headers"]}
            self.assertLessEqual(set(answer["responseParameters"]), declared)
            self.assertIn("method.response.header.Access-Control-Allow-Origin", declared)

    def test_an_origin_on_the_list_gets_itself_back_and_any_other_gets_nothing(self) -> None:
        several = "https://a.example,http://[::1]:3000,https://b.example"
        for origin, header, allowed, expected in (
            ("https://a.example", "origin", several, "https://a.example"),
            ("https://b.example", "Origin", several, "https://b.example"),
            ("https://c.example", "origin", several, None),
            ("https://a.example.c.example", "origin", several, None),
            (several, "origin", several, None),
            ("http://[::1]:3000", "origin", several, "http://[::1]:3000"),
            ("", "origin", several, None),
            ("https://a.example", "origin", "*", "*"),
            ("https://a.example", "origin", "", None),
            ("", "origin", "", None),
        ):
            stack = Effective({"CorsAllowedOrigins": allowed})
            self.assertEqual(stack.refused(), [])
            for path in {path for path, _ in ROUTES}:
                integration = body(stack)["paths"][path]["options"]["x-amazon-apigateway-integration"]
                template = integration["responses"]["default"]["responseTemplates"]["application/json"]
                # The interpreter here takes no hyphens in names; the gateway's does.
                template = template.replace("Access-Control-Allow-Origin", "allowed_origin")
                given = {}
                answer = airspeed.Template(template).merge({
                    "input": {"params": lambda asked: origin if asked == header else ""},
                    "context": {"responseOverride": {"header": given}},
                })
                self.assertEqual(answer.strip(), "")
                self.assertEqual(given.get("allowed_origin"), expected, (path, origin, allowed))

    def test_the_gateways_own_refusals_carry_the_origin_too(self) -> None:
        several = "https://a.example,https://b.example"
        for given, header in (
            ("", None),
            ("*", "'*'"),
            ("https://a.example", "'https://a.example'"),
            (several, "'*'"),
        ):
            stack = Effective({"CorsAllowedOrigins": given})
            refusals = body(stack).get("x-amazon-apigateway-gateway-responses", {})
            self.assertEqual(set(refusals), {"DEFAULT_4XX", "DEFAULT_5XX"} if given else set())
            for refusal in refusals.values():
                self.assertEqual(refusal["responseParameters"]["gatewayresponse.header.Access-Control-Allow-Origin"], header)
            for function in FUNCTIONS:
                self.assertEqual(stack.environment(function)["CORS_ALLOWED_ORIGINS"], given)

    def test_a_user_pool_is_an_authorizer_of_every_route(self) -> None:
        pool = "arn:aws:cognito-idp:eu-west-1:111122223333:userpool/eu-west-1_a"
        for given, security, trust in (("", [], "false"), (pool, [{"caller": []}], "true")):
            stack = Effective({"CognitoUserPoolArn": given, "JwtSecretSecretArn": "" if given else SMALLEST["JwtSecretSecretArn"]})
            self.assertEqual(stack.refused(), [])
            for path, method in ROUTES:
                self.assertEqual(body(stack)["paths"][path][method]["security"], security)
            for function in FUNCTIONS:
                self.assertEqual(stack.environment(function)["AUTH_TRUST_AUTHORIZER"], trust)
            self.assertEqual("components" in body(stack), bool(given))

    def test_a_guided_deployment_does_not_stop_at_a_route_that_its_function_guards(self) -> None:
        with contextlib.redirect_stderr(io.StringIO()):  # Where SAM warns of itself, whatever the filters are.
            stacks, _ = SamLocalStackProvider.get_stacks(template_file=str(ROOT / "template.yaml"))
        self.assertEqual([guarded for _, guarded in auth_per_resource(stacks)], [True] * len(ROUTES))


class Functions(unittest.TestCase):
    def test_they_are_what_was_built_and_a_tenth_of_the_callers_try_a_new_one(self) -> None:
        stack = Effective()
        for function in FUNCTIONS:
            properties = stack.properties(function)
            self.assertEqual((properties["Runtime"], properties["Architectures"]), ("provided.al2023", ["arm64"]))
            self.assertEqual(properties["TracingConfig"], {"Mode": "Active"})
            self.assertNotIn("ReservedConcurrentExecutions", properties)
            self.assertNotIn("VpcConfig", properties)
            logging = properties["LoggingConfig"]
            self.assertEqual((logging["LogFormat"], logging["ApplicationLogLevel"]), ("JSON", "TRACE"))
            group = logging["LogGroup"].strip("${}")
            self.assertEqual(stack.properties(group)["RetentionInDays"], "30")
            deployment = stack.properties(function + "DeploymentGroup")
            self.assertEqual(deployment["DeploymentConfigName"], "CodeDeployDefault.LambdaCanary10Percent10Minutes")
            self.assertTrue(deployment["AutoRollbackConfiguration"]["Enabled"])
            self.assertTrue(deployment["AlarmConfiguration"]["Enabled"])
            alarms = [alarm["Name"].strip("${}") for alarm in deployment["AlarmConfiguration"]["Alarms"]]
            self.assertCountEqual(alarms, GOES_BACK_ON[function])
            for alarm in alarms:
                self.assertIn(alarm, stack.resources)
        binaries = {SOURCE["Resources"][function]["Metadata"]["BuildProperties"]["Binary"] for function in FUNCTIONS}
        self.assertEqual(binaries, {path.name for path in (ROOT / "functions").iterdir()})
        once = Effective({"DeploymentType": "AllAtOnce", "ChatReservedConcurrency": 5})
        group = once.properties("ChatStreamFunctionDeploymentGroup")
        self.assertEqual(group["DeploymentConfigName"], "CodeDeployDefault.LambdaAllAtOnce")
        for function in FUNCTIONS:
            self.assertFalse(once.properties(function + "DeploymentGroup")["AlarmConfiguration"].get("Enabled"))
        self.assertEqual(once.properties("ChatStreamFunction")["ReservedConcurrentExecutions"], "5")

    def test_a_release_is_a_version_even_if_only_settings_changed(self) -> None:
        for release in ("1", "2"):
            stack = Effective({"Release": release})
            versions = stack.of_type("AWS::Lambda::Version")
            self.assertEqual([version["Description"] for version in versions.values()], [release] * 3)
            # A new description makes CloudFormation publish, and Lambda refuses that where the function itself is unchanged.
            for function in FUNCTIONS:
                self.assertEqual(stack.properties(function)["Description"], f"chat, release {release}")

    def test_the_gateway_waits_longer_than_a_function_and_a_function_longer_than_what_it_waits_for(self) -> None:
        def most(*names: str) -> float:
            return sum(float(SOURCE["Parameters"][name]["MaxValue"]) for name in names) / 1000

        stack = Effective()
        # Before the first token a turn reads; after the last it writes. Secrets and published keys take 3 seconds each at most.
        waits = {
            "ChatStreamFunction": 6 + most("MemoryReadTimeoutMs", "LlmFirstTokenTimeoutMs", "LlmIdleTimeoutMs", "MemoryWriteTimeoutMs"),
            "ClearHistoryFunction": 6 + most("MemoryWriteTimeoutMs"),
            "SessionMetaFunction": 6 + most("MemoryReadTimeoutMs", "MemoryWriteTimeoutMs"),
        }
        for (path, method), function in ROUTES.items():
            gateway = body(stack)["paths"][path][method]["x-amazon-apigateway-integration"]["timeoutInMillis"] / 1000
            timeout = stack.properties(function)["Timeout"]
            self.assertGreater(gateway, timeout)
            self.assertGreater(timeout, waits[function])
        self.assertGreater(most("LlmFirstTokenTimeoutMs"), most("LlmConnectTimeoutMs"))

    def test_a_vpc_brings_a_security_group_that_nothing_comes_in_by(self) -> None:
        stack = Effective({**VPC, "SecurityGroupIds": "sg-1,sg-2"})
        for function in FUNCTIONS:
            self.assertEqual(
                stack.properties(function)["VpcConfig"],
                {"SubnetIds": ["subnet-1a", "subnet-1b"], "SecurityGroupIds": ["${FunctionSecurityGroup}", "sg-1", "sg-2"]},
            )
        self.assertNotIn("SecurityGroupIngress", stack.properties("FunctionSecurityGroup"))
        self.assertNotIn("FunctionSecurityGroup", Effective().resources)


class Runbook(unittest.TestCase):
    """Each alarm that somebody is told of, against the table of README.md that says what to do then."""

    TOPIC = "arn:aws:sns:eu-west-1:111122223333:alarms"

    @classmethod
    def setUpClass(cls) -> None:
        text = (ROOT / "README.md").read_text(encoding="utf-8").split("\n### Alarms\n")[1].split("\n### ")[0]
        # The name, and how bad it is: "| `memory-down` critical, 1 min |".
        cls.rows = re.findall(r"^\| `([a-z-]+…?)`(?: (critical|warning),[^|]*)? \|", text, re.MULTILINE)
        cls.alarms = Effective({"AlarmTopicArn": cls.TOPIC}).of_type("AWS::CloudWatch::Alarm")

    def test_every_alarm_has_its_row_and_every_row_its_alarm(self) -> None:
        expected = [("new-version-…", "")]
        for alarm in self.alarms.values():
            name = alarm["AlarmName"].removeprefix("chat-")
            if name.startswith("new-version-"):
                self.assertIn(name.removeprefix("new-version-"), {path.name for path in (ROOT / "functions").iterdir()})
                self.assertTrue(alarm["AlarmDescription"].endswith("Runbook: roll back"), name)
                continue
            severity = alarm["AlarmDescription"].split(":")[0]
            self.assertTrue(alarm["AlarmDescription"].endswith(f". Runbook: {name}"), name)
            expected.append((name, severity))
        self.assertCountEqual(self.rows, expected)

    def test_every_alarm_tells_the_topic_when_it_begins_and_when_it_ends(self) -> None:
        self.assertEqual(len(self.alarms), 12)
        untold = Effective().of_type("AWS::CloudWatch::Alarm")
        for name, alarm in self.alarms.items():
            self.assertEqual(alarm["AlarmActions"], [self.TOPIC], name)
            # A deployment that went back is over then, and its alarm with it.
            self.assertEqual(alarm.get("OKActions", []), [] if "NewVersion" in name else [self.TOPIC], name)
            self.assertIsNot(alarm.get("ActionsEnabled"), False, name)
            self.assertEqual(untold[name]["AlarmActions"], [], name)


class Permissions(unittest.TestCase):
    def statements(self, stack: Effective, function: str) -> dict:
        role = stack.properties(stack.properties(function)["Role"].strip("${}").removesuffix(".Arn"))
        found = [one for policy in role["Policies"] for one in policy["PolicyDocument"]["Statement"]]
        for managed in role["ManagedPolicyArns"]:
            found += stack.properties(managed.strip("${}"))["PolicyDocument"]["Statement"]
        by_name = {}
        for one in found:
            by_name[one["Sid"]] = (one["Effect"], sorted(many(one["Action"])), sorted(many(one["Resource"])), one.get("Condition"))
        self.assertEqual(len(by_name), len(found))
        return by_name

    def basic(self, function: str) -> dict:
        group = function.removesuffix("Function") + "LogGroup"
        return {
            "Logs": ("Allow", ["logs:CreateLogStream", "logs:PutLogEvents"], ["${%s.Arn}" % group], None),
            "Traces": ("Allow", ["xray:PutTelemetryRecords", "xray:PutTraceSegments"], ["*"], None),
        }

    def interfaces(self) -> dict:
        code = {"ArnLike": {"lambda:SourceFunctionArn": "arn:aws:lambda:eu-west-1:111122223333:function:*"}}
        return {
            "NetworkInterfaces": ("Allow", INTERFACES, ["*"], None),
            "NotFromTheCode": ("Deny", INTERFACES, ["*"], code),
        }

    def secrets(self, *names: str) -> dict:
        return {"Secrets": ("Allow", ["secretsmanager:GetSecretValue"], sorted(SECRET + name for name in names), None)}

    def test_a_function_reads_the_secrets_that_it_needs(self) -> None:
        stack = Effective({"RedisPasswordSecretArn": SECRET + "redis-AbCdEf#password"})
        self.assertEqual(
            self.statements(stack, "ChatStreamFunction"),
            {**self.basic("ChatStreamFunction"), **self.secrets("redis-AbCdEf", "jwt-AbCdEf", "model-AbCdEf")},
        )
        for function in FUNCTIONS[1:]:
            self.assertEqual(
                self.statements(stack, function), {**self.basic(function), **self.secrets("redis-AbCdEf", "jwt-AbCdEf")}
            )
            self.assertNotIn("LLM_API_KEY_SECRET_ARN", stack.environment(function))
        self.assertEqual(stack.environment("ChatStreamFunction")["LLM_API_KEY_SECRET_ARN"], SECRET + "model-AbCdEf#api_key")

    def test_a_function_without_secrets_may_read_none(self) -> None:
        stack = Effective({"JwtSecretSecretArn": "", "JwtJwksUrl": "https://keys.example.com", "LlmProvider": "echo"})
        for function in FUNCTIONS:
            self.assertEqual(self.statements(stack, function), self.basic(function))
            for name, value in stack.environment(function).items():
                self.assertFalse(name.endswith("_SECRET_ARN") and value, name)

    def test_secrets_under_a_key_of_ones_own_may_be_decrypted_by_their_keeper_alone(self) -> None:
        key = "arn:aws:kms:eu-west-1:111122223333:key/k"
        condition = {"StringEquals": {"kms:ViaService": "secretsmanager.eu-west-1.amazonaws.com"}}
        stack = Effective({"SecretsKmsKeyArn": key})
        for function in FUNCTIONS:
            self.assertEqual(self.statements(stack, function)["SecretsKey"], ("Allow", ["kms:Decrypt"], [key], condition))
        stack = Effective({"SecretsKmsKeyArn": key, "JwtSecretSecretArn": "", "JwtJwksUrl": "https://keys.example.com"})
        self.assertIn("SecretsKey", self.statements(stack, "ChatStreamFunction"))
        self.assertNotIn("SecretsKey", self.statements(stack, "ClearHistoryFunction"))

    def test_a_function_is_its_own_user_of_the_stacks_cache(self) -> None:
        unused = SECRET + "redis-AbCdEf"
        stack = Effective({**VPC, "CreateCache": "true", "CacheName": "memory", "RedisUrl": "", "RedisPasswordSecretArn": unused})
        self.assertEqual(stack.refused(), [])
        for function, user in zip(FUNCTIONS, ("turns", "clear", "session")):
            resource = f"Cache{user.capitalize()}User"
            secrets = ("jwt-AbCdEf", "model-AbCdEf") if user == "turns" else ("jwt-AbCdEf",)
            expected = {
                **self.basic(function),
                **self.secrets(*secrets),
                **self.interfaces(),
                "Cache": ("Allow", ["elasticache:Connect"], ["${Cache.ARN}", "${%s.Arn}" % resource], None),
            }
            self.assertEqual(self.statements(stack, function), expected)
            environment = stack.environment(function)
            self.assertEqual(environment["REDIS_USERNAME"], f"memory-{user}")
            self.assertEqual(environment["REDIS_URL"], "rediss://${Cache.Endpoint.Address}:${Cache.Endpoint.Port}")
            expected = {"MODE": "cluster", "AUTH": "iam", "IAM_CACHE_NAME": "memory", "IAM_SERVERLESS": "true", "PASSWORD_SECRET_ARN": ""}
            self.assertEqual({name: environment["REDIS_" + name] for name in expected}, expected)
        (ingress,) = stack.properties("CacheSecurityGroup")["SecurityGroupIngress"]
        self.assertEqual(ingress["SourceSecurityGroupId"], "${FunctionSecurityGroup.GroupId}")
        self.assertEqual((ingress["FromPort"], ingress["ToPort"]), (6379, 6380))
        self.assertEqual(stack.properties("Cache")["SecurityGroupIds"], ["${CacheSecurityGroup.GroupId}"])
        self.assertEqual(stack.properties("Cache")["UserGroupId"], "${CacheUsers}")

    def test_a_user_of_the_stacks_cache_has_the_commands_of_its_function_and_no_more(self) -> None:
        stack = Effective({**VPC, "CreateCache": "true", "CacheName": "memory"})
        names = {user: f"Cache{user.capitalize()}User" for user in RIGHTS}
        expected = {
            names[user]: {
                "UserId": f"memory-{user}",
                "UserName": f"memory-{user}",
                "Engine": "valkey",
                "AuthenticationMode": {"Type": "iam"},
                "AccessString": rights,
            }
            for user, rights in RIGHTS.items()
        }
        self.assertEqual(stack.of_type("AWS::ElastiCache::User"), expected)
        (group,) = stack.of_type("AWS::ElastiCache::UserGroup").values()
        self.assertCountEqual(group["UserIds"], ["${%s}" % name for name in names.values()])

    def test_a_cache_of_ones_own_is_reached_as_one_user(self) -> None:
        for serverless, kind in (("true", "serverlesscache"), ("false", "replicationgroup")):
            stack = Effective(
                {"RedisAuth": "iam", "RedisUsername": "u", "RedisIamCacheName": "c", "RedisIamServerless": serverless}
            )
            self.assertEqual(stack.refused(), [])
            prefix = "arn:aws:elasticache:eu-west-1:111122223333:"
            for function in FUNCTIONS:
                secrets = ("jwt-AbCdEf", "model-AbCdEf") if function == "ChatStreamFunction" else ("jwt-AbCdEf",)
                expected = {
                    **self.basic(function),
                    **self.secrets(*secrets),
                    "CacheElsewhere": ("Allow", ["elasticache:Connect"], [f"{prefix}{kind}:c", f"{prefix}user:u"], None),
                }
                self.assertEqual(self.statements(stack, function), expected)

    def test_nothing_else_in_the_stack_may_do_anything_unexpected(self) -> None:
        stack = Effective({**VPC, "CreateCache": "true"})
        aws = "arn:aws:iam::aws:policy/service-role/"
        expected = {
            "ChatStreamRole": ("lambda", ["${FunctionBasics}"], True),
            "ClearHistoryRole": ("lambda", ["${FunctionBasics}"], True),
            "SessionMetaRole": ("lambda", ["${FunctionBasics}"], True),
            "GatewayLogRole": ("apigateway", [aws + "AmazonAPIGatewayPushToCloudWatchLogs"], False),
            "CodeDeployServiceRole": ("codedeploy", [aws + "AWSCodeDeployRoleForLambda"], False),
        }
        roles = stack.of_type("AWS::IAM::Role")
        self.assertEqual(set(roles), set(expected))
        for name, (service, managed, has_own) in expected.items():
            (trust,) = roles[name]["AssumeRolePolicyDocument"]["Statement"]
            self.assertEqual(many(trust["Principal"]["Service"]), [service + ".amazonaws.com"])
            self.assertEqual((trust["Effect"], list(trust["Principal"]), many(trust["Action"])), ("Allow", ["Service"], ["sts:AssumeRole"]))
            self.assertEqual(roles[name]["ManagedPolicyArns"], managed)
            self.assertEqual("Policies" in roles[name], has_own, name)
        # Statements come from nowhere else: no policy stands by itself, and none is a resource's own.
        kinds = {resource["Type"] for resource in stack.resources.values()}
        self.assertEqual({kind for kind in kinds if kind.startswith("AWS::IAM::")}, {"AWS::IAM::Role", "AWS::IAM::ManagedPolicy"})
        self.assertEqual(set(stack.of_type("AWS::IAM::ManagedPolicy")), {"FunctionBasics"})
        self.assertEqual(
            {kind for kind in kinds if kind.endswith(("Policy", "Permission"))}, {"AWS::IAM::ManagedPolicy", "AWS::Lambda::Permission"}
        )


class Settings(unittest.TestCase):
    @staticmethod
    def parameter_of(setting: str) -> str:
        return "".join(part.capitalize() for part in setting.split("_"))

    def settings(self) -> set:
        """All that a parameter sets. AUTH_TRUST_AUTHORIZER follows from CognitoUserPoolArn."""
        return {name for function in FUNCTIONS for name in Effective().environment(function)} - {"AUTH_TRUST_AUTHORIZER"}

    def test_every_setting_is_one_that_the_code_reads_and_an_operator_can_reach_all_of_them(self) -> None:
        read = set(re.findall(r'"((?:REDIS|MEMORY|CONTEXT|LLM|JWT|AUTH|CORS|LOG|METRICS)(?:_[A-Z]+)*)"', CODE)) - {"AUTH"}
        self.assertEqual(self.settings(), read - set(NOT_HERE) - {"AUTH_TRUST_AUTHORIZER"})
        for name in self.settings():
            self.assertIn(self.parameter_of(name), SOURCE["Parameters"])

    def test_a_parameter_reaches_its_setting_and_no_other(self) -> None:
        # Two deployments, because IAM sends no password and echo needs no key.
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
            "JwtSecretSecretArn": SECRET + "tokens-AbCdEf",
            "JwtJwksUrl": "https://keys.example.com",
            "JwtIssuer": "issuer",
            "JwtAudience": "audience",
            "CorsAllowedOrigins": "https://pages.example.com",
            "LogLevel": "debug",
            "Metrics": "off",
            "MetricsNamespace": "Namespace",
        }
        most = {
            name: SOURCE["Parameters"][name]["MaxValue"]
            for name in map(self.parameter_of, self.settings())
            if SOURCE["Parameters"][name]["Type"] == "Number"
        }
        # The lowest bound first, so that a small number is left for it.
        both.update({name: count for count, name in enumerate(sorted(most, key=lambda name: (most[name], name)), 3)})
        secrets = {"RedisPasswordSecretArn": SECRET + "password-AbCdEf", "LlmApiKeySecretArn": SECRET + "key-AbCdEf"}
        reached = set()
        for given in ({**both, **secrets}, {**both, "RedisAuth": "iam", "LlmProvider": "echo"}):
            self.assertEqual(len({str(value) for value in given.values()}), len(given), "each value is one parameter's")
            stack = Effective(given)
            self.assertEqual(stack.refused(), [])
            for function in FUNCTIONS:
                for name, value in stack.environment(function).items():
                    parameter = self.parameter_of(name)
                    if parameter in given:
                        self.assertNotEqual(value, str(SOURCE["Parameters"][parameter]["Default"]), name)
                        self.assertEqual(value, str(given[parameter]), name)
                        reached.add(name)
        self.assertEqual(reached, self.settings())

    def test_numbers_default_to_what_the_code_defaults_to(self) -> None:
        defaults = dict(re.findall(r'\(\s*lookup,\s*"([A-Z_]+)",\s*([0-9_]+)\s*[,)]', CODE))
        checked = 0
        for name, value in defaults.items():
            if self.parameter_of(name) in SOURCE["Parameters"]:
                self.assertEqual(int(SOURCE["Parameters"][self.parameter_of(name)]["Default"]), int(value), name)
                checked += 1
        self.assertEqual(checked, 13)

    def test_numbers_are_bounded_as_in_the_code_or_closer(self) -> None:
        names = dict(re.findall(r"const ([A-Z_]+): u64 = ([0-9_* ]+);", CODE))

        def number(text: str) -> int:
            return math.prod(int(factor) for factor in names.get(text, text).split("*"))

        bounds = {
            name: (number(low), number(high))
            for name, low, high in re.findall(r'"([A-Z_]+)",\s*[0-9_]+,\s*([0-9_]+),\s*([0-9A-Z_]+),?\s*\)', CODE)
        }
        for name in re.findall(r'milliseconds\(\s*lookup,\s*"([A-Z_]+)"', CODE):
            bounds[name] = (1, number("LONGEST_INVOCATION_MS"))
        parameters = {name: SOURCE["Parameters"][self.parameter_of(name)] for name in self.settings()}
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
            self.assertLess(len(what["Description"]), 4000, name)
            self.assertTrue(f'"Ref": "{name}"' in rest or "${%s}" % name in rest, f"{name} is not used")

    def test_no_secret_is_a_default_or_in_an_environment(self) -> None:
        stack = Effective({"RedisPasswordSecretArn": SECRET + "redis-AbCdEf"})
        for function in FUNCTIONS:
            for name, value in stack.environment(function).items():
                if re.search("SECRET|PASSWORD|KEY", name) and name != "REDIS_KEY_LAYOUT":
                    self.assertTrue(name.endswith("_SECRET_ARN") and value.startswith("arn:"), f"{name}={value}")
        for name, what in SOURCE["Parameters"].items():
            if re.search("Secret|Password|ApiKey", name):
                self.assertEqual(what["Default"], "", name)
                if name.endswith("SecretArn"):
                    self.assertIsNone(re.match(what["AllowedPattern"], "hunter2"), name)
                    # IAM compares the whole ARN. Without the six letters at its end the policy would allow nothing.
                    self.assertIsNone(re.match(what["AllowedPattern"], SECRET + "companion"), name)
                    self.assertIsNotNone(re.match(what["AllowedPattern"], SECRET + "a/b-AbCdEf#key"), name)
        for given in ("redis://user:hunter2@host", "rediss://:hunter2@host:6379"):
            self.assertIsNone(re.match(SOURCE["Parameters"]["RedisUrl"]["AllowedPattern"], given))

    def test_what_cannot_work_is_refused_before_anything_is_made(self) -> None:
        self.assertEqual(Effective().refused(), [])
        self.assertEqual(len(Effective(smallest=False).refused()), 3, "nobody is let in, no model, no Redis")
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
            self.assertTrue(Effective(given).refused(), given)
        for given in (
            {"RedisMode": "cluster", "RedisKeyLayout": "tagged"},
            {"RedisMode": "sentinel", "RedisKeyLayout": "plain"},
            # What is said of a Redis of one's own is not used then.
            {**VPC, "CreateCache": "true", "RedisUrl": "", "RedisMode": "cluster", "RedisKeyLayout": "plain"},
        ):
            self.assertEqual(Effective(given).refused(), [], given)

    def test_a_value_that_a_function_would_not_start_with_is_not_taken(self) -> None:
        # As shared/src/config has it; its own tests have these values too.
        for name, good, bad in (
            ("CorsAllowedOrigins", ORIGINS + [",".join(ORIGINS), "*", ""], NO_ORIGINS),
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
                ["https://model.example.com/api/v3", "http://10.0.0.1:8000", "http://[::1]:8000/v1"],
                ["model.example.com", "https://", "https:///v1", "https://model.example.com/a b", "https://key@model.example.com"],
            ),
            (
                "JwtJwksUrl",
                ["https://keys.example.com/.well-known/jwks.json", "https://keys.example.com/keys?p=B2C_1"],
                ["http://keys.example.com", "https://", "https:///keys", "https://keys.example.com/a b"],
            ),
            ("MemoryTtlSeconds", ["1", "315360000"], ["0", "315360001"]),
            ("RedisBreakerCooldownMs", ["1", "900000"], ["0", "900001"]),
            *(
                (
                    name,
                    [SECRET + "a/b_+=.@-c-AbCdEf", SECRET + "a-AbCdEf#key"],
                    [SECRET + "a!b-AbCdEf", SECRET + "a-AbCdEf#", SECRET + "a b-AbCdEf"],
                )
                for name in SOURCE["Parameters"] if name.endswith("SecretArn")
            ),
        ):
            for value in good:
                self.assertTrue(taken(SOURCE["Parameters"][name], value), f"{name}={value}")
            for value in bad:
                self.assertFalse(taken(SOURCE["Parameters"][name], value), f"{name}={value}")


if __name__ == "__main__":
    unittest.main()
