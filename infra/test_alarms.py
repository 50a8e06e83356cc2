"""Each alarm, evaluated on metrics that the real functions printed.

It must be silent in the healthy run and on in the run that it is meant for. A run lasts seconds; the tests treat it as
what every minute looks like."""

from __future__ import annotations

import subprocess
import unittest

from cloudwatch import Minute, Search, dashboard, fires, metrics_of, minute_of, point, series
from effective import ROOT, VPC, Effective

from functions import FUNCTIONS

RUNS = ("healthy", "failing", "timeouts", "slow", "upstream", "commits")

# The alarms that each run must set off. Others may be on too: a Redis that is down also stores nothing.
FIRING = {
    "failing": {"MemoryDownAlarm", "CommitFailuresAlarm"},
    "timeouts": {"ReadTimeoutsAlarm"},
    "slow": {"SlowReadsAlarm", "FirstDeltaAlarm"},
    "upstream": {"UpstreamErrorsAlarm"},
    "commits": {"CommitFailuresAlarm"},
}
# The alarms that must stay silent in a run, because something else is wrong there.
SILENT = {
    "failing": {"ReadTimeoutsAlarm", "UpstreamErrorsAlarm"},
    "timeouts": {"MemoryDownAlarm", "UpstreamErrorsAlarm"},
    "slow": {"ReadTimeoutsAlarm", "MemoryDownAlarm", "UpstreamErrorsAlarm", "CommitFailuresAlarm"},
    "upstream": {"ReadTimeoutsAlarm", "MemoryDownAlarm", "SlowReadsAlarm", "FirstDeltaAlarm", "CommitFailuresAlarm"},
    "commits": {"ReadTimeoutsAlarm", "MemoryDownAlarm", "SlowReadsAlarm", "FirstDeltaAlarm", "UpstreamErrorsAlarm"},
}
# The dimensions of AWS's own metrics, from its documentation.
AWS_METRICS = {
    ("AWS/Lambda", "Errors", frozenset({"FunctionName"})),
    ("AWS/Lambda", "Errors", frozenset({"FunctionName", "Resource", "ExecutedVersion"})),
    ("AWS/Lambda", "Throttles", frozenset({"FunctionName"})),
    ("AWS/Lambda", "ConcurrentExecutions", frozenset({"FunctionName"})),
    ("AWS/ApiGateway", "Count", frozenset({"ApiName", "Stage"})),
    ("AWS/ApiGateway", "4XXError", frozenset({"ApiName", "Stage"})),
    ("AWS/ApiGateway", "5XXError", frozenset({"ApiName", "Stage"})),
    # Of a serverless cache: not the CacheClusterId of a node.
    ("AWS/ElastiCache", "BytesUsedForCache", frozenset({"clusterId"})),
    ("AWS/ElastiCache", "ElastiCacheProcessingUnits", frozenset({"clusterId"})),
    ("AWS/ElastiCache", "ThrottledCmds", frozenset({"clusterId"})),
}


def printed(run: str) -> list[str]:
    # Selected together with the workspace, the example shares its dependencies with the tests.
    build = [
        "cargo",
        "build",
        "--quiet",
        "--locked",
        "--target-dir",
        "target",
        "--workspace",
        "--example",
        "metric_events",
    ]
    subprocess.run(build, cwd=ROOT, check=True, timeout=1200)
    example = [str(ROOT / "target/debug/examples/metric_events"), run]
    return subprocess.run(
        example, cwd=ROOT, check=True, capture_output=True, text=True, timeout=1200
    ).stdout.splitlines()


class Alarms(unittest.TestCase):
    runs: dict[str, Minute]
    stack: Effective
    alarms: dict[str, dict]
    # The alarms on the service's own metrics.
    own: dict[str, dict]

    @classmethod
    def setUpClass(cls) -> None:
        cls.runs = {run: minute_of(printed(run)) for run in RUNS}
        cls.stack = Effective({**VPC, "CreateCache": "true", "CacheMaxGigabytes": 10, "CacheMaxEcpuPerSecond": 2000})
        cls.alarms = cls.stack.of_type("AWS::CloudWatch::Alarm")
        cls.own = {
            name: alarm
            for name, alarm in cls.alarms.items()
            if any(key[0] == "CompanionChat" for key, _ in metrics_of(alarm).values())
        }

    def test_every_run_printed_metrics(self) -> None:
        for run in RUNS:
            self.assertGreater(len(self.runs[run]), 5, run)

    def test_every_alarm_on_the_services_metrics_has_a_run_in_which_it_fires(self) -> None:
        self.assertEqual(set(self.own), set().union(*FIRING.values()))

    def test_all_are_silent_in_the_healthy_run_and_without_requests(self) -> None:
        for name, alarm in self.alarms.items():
            self.assertFalse(fires(alarm, [self.runs["healthy"]] * 10), name)
            self.assertFalse(fires(alarm, [{}] * 10), name)

    def test_each_fires_in_its_run_after_its_minutes_and_not_before(self) -> None:
        for run, names in FIRING.items():
            for name in names:
                alarm = self.alarms[name]
                minutes = int(alarm["DatapointsToAlarm"])
                healthy, bad = self.runs["healthy"], self.runs[run]
                self.assertFalse(fires(alarm, [healthy] * 10 + [bad] * (minutes - 1)), f"{name} {run}")
                self.assertTrue(fires(alarm, [healthy] * 10 + [bad] * minutes), f"{name} {run}: {point(alarm, bad)}")

    def test_each_fires_while_the_metrics_of_the_last_minute_are_delayed(self) -> None:
        for run, names in FIRING.items():
            for name in names:
                alarm = self.alarms[name]
                minutes = int(alarm["DatapointsToAlarm"])
                self.assertTrue(
                    fires(alarm, [self.runs["healthy"]] * 10 + [self.runs[run]] * minutes + [{}]), f"{name} {run}"
                )
        for name, alarm in self.alarms.items():
            filled = any("FILL" in metric.get("Expression", "") for metric in alarm.get("Metrics", []))
            if filled:
                self.assertGreater(alarm["EvaluationPeriods"], alarm["DatapointsToAlarm"], name)

    def test_each_is_silent_when_something_else_is_wrong(self) -> None:
        for run, names in SILENT.items():
            for name in names:
                alarm = self.alarms[name]
                self.assertFalse(fires(alarm, [self.runs[run]] * 10), f"{name} {run}: {point(alarm, self.runs[run])}")

    def test_the_three_alarms_on_redis_have_the_agreed_rules(self) -> None:
        expected = {
            "ReadTimeoutsAlarm": ("GreaterThanThreshold", 5, 3, "warning"),
            "MemoryDownAlarm": ("GreaterThanOrEqualToThreshold", 1, 1, "critical"),
            "SlowReadsAlarm": ("GreaterThanThreshold", 0.5, 5, "warning"),
        }
        for name, (operator, threshold, minutes, severity) in expected.items():
            alarm = self.alarms[name]
            self.assertEqual(alarm["ComparisonOperator"], operator)
            self.assertEqual(
                (alarm["Threshold"], alarm["DatapointsToAlarm"], alarm["EvaluationPeriods"]),
                (threshold, minutes, minutes + 1),
            )
            self.assertTrue(alarm["AlarmDescription"].startswith(severity + ":"), name)

    def test_more_than_one_read_in_twenty_must_time_out(self) -> None:
        def reads(success: int, timeout: int) -> Minute:
            def key(status: str) -> tuple:
                return series("CompanionChat", "short_memory_operations_total", {"operation": "load", "status": status})

            return {key("success"): [1.0] * success, key("timeout"): [1.0] * timeout}

        alarm = self.alarms["ReadTimeoutsAlarm"]
        self.assertFalse(fires(alarm, [reads(95, 5)] * 3))
        self.assertTrue(fires(alarm, [reads(94, 6)] * 3))
        self.assertFalse(fires(alarm, [reads(94, 6), reads(95, 5), reads(94, 6)]))

    def test_alarms_on_metrics_of_aws_fire_on_a_single_event(self) -> None:
        for name, metric, value in (
            ("FunctionErrorsAlarm", "Errors", 1),
            ("ThrottlesAlarm", "Throttles", 1),
            *((function.new_version_alarm, "Errors", 1) for function in FUNCTIONS),
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

    def test_alarms_on_the_cache_fire_when_four_fifths_of_a_limit_are_used_and_when_it_refuses(self) -> None:
        for name, id, silent, firing in (
            ("CacheStorageAlarm", "used", 8e9, 8.1e9),
            ("CacheThroughputAlarm", "units", 0.8 * 2000 * 60, 0.81 * 2000 * 60),
            ("CacheThrottlesAlarm", "throttled", 0, 1),
        ):
            alarm = self.alarms[name]
            key, _ = metrics_of(alarm)[id]
            self.assertEqual(dict(key[2]), {"clusterId": "${Cache}"})
            minutes = int(alarm["DatapointsToAlarm"])
            self.assertFalse(fires(alarm, [{key: [silent]}] * 10), name)
            self.assertFalse(fires(alarm, [{key: [silent]}] * 10 + [{key: [firing]}] * (minutes - 1)), name)
            self.assertTrue(fires(alarm, [{key: [silent]}] * 10 + [{key: [firing]}] * minutes + [{}]), name)

    def test_alarms_and_dashboard_use_metrics_that_exist(self) -> None:
        printed_series = [key for run in self.runs.values() for key in run]
        existing = {
            (space, name, frozenset(dict(dimensions))) for space, name, dimensions in printed_series
        } | AWS_METRICS
        used = [key for alarm in self.alarms.values() for key, _ in metrics_of(alarm).values()]
        self.assertGreater(len(used), 30)
        shown = dashboard(self.stack.properties("Dashboard")["DashboardBody"])
        self.assertGreater(len(shown), 20)
        for one in used + shown:
            if not isinstance(one, Search):
                space, name, dimensions = one
                self.assertIn((space, name, frozenset(dict(dimensions))), existing)
            elif one.namespace.startswith("AWS/"):
                names = {value for condition in one.conditions for key, value in condition if key == "MetricName"}
                self.assertLessEqual({(one.namespace, name, one.dimensions) for name in names}, AWS_METRICS)
            else:
                self.assertTrue(any(map(one.finds, printed_series)), one)


if __name__ == "__main__":
    unittest.main()
