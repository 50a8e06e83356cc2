"""The series that alarms and dashboard name, because a wrong name never fires, and the runbook. Runs no function."""

from __future__ import annotations

import itertools
import json
import re
import unittest

from cloudwatch import Search, Series, dashboard, metrics_of, series
from effective import ROOT, VPC, Effective

from functions import FUNCTIONS, Function

# Every value of a dimension of the service's own metrics that alarms and dashboard ask for.
VALUES = {
    "operation": {
        "load",
        "commit",
        "clear",
        "session",
        "set_state",
        "character",
        "journal",
        "close",
        "follow",
        "stop",
        "history",
        "sessions",
        "rewind",
        "export",
        "erase",
        "limit",
        "shelf",
    },
    "status": {"success", "failure", "timeout"},
    "result": {"saved", "duplicate", "fenced", "conflict", "lost", "failed"},
    "reason": {"timeout", "breaker_open", "not_replicated", "unexpected_answer"},
    "code": {"upstream_unavailable", "upstream_timeout", "upstream_rejected", "upstream_interrupted"},
}
# Where the code spells these values.
SPELLED_AT = {
    "operation": "impl Operation {",
    "status": "impl Status {",
    "result": "impl CommitResult {",
    "reason": "pub fn reason(&self)",
    "code": "impl FailureCode {",
}
CACHE = {**VPC, "CreateCache": "true"}
CODE = "\n".join(path.read_text(encoding="utf-8") for path in sorted((ROOT / "shared/src").rglob("*.rs")))


def of_function(metric: str, function: Function, **more: str) -> Series:
    return series("AWS/Lambda", metric, {"FunctionName": f"${{{function.resource}}}", **more})


def of_cache(metric: str) -> Series:
    return series("AWS/ElastiCache", metric, {"clusterId": "${Cache}"})


def of_stage(metric: str) -> Series:
    return series("AWS/ApiGateway", metric, {"ApiName": "chat", "Stage": "stage"})


class Alarms(unittest.TestCase):
    def setUp(self) -> None:
        self.stack = Effective({**CACHE, "StageName": "stage", "MetricsNamespace": "Space"})
        self.alarms = self.stack.of_type("AWS::CloudWatch::Alarm")

    def test_alarms_on_metrics_of_aws_watch_all_functions_the_stage_and_the_cache(self) -> None:
        expected = {
            "GatewayErrorsAlarm": {of_stage("5XXError"), of_stage("Count")},
            "CacheStorageAlarm": {of_cache("BytesUsedForCache")},
            "CacheThroughputAlarm": {of_cache("ElastiCacheProcessingUnits")},
            "CacheThrottlesAlarm": {of_cache("ThrottledCmds")},
        }
        for alarm, metric in (("FunctionErrorsAlarm", "Errors"), ("ThrottlesAlarm", "Throttles")):
            expected[alarm] = {of_function(metric, function) for function in FUNCTIONS}
        for function in FUNCTIONS:
            (version,) = (
                name for name in self.stack.of_type("AWS::Lambda::Version") if name.startswith(function.resource)
            )
            # Lambda counts per version only what arrives through an alias, so both dimensions are needed.
            of_alias = {"Resource": f"${{{function.resource}}}:live", "ExecutedVersion": f"${{{version}.Version}}"}
            expected[function.new_version_alarm] = {of_function("Errors", function, **of_alias)}
        watched = {name: metrics_of(alarm).values() for name, alarm in self.alarms.items()}
        watched = {name: used for name, used in watched.items() if any(key[0].startswith("AWS/") for key, _ in used)}
        self.assertEqual({name: {key for key, _ in used} for name, used in watched.items()}, expected)
        for name, used in watched.items():
            # What is stored is a level; everything else is counted.
            self.assertEqual({stat for _, stat in used}, {"Maximum" if name == "CacheStorageAlarm" else "Sum"}, name)
        self.assertEqual(self.stack.properties("Api")["Name"], "chat")

    def test_each_series_of_an_alarm_is_in_its_expression(self) -> None:
        for name, alarm in self.alarms.items():
            if "Metrics" in alarm:
                (expression,) = (metric["Expression"] for metric in alarm["Metrics"] if metric["ReturnData"])
                used = set(re.findall(r"[a-z]\w*", expression))
                self.assertEqual(used, set(metrics_of(alarm)), name)

    def test_values_of_dimensions_are_spelled_as_in_the_code(self) -> None:
        for name, start in SPELLED_AT.items():
            (_, *found) = CODE.split(start)
            self.assertEqual(len(found), 1, f"{start} must occur once")
            words = re.findall(r'=> "(\w+)"', found[0].split("match self {")[1].split("\n        }\n")[0])
            # `internal` is a defect of the service, and `turn_lost` a process that died, not an error of the model.
            self.assertEqual(set(words) - {"internal", "turn_lost"}, VALUES[name], name)

    def test_alarms_use_values_that_exist(self) -> None:
        for alarm in self.alarms.values():
            for (space, metric, dimensions), _ in metrics_of(alarm).values():
                if not space.startswith("AWS/"):
                    self.assertEqual(space, "Space", metric)
                    for name, value in dimensions:
                        self.assertIn(value, VALUES[name], f"{metric} never has {name} {value}")


class Dashboard(unittest.TestCase):
    def setUp(self) -> None:
        self.stack = Effective({**CACHE, "StageName": "stage", "MetricsNamespace": "Space/one"})
        self.body = json.loads(self.stack.properties("Dashboard")["DashboardBody"])
        self.shown = dashboard(self.stack.properties("Dashboard")["DashboardBody"])

    def searches_for(self, one: Series) -> int:
        return sum(isinstance(shown, Search) and shown.finds(one) for shown in self.shown)

    def test_every_series_with_dimensions_is_shown_once(self) -> None:
        every = [
            of_function(metric, one) for metric in ("Errors", "Throttles", "ConcurrentExecutions") for one in FUNCTIONS
        ]
        for metric, names in (
            ("short_memory_operations_total", ("operation", "status")),
            ("short_memory_latency_seconds", ("operation",)),
            ("commits_total", ("result",)),
            ("upstream_errors_total", ("code",)),
        ):
            for values in itertools.product(*(VALUES[name] for name in names)):
                every.append(series("Space/one", metric, dict(zip(names, values))))
        for one in every:
            self.assertEqual(self.searches_for(one), 1, one)
        for metric in ("Count", "4XXError", "5XXError"):
            self.assertEqual(self.shown.count(of_stage(metric)), 1, metric)
        for metric in ("BytesUsedForCache", "ElastiCacheProcessingUnits", "ThrottledCmds"):
            self.assertEqual(self.shown.count(of_cache(metric)), 1, metric)

    def test_nothing_of_another_stack_is_shown(self) -> None:
        for other in (
            series("Space/two", "commits_total", {"result": "saved"}),
            series("AWS/Lambda", "Errors", {"FunctionName": "${ChatStreamFunction}2"}),
            series(
                "AWS/Lambda",
                "Errors",
                {"FunctionName": "${ChatStreamFunction}", "Resource": "${ChatStreamFunction}:live"},
            ),
        ):
            self.assertEqual(self.searches_for(other), 0, other)
        spaces = {shown.namespace if isinstance(shown, Search) else shown[0] for shown in self.shown}
        self.assertEqual(spaces, {"Space/one", "AWS/Lambda", "AWS/ApiGateway", "AWS/ElastiCache"})

    def test_without_a_cache_it_shows_none(self) -> None:
        body = Effective({"MetricsNamespace": "Space/one"}).properties("Dashboard")["DashboardBody"]
        self.assertNotIn("Cache", body)
        self.assertEqual(len(json.loads(body)["widgets"]), len(self.body["widgets"]) - 3)

    def test_each_series_found_by_a_search_has_a_label_of_its_own(self) -> None:
        for widget in self.body["widgets"]:
            for entry in widget["properties"].get("metrics", []):
                if isinstance(entry[0], dict):
                    search = Search.parse(entry[0]["expression"])
                    label = " ".join(f"${{PROP('Dim.{name}')}}" for name in sorted(search.dimensions))
                    names = [
                        value for condition in search.conditions for key, value in condition if key == "MetricName"
                    ]
                    self.assertIn(entry[0]["label"], [label, label + " ${PROP('MetricName')}"])
                    self.assertTrue(len(names) == 1 or "MetricName" in entry[0]["label"])

    def test_all_graphs_are_of_minutes_in_the_stacks_region(self) -> None:
        for widget in self.body["widgets"]:
            if widget["type"] == "metric":
                settings = widget["properties"]
                self.assertEqual(
                    (settings["region"], settings["view"], settings["period"]), ("eu-west-1", "timeSeries", 60)
                )

    def test_it_begins_with_all_alarms_that_do_not_belong_to_a_deployment(self) -> None:
        (alarms,) = (widget["properties"]["alarms"] for widget in self.body["widgets"] if widget["type"] == "alarm")
        names = self.stack.of_type("AWS::CloudWatch::Alarm")
        self.assertCountEqual(alarms, [f"${{{name}.Arn}}" for name in names if "NewVersion" not in name])


class Runbook(unittest.TestCase):
    """Each alarm that notifies somebody, against the table of docs/operate.md that says what to do then."""

    rows: list[tuple[str, str]]
    alarms: dict[str, dict]
    TOPIC = "arn:aws:sns:eu-west-1:111122223333:alarms"

    @classmethod
    def setUpClass(cls) -> None:
        text = (ROOT / "docs/operate.md").read_text(encoding="utf-8").split("\n### Alarms\n")[1].split("\n### ")[0]
        # The name and the severity: "| `memory-down` critical, 1 min |".
        cls.rows = re.findall(r"^\| `([a-z-]+…?)`(?: (critical|warning),[^|]*)? \|", text, re.MULTILINE)
        cls.alarms = Effective({**CACHE, "AlarmTopicArn": cls.TOPIC}).of_type("AWS::CloudWatch::Alarm")

    def test_every_alarm_has_its_row_and_every_row_its_alarm(self) -> None:
        expected = [("new-version-…", "")]
        new_versions = []
        for alarm in self.alarms.values():
            name = alarm["AlarmName"].removeprefix("chat-")
            if name.startswith("new-version-"):
                new_versions.append(name.removeprefix("new-version-"))
                self.assertTrue(alarm["AlarmDescription"].endswith("Runbook: roll back"), name)
                continue
            severity = alarm["AlarmDescription"].split(":")[0]
            self.assertTrue(alarm["AlarmDescription"].endswith(f". Runbook: {name}"), name)
            expected.append((name, severity))
        self.assertCountEqual(self.rows, expected)
        self.assertCountEqual(new_versions, [function.name for function in FUNCTIONS])

    def test_every_alarm_notifies_the_topic_when_it_starts_and_when_it_ends(self) -> None:
        self.assertEqual(len(self.alarms), 12 + len(FUNCTIONS))
        without_topic = Effective(CACHE).of_type("AWS::CloudWatch::Alarm")
        without_cache = Effective().of_type("AWS::CloudWatch::Alarm")
        self.assertEqual(len(without_cache), 9 + len(FUNCTIONS))
        for name, alarm in self.alarms.items():
            self.assertEqual(alarm["AlarmActions"], [self.TOPIC], name)
            # The alarm on a new version ends with the deployment that it rolled back.
            self.assertEqual(alarm.get("OKActions", []), [] if "NewVersion" in name else [self.TOPIC], name)
            self.assertIsNot(alarm.get("ActionsEnabled"), False, name)
            self.assertEqual(without_topic[name]["AlarmActions"], [], name)


if __name__ == "__main__":
    unittest.main()
