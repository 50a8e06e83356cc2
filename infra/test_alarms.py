"""Each alarm over metrics that the real functions printed: silent in the healthy run, firing in the run that it is for.

A run takes seconds. It is taken to be what every minute looks like."""

import itertools
import json
import re
import subprocess
import unittest
from typing import Dict, List, Tuple

from cloudwatch import Minute, Series, evaluate, fires, metrics_of, minute_of, point, series, statistic
from effective import ROOT, Effective

RUNS = ("healthy", "failing", "timeouts", "slow", "upstream", "commits")

# Which alarms each run is for. Others may be on too: a Redis that is down also stores nothing.
FIRING = {
    "failing": {"MemoryDownAlarm", "CommitFailuresAlarm"},
    "timeouts": {"ReadTimeoutsAlarm"},
    "slow": {"SlowReadsAlarm", "FirstDeltaAlarm"},
    "upstream": {"UpstreamErrorsAlarm"},
    "commits": {"CommitFailuresAlarm"},
}
# The rest of the truth: what must stay silent where only something else is wrong.
SILENT = {
    "failing": {"ReadTimeoutsAlarm", "UpstreamErrorsAlarm"},
    "timeouts": {"MemoryDownAlarm", "UpstreamErrorsAlarm"},
    "slow": {"ReadTimeoutsAlarm", "MemoryDownAlarm", "UpstreamErrorsAlarm", "CommitFailuresAlarm"},
    "upstream": {"ReadTimeoutsAlarm", "MemoryDownAlarm", "SlowReadsAlarm", "FirstDeltaAlarm", "CommitFailuresAlarm"},
    "commits": {"ReadTimeoutsAlarm", "MemoryDownAlarm", "SlowReadsAlarm", "FirstDeltaAlarm", "UpstreamErrorsAlarm"},
}
# Metrics of AWS itself, as its documentation lists them.
AWS_METRICS = {
    ("AWS/Lambda", "Errors", frozenset({"FunctionName"})),
    ("AWS/Lambda", "Errors", frozenset({"FunctionName", "Resource", "ExecutedVersion"})),
    ("AWS/Lambda", "Throttles", frozenset({"FunctionName"})),
    ("AWS/Lambda", "ConcurrentExecutions", frozenset({"FunctionName"})),
    ("AWS/ApiGateway", "Count", frozenset({"ApiName", "Stage"})),
    ("AWS/ApiGateway", "4XXError", frozenset({"ApiName", "Stage"})),
    ("AWS/ApiGateway", "5XXError", frozenset({"ApiName", "Stage"})),
}


# The functions, by the names that alarms over all of them have for each.
FUNCTIONS = {"chat": "ChatStreamFunction", "clear": "ClearHistoryFunction", "session": "SessionMetaFunction"}
# Every value that a dimension of the service's own metrics can have, of those that alarms and dashboard ask for.
VALUES = {
    "operation": {"load", "commit", "clear", "session", "set_state", "character"},
    "status": {"success", "failure", "timeout"},
    "result": {"saved", "duplicate", "fenced", "failed"},
    "reason": {"timeout", "connection", "refused", "breaker_open", "not_replicated", "unexpected_answer"},
    "code": {"upstream_unavailable", "upstream_timeout", "upstream_rejected", "upstream_interrupted"},
}


def dashboard(stack: Effective) -> List[Series]:
    body = json.loads(stack.properties("Dashboard")["DashboardBody"])
    return [
        series(space, name, dict(zip(pairs[::2], pairs[1::2])))
        for widget in body["widgets"] if widget["type"] == "metric"
        for space, name, *pairs, _ in widget["properties"]["metrics"]
    ]


def printed(run: str) -> List[str]:
    # Selected together with the workspace, the example shares its dependencies with the tests.
    build = ["cargo", "build", "--quiet", "--locked", "--target-dir", "target", "--workspace", "--example", "metric_events"]
    subprocess.run(build, cwd=ROOT, check=True, timeout=1200)
    example = [str(ROOT / "target/debug/examples/metric_events"), run]
    return subprocess.run(example, cwd=ROOT, check=True, capture_output=True, text=True, timeout=1200).stdout.splitlines()


class Alarms(unittest.TestCase):
    runs: Dict[str, Minute]

    @classmethod
    def setUpClass(cls) -> None:
        cls.runs = {run: minute_of(printed(run)) for run in RUNS}
        cls.stack = Effective()
        cls.alarms = cls.stack.of_type("AWS::CloudWatch::Alarm")
        cls.own = {
            name: alarm
            for name, alarm in cls.alarms.items()
            if any(key[0] == "CompanionChat" for key, _ in metrics_of(alarm).values())
        }

    def test_every_run_printed_something(self) -> None:
        for run in RUNS:
            self.assertGreater(len(self.runs[run]), 5, run)

    def test_every_alarm_on_the_services_metrics_has_a_run_that_it_fires_in(self) -> None:
        self.assertEqual(set(self.own), set().union(*FIRING.values()))

    def test_all_are_silent_in_the_healthy_run_and_without_requests(self) -> None:
        for name, alarm in self.alarms.items():
            self.assertFalse(fires(alarm, [self.runs["healthy"]] * 10), name)
            self.assertFalse(fires(alarm, [{}] * 10), name)

    def test_each_fires_in_its_run_when_its_minutes_have_passed_and_not_before(self) -> None:
        for run, names in FIRING.items():
            for name in names:
                alarm = self.alarms[name]
                minutes = int(alarm["DatapointsToAlarm"])
                healthy, bad = self.runs["healthy"], self.runs[run]
                self.assertFalse(fires(alarm, [healthy] * 10 + [bad] * (minutes - 1)), f"{name} {run}")
                self.assertTrue(fires(alarm, [healthy] * 10 + [bad] * minutes), f"{name} {run}: {point(alarm, bad)}")

    def test_each_fires_while_the_metrics_of_the_last_minute_are_on_their_way(self) -> None:
        for run, names in FIRING.items():
            for name in names:
                alarm = self.alarms[name]
                minutes = int(alarm["DatapointsToAlarm"])
                self.assertTrue(fires(alarm, [self.runs["healthy"]] * 10 + [self.runs[run]] * minutes + [{}]), f"{name} {run}")
        for name, alarm in self.alarms.items():
            filled = any("FILL" in metric.get("Expression", "") for metric in alarm.get("Metrics", []))
            if filled:
                self.assertGreater(alarm["EvaluationPeriods"], alarm["DatapointsToAlarm"], name)

    def test_each_is_silent_where_something_else_is_wrong(self) -> None:
        for run, names in SILENT.items():
            for name in names:
                alarm = self.alarms[name]
                self.assertFalse(fires(alarm, [self.runs[run]] * 10), f"{name} {run}: {point(alarm, self.runs[run])}")

    def test_the_three_rules_of_the_service_are_as_they_were_written(self) -> None:
        expected = {
            "ReadTimeoutsAlarm": ("GreaterThanThreshold", 5, 3, "warning"),
            "MemoryDownAlarm": ("GreaterThanOrEqualToThreshold", 1, 1, "critical"),
            "SlowReadsAlarm": ("GreaterThanThreshold", 0.5, 5, "warning"),
        }
        for name, (operator, threshold, minutes, severity) in expected.items():
            alarm = self.alarms[name]
            self.assertEqual(alarm["ComparisonOperator"], operator)
            self.assertEqual(
                (alarm["Threshold"], alarm["DatapointsToAlarm"], alarm["EvaluationPeriods"]), (threshold, minutes, minutes + 1)
            )
            self.assertTrue(alarm["AlarmDescription"].startswith(severity + ":"), name)

    def test_a_read_in_twenty_is_the_limit_of_timeouts(self) -> None:
        def reads(success: int, timeout: int) -> Minute:
            def key(status: str) -> tuple:
                return series("CompanionChat", "short_memory_operations_total", {"operation": "load", "status": status})
            return {key("success"): [1.0] * success, key("timeout"): [1.0] * timeout}

        alarm = self.alarms["ReadTimeoutsAlarm"]
        self.assertFalse(fires(alarm, [reads(95, 5)] * 3))
        self.assertTrue(fires(alarm, [reads(94, 6)] * 3))
        self.assertFalse(fires(alarm, [reads(94, 6), reads(95, 5), reads(94, 6)]))

    def test_alarms_on_metrics_of_aws_fire_on_what_they_count(self) -> None:
        for name, metric, value in (
            ("FunctionErrorsAlarm", "Errors", 1),
            ("ThrottlesAlarm", "Throttles", 1),
            ("ChatStreamNewVersionAlarm", "Errors", 1),
            ("ClearHistoryNewVersionAlarm", "Errors", 1),
            ("SessionMetaNewVersionAlarm", "Errors", 1),
        ):
            alarm = self.alarms[name]
            for key, _ in metrics_of(alarm).values():
                self.assertEqual(key[1], metric)
                self.assertTrue(fires(alarm, [{key: [value]}] * 3), f"{name} {key}")
                self.assertFalse(fires(alarm, [{key: [0]}] * 3), f"{name} {key}")
        alarm = self.alarms["GatewayErrorsAlarm"]
        errors, requests = (metrics_of(alarm)[name][0] for name in ("errors", "requests"))
        self.assertFalse(fires(alarm, [{errors: [1.0] * 5, requests: [1.0] * 100}] * 3))
        self.assertTrue(fires(alarm, [{errors: [1.0] * 6, requests: [1.0] * 100}] * 3))

    def test_alarms_and_dashboard_look_at_metrics_that_exist(self) -> None:
        existing = {(space, name, frozenset(dict(dimensions))) for run in self.runs.values() for space, name, dimensions in run}
        existing |= AWS_METRICS
        looked_at = [key for alarm in self.alarms.values() for key, _ in metrics_of(alarm).values()]
        looked_at += dashboard(self.stack)
        self.assertGreater(len(looked_at), 60)
        for space, name, dimensions in looked_at:
            self.assertIn((space, name, frozenset(dict(dimensions))), existing)


class Watched(unittest.TestCase):
    """The series of alarms and dashboard by name: a wrong one is silent for ever. Needs no functions."""

    def setUp(self) -> None:
        self.stack = Effective({"StageName": "stage", "MetricsNamespace": "Space"})
        self.alarms = self.stack.of_type("AWS::CloudWatch::Alarm")

    def test_alarms_on_metrics_of_aws_watch_all_functions_and_the_stage(self) -> None:
        def of_function(metric: str, function: str, **more: str) -> Tuple[Series, str]:
            return series("AWS/Lambda", metric, {"FunctionName": "${%s}" % function, **more}), "Sum"

        def of_stage(metric: str) -> Tuple[Series, str]:
            return series("AWS/ApiGateway", metric, {"ApiName": "chat", "Stage": "stage"}), "Sum"

        expected = {"GatewayErrorsAlarm": {"errors": of_stage("5XXError"), "requests": of_stage("Count")}}
        for alarm, metric in (("FunctionErrorsAlarm", "Errors"), ("ThrottlesAlarm", "Throttles")):
            expected[alarm] = {name: of_function(metric, function) for name, function in FUNCTIONS.items()}
        for function in FUNCTIONS.values():
            (version,) = (name for name in self.stack.of_type("AWS::Lambda::Version") if name.startswith(function))
            # Lambda counts by version only what came by an alias, so both are named.
            of_alias = {"Resource": "${%s}:live" % function, "ExecutedVersion": "${%s.Version}" % version}
            expected[function.removesuffix("Function") + "NewVersionAlarm"] = {"m": of_function("Errors", function, **of_alias)}
        watched = {
            name: metrics_of(alarm)
            for name, alarm in self.alarms.items()
            if any(key[0].startswith("AWS/") for key, _ in metrics_of(alarm).values())
        }
        self.assertEqual(watched, expected)
        self.assertEqual(self.stack.properties("Api")["Name"], "chat")
        self.assertEqual(set(self.stack.of_type("AWS::Lambda::Function")), set(FUNCTIONS.values()))
        for function in FUNCTIONS.values():
            self.assertEqual(self.stack.properties(function + "Aliaslive")["Name"], "live")

    def test_values_of_dimensions_are_words_that_the_code_has_for_them(self) -> None:
        for name, (path, start) in {
            "operation": ("telemetry/figures.rs", "impl Operation {"),
            "status": ("telemetry/figures.rs", "impl Status {"),
            "result": ("telemetry/figures.rs", "impl CommitResult {"),
            "reason": ("memory.rs", "pub fn reason(&self)"),
            "code": ("chat.rs", "impl FailureCode {"),
        }.items():
            text = (ROOT / "shared/src" / path).read_text(encoding="utf-8").split(start)[1]
            words = re.findall(r'=> "(\w+)"', text.split("match self {")[1].split("\n        }\n")[0])
            # A defect of the service is not an error of the model.
            self.assertEqual(set(words) - {"internal"}, VALUES[name], name)

    def test_alarms_and_dashboard_ask_for_values_that_there_are(self) -> None:
        looked_at = [key for alarm in self.alarms.values() for key, _ in metrics_of(alarm).values()] + dashboard(self.stack)
        for space, metric, dimensions in looked_at:
            if space.startswith("AWS/"):
                continue
            self.assertEqual(space, "Space", metric)
            for name, value in dimensions:
                self.assertIn(value, VALUES[name], f"{metric} never has {name} {value}")

    def test_the_dashboard_leaves_no_value_out(self) -> None:
        shown = dashboard(self.stack)
        for metric, names in (
            ("short_memory_operations_total", ("operation", "status")),
            ("short_memory_latency_seconds", ("operation",)),
            ("commits_total", ("result",)),
            ("upstream_errors_total", ("code",)),
        ):
            every = {frozenset(zip(names, values)) for values in itertools.product(*(VALUES[name] for name in names))}
            self.assertEqual({dimensions for space, name, dimensions in shown if name == metric and dimensions}, every)
        for metric in ("Errors", "Throttles", "ConcurrentExecutions"):
            every = {frozenset({("FunctionName", "${%s}" % function)}) for function in FUNCTIONS.values()}
            self.assertEqual({dimensions for space, name, dimensions in shown if name == metric}, every)
        for metric in ("Count", "4XXError", "5XXError"):
            self.assertIn(series("AWS/ApiGateway", metric, {"ApiName": "chat", "Stage": "stage"}), shown)

    def test_the_dashboard_begins_with_all_alarms_that_do_not_belong_to_a_deployment(self) -> None:
        body = json.loads(self.stack.properties("Dashboard")["DashboardBody"])
        (alarms,) = (widget["properties"]["alarms"] for widget in body["widgets"] if widget["type"] == "alarm")
        self.assertCountEqual(alarms, ["${%s.Arn}" % name for name in self.alarms if "NewVersion" not in name])


class MetricMath(unittest.TestCase):
    def test_missing_is_neither_zero_nor_false(self) -> None:
        self.assertIsNone(evaluate("a + 1", {"a": None}))
        self.assertIsNone(evaluate("IF(a > 0, 1, 2)", {"a": None}))
        self.assertEqual(evaluate("FILL(a, 0) + 1", {"a": None}), 1)
        self.assertIsNone(evaluate("1 / a", {"a": 0.0}))
        self.assertEqual(evaluate("IF(a > 0, 1 / a, 0)", {"a": 0.0}), 0)
        self.assertEqual(evaluate("MAX([a, b])", {"a": None, "b": 2.0}), 2)

    def test_percentiles_are_of_values_and_nothing_has_no_statistic(self) -> None:
        self.assertEqual(statistic([float(n) for n in range(1, 101)], "p99"), 99)
        self.assertEqual(statistic([3.0], "p95"), 3)
        self.assertIsNone(statistic([], "Sum"))

    def test_only_the_exact_set_of_dimensions_is_a_series(self) -> None:
        line = {
            "_aws": {"CloudWatchMetrics": [{"Namespace": "N", "Dimensions": [["a", "b"], []], "Metrics": [{"Name": "m"}]}]},
            "a": "1", "b": "2", "m": [1, 2],
        }
        minute = minute_of([json.dumps(line)])
        self.assertEqual(minute, {series("N", "m", {"a": "1", "b": "2"}): [1, 2], series("N", "m", {}): [1, 2]})


if __name__ == "__main__":
    unittest.main()
