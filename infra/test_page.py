"""The page as it is deployed: who may read its files, what its headers say, and how requests reach the API."""

from __future__ import annotations

import fnmatch
import json
import os
import re
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path
from typing import Any

from effective import ROOT, VPC, Effective

from functions import ROUTES

sys.path.append(str(ROOT / "scripts"))
import page  # noqa: E402 - the folder is known only now

HOSTED = {"HostPage": "true"}
CERTIFICATE = "arn:aws:acm:us-east-1:111122223333:certificate/1b2c3d4e-0000-1111-2222-333344445555"
NAMED = {**HOSTED, "PageDomain": "chat.example.com", "PageCertificateArn": CERTIFICATE}
GUIDE = (ROOT / "docs/hosting.md").read_text(encoding="utf-8")

# Policies that AWS manages. Their ids are the same in all accounts.
CACHED_AS_THE_FILE_SAYS = "658327ea-f89d-4fab-a63d-7e88639e58f6"
NOT_CACHED = "4135ea2d-6df8-44a3-9df3-4b5a84be39ad"
ALL_HEADERS_BUT_HOST = "b689b0a8-53d0-40ab-baf2-68738e2966ac"


def distribution(stack: Effective) -> dict[str, Any]:
    return stack.properties("PageDistribution")["DistributionConfig"]


def origin(stack: Effective, behavior: dict[str, Any]) -> dict[str, Any]:
    """Returns the origin to which a behavior sends its requests."""
    (found,) = (one for one in distribution(stack)["Origins"] if one["Id"] == behavior["TargetOriginId"])
    return found


def of_the_api(stack: Effective) -> dict[str, Any]:
    """Returns the behavior that every route of the API has."""
    behaviors = distribution(stack)["CacheBehaviors"]
    (behavior,) = {
        next(n for n, one in enumerate(behaviors) if fnmatch.fnmatchcase(path, one["PathPattern"]))
        for _, path, _ in ROUTES
    }
    return behaviors[behavior]


def uses(what: Any) -> set[str]:
    """Returns the names to which a part of a template refers."""
    if isinstance(what, list):
        return set().union(*map(uses, what))
    if not isinstance(what, dict):
        return set()
    found = set()
    for key, value in what.items():
        if key == "Ref":
            found.add(value)
        elif key == "Fn::GetAtt":
            found.add((value.split(".") if isinstance(value, str) else value)[0])
        elif key == "DependsOn":
            found.update([value] if isinstance(value, str) else value)
        else:
            if key == "Fn::Sub":
                text = value if isinstance(value, str) else value[0]
                found.update(name.split(".")[0] for name in re.findall(r"\$\{([^}!]+)\}", text))
            found |= uses(value)
    return found


class Hosting(unittest.TestCase):
    def test_no_page_is_hosted_unless_a_parameter_says_so(self) -> None:
        stack = Effective()
        self.assertEqual([one for one in stack.resources if one.startswith("Page")], [])
        outputs = {name: one for name, one in stack.transformed["Outputs"].items() if name.startswith("Page")}
        self.assertEqual({one["Condition"] for one in outputs.values()}, {"PageHere"})
        for name in outputs:
            self.assertIn(f"| `{name}` |", GUIDE)
        self.assertFalse(stack.condition("PageHere"))

    def test_it_deploys_in_one_go(self) -> None:
        resources = Effective({**NAMED, **VPC, "CreateCache": "true"}).transformed["Resources"]
        waiting = {name: uses(one) & set(resources) - {name} for name, one in resources.items()}
        self.assertIn("PageHeaders", waiting["PageDistribution"])
        self.assertIn("Api", waiting["PageDistribution"])
        while ready := {name for name, needs in waiting.items() if not needs}:
            waiting = {name: needs - ready for name, needs in waiting.items() if name not in ready}
        self.assertEqual(sorted(waiting), [], "these wait for each other")

    def test_only_the_distribution_reads_the_bucket_and_only_with_tls(self) -> None:
        stack = Effective(HOSTED)
        bucket = stack.properties("PageBucket")
        self.assertEqual(set(bucket["PublicAccessBlockConfiguration"].values()), {True})
        self.assertEqual(len(bucket["PublicAccessBlockConfiguration"]), 4)
        self.assertEqual(bucket["OwnershipControls"]["Rules"], [{"ObjectOwnership": "BucketOwnerEnforced"}])
        policy = stack.properties("PageBucketPolicy")
        self.assertEqual(policy["Bucket"], "${PageBucket}")
        allowed, denied = policy["PolicyDocument"]["Statement"]
        arn = "arn:aws:cloudfront::111122223333:distribution/${PageDistribution}"
        self.assertEqual((allowed["Effect"], allowed["Action"]), ("Allow", "s3:GetObject"))
        self.assertEqual(allowed["Principal"], {"Service": "cloudfront.amazonaws.com"})
        self.assertEqual(allowed["Condition"], {"StringEquals": {"AWS:SourceArn": arn}})
        self.assertEqual((denied["Effect"], denied["Principal"]), ("Deny", "*"))
        self.assertEqual(denied["Condition"], {"Bool": {"aws:SecureTransport": "false"}})
        files = origin(stack, distribution(stack)["DefaultCacheBehavior"])
        self.assertEqual(files["DomainName"], "${PageBucket.RegionalDomainName}")
        self.assertEqual(files["OriginAccessControlId"], "${PageAccess.Id}")
        access = stack.properties("PageAccess")["OriginAccessControlConfig"]
        self.assertEqual((access["SigningBehavior"], access["SigningProtocol"]), ("always", "sigv4"))

    def test_headers_are_those_of_a_local_run(self) -> None:
        def rules(policy: str) -> set[str]:
            return {rule.strip() for rule in policy.split(";")}

        stack = Effective(HOSTED)
        headers = stack.properties("PageHeaders")["ResponseHeadersPolicyConfig"]["SecurityHeadersConfig"]
        html = (ROOT / "web/page/index.html").read_text(encoding="utf-8")
        self.assertEqual(rules(headers["ContentSecurityPolicy"]["ContentSecurityPolicy"]), rules(page.policy(html)))
        self.assertEqual(headers["ReferrerPolicy"]["ReferrerPolicy"], "no-referrer")
        self.assertEqual(headers["FrameOptions"]["FrameOption"], "DENY")
        self.assertGreaterEqual(headers["StrictTransportSecurity"]["AccessControlMaxAgeSec"], 31_536_000)
        self.assertEqual({one["Override"] for one in headers.values()}, {True})
        for behavior in (distribution(stack)["DefaultCacheBehavior"], *distribution(stack)["CacheBehaviors"]):
            self.assertEqual(behavior["ResponseHeadersPolicyId"], "${PageHeaders}")

    def test_files_are_cached_as_they_say_and_http_becomes_https(self) -> None:
        stack = Effective(HOSTED)
        files = distribution(stack)["DefaultCacheBehavior"]
        self.assertEqual(files["ViewerProtocolPolicy"], "redirect-to-https")
        self.assertEqual(files["CachePolicyId"], CACHED_AS_THE_FILE_SAYS)
        self.assertEqual(files["AllowedMethods"], ["GET", "HEAD"])
        self.assertEqual(distribution(stack)["DefaultRootObject"], "index.html")
        # It would hold for the API as well, and put the page in place of its errors.
        self.assertNotIn("CustomErrorResponses", distribution(stack))


class ApiOnTheSameOrigin(unittest.TestCase):
    def test_every_route_reaches_the_stage(self) -> None:
        stack = Effective({**HOSTED, "StageName": "prod"})
        behavior = of_the_api(stack)
        gateway = origin(stack, behavior)
        self.assertEqual(gateway["DomainName"], "${Api}.execute-api.eu-west-1.amazonaws.com")
        self.assertEqual(gateway["OriginPath"], "/prod")
        self.assertEqual(gateway["CustomOriginConfig"]["OriginProtocolPolicy"], "https-only")
        self.assertEqual(gateway["CustomOriginConfig"]["OriginSSLProtocols"], ["TLSv1.2"])
        self.assertLessEqual({method.upper() for method, _, _ in ROUTES}, set(behavior["AllowedMethods"]))

    def test_a_stream_is_neither_compressed_nor_cached(self) -> None:
        behavior = of_the_api(Effective(HOSTED))
        self.assertIs(behavior["Compress"], False)
        self.assertEqual(behavior["CachePolicyId"], NOT_CACHED)

    def test_a_silent_stream_is_not_ended_and_a_slow_function_answers_itself(self) -> None:
        stack = Effective(HOSTED)
        seconds = origin(stack, of_the_api(stack))["CustomOriginConfig"]["OriginReadTimeout"]
        source = (ROOT / "shared/src/http/sse.rs").read_text(encoding="utf-8")
        (heartbeat,) = re.findall(r"HEARTBEAT_INTERVAL: Duration = Duration::from_secs\((\d+)\)", source)
        self.assertGreaterEqual(seconds, 2 * int(heartbeat))
        for method, path, function in ROUTES:
            route = stack.properties("Api")["Body"]["paths"][path][method]["x-amazon-apigateway-integration"]
            if not function.streams:
                self.assertGreater(seconds, route["timeoutInMillis"] / 1000)
        # CloudFront takes no more than this without a raised quota in older accounts.
        self.assertLessEqual(seconds, 60)

    def test_tokens_arrive_and_never_travel_in_the_clear(self) -> None:
        behavior = of_the_api(Effective(HOSTED))
        self.assertEqual(behavior["OriginRequestPolicyId"], ALL_HEADERS_BUT_HOST)
        self.assertEqual(behavior["ViewerProtocolPolicy"], "https-only")


class Name(unittest.TestCase):
    def test_the_page_has_the_name_that_is_given_or_cloudfronts(self) -> None:
        for given, aliases, certificate, url in (
            (HOSTED, None, {"CloudFrontDefaultCertificate": True}, "https://${PageDistribution.DomainName}"),
            (
                NAMED,
                ["chat.example.com"],
                {
                    "AcmCertificateArn": CERTIFICATE,
                    "SslSupportMethod": "sni-only",
                    "MinimumProtocolVersion": "TLSv1.2_2021",
                },
                "https://chat.example.com",
            ),
        ):
            stack = Effective(given)
            self.assertEqual(stack.rejections(), [])
            self.assertEqual(distribution(stack).get("Aliases"), aliases)
            self.assertEqual(distribution(stack)["ViewerCertificate"], certificate)
            self.assertEqual(stack.resolve(stack.transformed["Outputs"]["PageUrl"]["Value"]), url)

    def test_edges_and_a_firewall_are_chosen_by_parameters(self) -> None:
        acl = "arn:aws:wafv2:us-east-1:111122223333:global/webacl/edge/1b2c3d4e-0000"
        stack = Effective({**HOSTED, "PageWebAclArn": acl, "PagePriceClass": "PriceClass_100"})
        self.assertEqual(stack.rejections(), [])
        self.assertEqual(distribution(stack)["WebACLId"], acl)
        self.assertEqual(distribution(stack)["PriceClass"], "PriceClass_100")
        self.assertNotIn("WebACLId", distribution(Effective(HOSTED)))

    def test_what_cloudfront_would_refuse_is_refused_before(self) -> None:
        for given in (
            {"PageDomain": "chat.example.com"},
            {"PageCertificateArn": CERTIFICATE},
            {**NAMED, "PageCertificateArn": CERTIFICATE.replace("us-east-1", "eu-west-1")},
            {**NAMED, "PageDomain": "https://chat.example.com"},
            {**NAMED, "PageDomain": "chat.example.com/page"},
            {"PageWebAclArn": "arn:aws:wafv2:eu-west-1:111122223333:regional/webacl/edge/1b2c3d4e"},
        ):
            self.assertEqual(len(Effective({**HOSTED, **given}).rejections()), 1, given)


# Stands for the AWS CLI and npm in the lines of the guide: it notes how it was called.
STAND_IN = """#!/bin/sh
for argument in "$(basename "$0")" "$@"; do printf '%s\\0' "$argument"; done >> "$CALLS"
printf '\\n' >> "$CALLS"
case "$*" in
    *PageBucket*) echo the-bucket ;;
    *PageDistributionId*) echo EDISTRIBUTION ;;
    *PutCharacterFunction*) echo the-function ;;
    *"lambda invoke"*) printf '%s' "$ANSWER" > stored.json ;;
    *"cp config.json"*) cat config.json >> "$PUBLISHED" ;;
esac
"""


class Guide(unittest.TestCase):
    def run_lines(self, *marks: str, answer: str = "") -> tuple[int, list[list[str]], str]:
        """Runs the guide's blocks that have these marks, one after the other in one shell.

        Returns the shell's status, the programs that it called, with their arguments, and what was published as
        config.json. `answer` is what put-character answers.
        """
        blocks = re.findall(r"```sh\n(.*?)```", GUIDE, re.DOTALL)
        lines = "".join(block for mark in marks for block in blocks if mark in block)
        with tempfile.TemporaryDirectory() as folder:
            for program in ("aws", "npm"):
                Path(folder, program).write_text(STAND_IN, encoding="utf-8")
                Path(folder, program).chmod(0o755)
            noted, published = Path(folder, "calls"), Path(folder, "published")
            published.touch()
            environment = {
                **os.environ,
                "PATH": f"{folder}:{os.environ['PATH']}",
                "CALLS": str(noted),
                "PUBLISHED": str(published),
                "ANSWER": answer,
            }
            ran = subprocess.run(["sh", "-euc", lines], cwd=folder, env=environment, check=False, capture_output=True)
            calls = [line.split("\0")[:-1] for line in noted.read_text(encoding="utf-8").splitlines()]
            return ran.returncode, calls, published.read_text(encoding="utf-8")

    def calls(self) -> list[list[str]]:
        """Returns the programs that the guide's lines for an upload call, with their arguments."""
        status, calls, _ = self.run_lines("create-invalidation")
        self.assertEqual(status, 0)
        return calls

    def uploads(self) -> list[tuple[str, str]]:
        """Returns each file of a built page in the order in which it is uploaded, with its Cache-Control."""
        built = ["index.html", "config.json", "icon.svg", ".stamp", "assets/index-1.js", "assets/index-1.css"]
        uploaded = []
        for call in self.calls():
            if call[:3] != ["aws", "s3", "cp"]:
                continue
            source, target = call[3:5]
            prefix = source.removeprefix("web/dist").strip("/")
            self.assertEqual(target, f"s3://the-bucket/{prefix}".rstrip("/"))
            self.assertIn("--recursive", call)
            excluded = [call[n + 1] for n, one in enumerate(call) if one == "--exclude"]
            for path in built:
                name = path.removeprefix(prefix).lstrip("/")
                if path.startswith(prefix) and not any(fnmatch.fnmatchcase(name, one) for one in excluded):
                    uploaded.append((path, call[call.index("--cache-control") + 1]))
        return uploaded

    def test_assets_go_first_and_only_they_are_kept_for_long(self) -> None:
        paths = [path for path, _ in self.uploads()]
        self.assertEqual(paths[:2], ["assets/index-1.js", "assets/index-1.css"])
        self.assertEqual(sorted(paths[2:]), ["config.json", "icon.svg", "index.html"])
        for path, kept in self.uploads():
            self.assertEqual("immutable" in kept, path.startswith("assets/"), path)
            self.assertEqual("max-age=0" in kept, not path.startswith("assets/"), path)

    def test_edges_forget_every_file_whose_name_stays(self) -> None:
        (invalidation,) = (call for call in self.calls() if "create-invalidation" in call)
        self.assertEqual(invalidation[invalidation.index("--distribution-id") + 1], "EDISTRIBUTION")
        paths = invalidation[invalidation.index("--paths") + 1 :]
        stay = {f"/{path}" for path, _ in self.uploads() if not path.startswith("assets/")}
        self.assertEqual(set(paths), {"/", *stay})
        public = {f"/{path.name}" for path in (ROOT / "web/page/public").iterdir()}
        self.assertEqual(stay, {"/index.html", "/config.json", *public})

    def test_a_list_of_characters_is_published_and_nothing_else(self) -> None:
        blocks = ("create-invalidation", "lambda invoke")
        status, calls, published = self.run_lines(*blocks, answer='{"characters": ["mira", "kai"], "next": null}')
        self.assertEqual((status, json.loads(published)), (0, {"characters": ["mira", "kai"]}))
        (invoked,) = (call for call in calls if call[1:3] == ["lambda", "invoke"])
        self.assertEqual(invoked[invoked.index("--function-name") + 1], "the-function")
        self.assertEqual(invoked[invoked.index("--payload") + 1], '{"action":"list"}')
        problem = '{"status": 503, "code": "memory_unavailable"}'
        for answer in (problem, '{"errorType": "Runtime.ExitError"}', "null"):
            status, _, published = self.run_lines(*blocks, answer=answer)
            self.assertNotEqual(status, 0, answer)
            self.assertEqual(published, "", answer)


if __name__ == "__main__":
    unittest.main()
