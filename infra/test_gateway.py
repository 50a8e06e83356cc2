"""The gateway as it is deployed: routes, streaming, preflight requests, error responses and access logs."""

from __future__ import annotations

import contextlib
import io
import json
import re
import string
import unittest
from typing import Any

import airspeed
from effective import MINIMAL, ROOT, SOURCE, Effective, accepts
from samcli.commands.deploy.auth_utils import auth_per_resource
from samcli.lib.providers.sam_stack_provider import SamLocalStackProvider

from functions import FUNCTIONS, ROUTES

# Every character of an origin as a browser sends it. None ends a string or starts an expression in a mapping template.
ORIGIN_CHARACTERS = string.ascii_lowercase + string.digits + ".:/[]_+-"


def definition(stack: Effective) -> dict:
    return stack.properties("Api")["Body"]


def integration(stack: Effective, path: str, method: str) -> dict:
    return definition(stack)["paths"][path][method]["x-amazon-apigateway-integration"]


def allowed_origin(stack: Effective, path: str, header: str, origin: str) -> str | None:
    """Returns the Access-Control-Allow-Origin of the response to a preflight request with this origin."""
    template = integration(stack, path, "options")["responses"]["default"]["responseTemplates"]["application/json"]
    # This interpreter accepts no hyphens in names; the gateway's does.
    template = template.replace("Access-Control-Allow-Origin", "allowed_origin")
    headers: dict[str, str] = {}
    body = airspeed.Template(template).merge(
        {
            "input": {"params": lambda asked: origin if asked == header else ""},
            "context": {"responseOverride": {"header": headers}},
        }
    )
    assert body.strip() == "", f"a preflight response with a body: {body}"
    return headers.get("allowed_origin")


def exposed_by_the_functions() -> str:
    source = (ROOT / "shared/src/http/cors.rs").read_text()
    (exposed,) = re.findall(r'HeaderValue::from_static\("(allow,[^"]+)"\)', source)
    return exposed


class Gateway(unittest.TestCase):
    def test_streaming_functions_stream_and_the_others_are_buffered(self) -> None:
        stack = Effective()
        paths = definition(stack)["paths"]
        deployed = {(method, path) for path, methods in paths.items() for method in methods if method != "options"}
        self.assertEqual(deployed, {(method, path) for method, path, _ in ROUTES})
        for method, path, function in ROUTES:
            route = integration(stack, path, method)
            self.assertEqual((route["type"], route["httpMethod"]), ("aws_proxy", "POST"))
            prefix = "arn:aws:apigateway:eu-west-1:lambda:path/"
            if function.streams:
                self.assertEqual(route["responseTransferMode"], "STREAM")
                self.assertEqual(route["timeoutInMillis"], 900_000)
                uri = prefix + f"2021-11-15/functions/${{{function.resource}Aliaslive}}/response-streaming-invocations"
            else:
                self.assertNotIn("responseTransferMode", route)
                self.assertEqual(route["timeoutInMillis"], 29_000)
                uri = prefix + f"2015-03-31/functions/${{{function.resource}Aliaslive}}/invocations"
            self.assertEqual(route["uri"], uri)

    def test_the_gateway_may_invoke_each_function_on_its_routes_only(self) -> None:
        expected = [
            {
                "FunctionName": f"${{{function.resource}Aliaslive}}",
                "Action": "lambda:InvokeFunction",
                "Principal": "apigateway.amazonaws.com",
                "SourceArn": "arn:aws:execute-api:eu-west-1:111122223333:${Api}/*/" + method.upper() + path,
            }
            for method, path, function in ROUTES
        ]
        self.assertCountEqual(Effective().of_type("AWS::Lambda::Permission").values(), expected)

    def test_the_stage_is_regional_throttled_and_always_redeployed(self) -> None:
        stack = Effective({"ThrottleRate": 7, "ThrottleBurst": 9})
        self.assertEqual(stack.properties("Api")["EndpointConfiguration"], {"Types": ["REGIONAL"]})
        (stage,) = stack.of_type("AWS::ApiGateway::Stage").values()
        (settings,) = stage["MethodSettings"]
        self.assertEqual((settings["ResourcePath"], settings["HttpMethod"]), ("/*", "*"))
        self.assertEqual((settings["ThrottlingRateLimit"], settings["ThrottlingBurstLimit"]), ("7", "9"))
        self.assertEqual((settings["LoggingLevel"], settings["DataTraceEnabled"]), ("OFF", False))
        self.assertIs(SOURCE["Resources"]["Api"]["Properties"]["AlwaysDeploy"], True)

    def test_a_web_acl_guards_the_stage_if_a_parameter_names_one(self) -> None:
        self.assertEqual(Effective().of_type("AWS::WAFv2::WebACLAssociation"), {})
        acl = "arn:aws:wafv2:eu-west-1:111122223333:regional/webacl/chat/0f1e2d3c-0000-4000-8000-000000000000"
        (association,) = Effective({"WebAclArn": acl}).of_type("AWS::WAFv2::WebACLAssociation").values()
        self.assertEqual(association["WebACLArn"], acl)
        stage = "arn:aws:apigateway:eu-west-1::/restapis/${Api}/stages/${ApiStage}"
        self.assertEqual(association["ResourceArn"], stage)
        parameter = SOURCE["Parameters"]["WebAclArn"]
        self.assertTrue(accepts(parameter, acl))
        self.assertFalse(accepts(parameter, acl.replace(":regional/", ":global/")))

    def test_access_logs_contain_no_token_no_query_and_no_address(self) -> None:
        (stage,) = Effective().of_type("AWS::ApiGateway::Stage").values()
        line = json.loads(stage["AccessLogSetting"]["Format"])
        # `$context.error.message` and `.messageString` quote a malformed Authorization header; `$context.path` and
        # `$input` are the caller's input.
        self.assertEqual(
            {value.removeprefix("$context.") for value in line.values()},
            {
                "requestId",
                "xrayTraceId",
                "requestTime",
                "httpMethod",
                "resourcePath",
                "status",
                "error.responseType",
                "integration.status",
                "integration.latency",
                "responseLatency",
                "responseLength",
                "integration.responseTransferMode",
                "integration.timeToAllHeaders",
                "integration.timeToFirstContent",
            },
        )

    def test_a_user_pool_authorizes_every_route(self) -> None:
        pool = "arn:aws:cognito-idp:eu-west-1:111122223333:userpool/eu-west-1_a"
        for given, security, trust in (("", [], "false"), (pool, [{"caller": []}], "true")):
            stack = Effective(
                {"CognitoUserPoolArn": given, "JwtSecretSecretArn": "" if given else MINIMAL["JwtSecretSecretArn"]}
            )
            self.assertEqual(stack.rejections(), [])
            for method, path, function in ROUTES:
                self.assertEqual(definition(stack)["paths"][path][method]["security"], security)
                self.assertEqual(stack.environment(function.resource)["AUTH_TRUST_AUTHORIZER"], trust)
            self.assertEqual("components" in definition(stack), bool(given))

    def test_a_guided_deployment_does_not_stop_at_routes_without_an_authorizer(self) -> None:
        with contextlib.redirect_stderr(
            io.StringIO()
        ):  # SAM prints a warning about itself here, whatever the filters are.
            stacks, _ = SamLocalStackProvider.get_stacks(template_file=str(ROOT / "template.yaml"))
        self.assertEqual([authorized for _, authorized in auth_per_resource(stacks)], [True] * len(ROUTES))


class Cors(unittest.TestCase):
    def test_the_gateway_alone_answers_options(self) -> None:
        stack = Effective()
        for path, methods in definition(stack)["paths"].items():
            preflight = integration(stack, path, "options")
            self.assertEqual(preflight["type"], "mock")
            self.assertNotIn("security", methods["options"])
            answer = preflight["responses"]["default"]
            allowed = (
                answer["responseParameters"]["method.response.header.Access-Control-Allow-Methods"]
                .strip("'")
                .split(",")
            )
            self.assertCountEqual(allowed, [method.upper() for method, of, _ in ROUTES if of == path])
            self.assertEqual(
                answer["responseParameters"]["method.response.header.Access-Control-Allow-Headers"],
                "'authorization,content-type,idempotency-key,last-event-id'",
            )
            declared = {"method.response.header." + name for name in methods["options"]["responses"]["204"]["headers"]}
            self.assertLessEqual(set(answer["responseParameters"]), declared)
            self.assertIn("method.response.header.Access-Control-Allow-Origin", declared)

    def test_a_listed_origin_is_returned_and_no_other(self) -> None:
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
            self.assertEqual(stack.rejections(), [])
            for path in definition(stack)["paths"]:
                self.assertEqual(allowed_origin(stack, path, header, origin), expected, (path, origin, allowed))

    def test_the_list_takes_the_characters_of_origins_and_no_others(self) -> None:
        # Whether an entry is an origin is checked at start by the functions, in shared/src/config/cors.rs, whose own
        # tests have the cases. The pattern only keeps out what would mean something in the mapping template or in a
        # quoted header.
        parameter = SOURCE["Parameters"]["CorsAllowedOrigins"]
        for value in ("", "*", "https://app.example.com,http://[::1]:3000,capacitor://localhost"):
            self.assertTrue(accepts(parameter, value), value)
        for character in [*map(chr, range(256)), "雨", "\u2028"]:
            accepted = character in ORIGIN_CHARACTERS + ","
            for value in ("https://a" + character, "https://a" + character + "b", character + "https://a"):
                self.assertEqual(accepts(parameter, value), accepted, ascii(value))

    def test_no_accepted_character_means_something_in_the_mapping_template(self) -> None:
        stack = Effective({"CorsAllowedOrigins": ORIGIN_CHARACTERS + "," + ORIGIN_CHARACTERS[::-1]})
        for path in definition(stack)["paths"]:
            for origin in (ORIGIN_CHARACTERS, ORIGIN_CHARACTERS[::-1]):
                self.assertEqual(allowed_origin(stack, path, "origin", origin), origin)

    def test_error_responses_of_the_gateway_carry_the_origin(self) -> None:
        for given, header in (
            ("", None),
            ("*", "'*'"),
            ("https://a.example", "'https://a.example'"),
            ("https://a.example,https://b.example", "'*'"),
        ):
            stack = Effective({"CorsAllowedOrigins": given})
            errors: dict[str, Any] = definition(stack).get("x-amazon-apigateway-gateway-responses", {})
            self.assertEqual(set(errors), {"DEFAULT_4XX", "DEFAULT_5XX"} if given else set())
            for error in errors.values():
                self.assertEqual(
                    error["responseParameters"]["gatewayresponse.header.Access-Control-Expose-Headers"],
                    f"'{exposed_by_the_functions()}'",
                )
                self.assertEqual(
                    error["responseParameters"]["gatewayresponse.header.Access-Control-Allow-Origin"], header
                )
            for function in FUNCTIONS:
                origins = stack.environment(function.resource).get("CORS_ALLOWED_ORIGINS")
                self.assertEqual(origins, given if function.routes else None)


if __name__ == "__main__":
    unittest.main()
