"""CloudWatch, as far as the alarms and the dashboard of the template use it.

That is: embedded metrics with exact sets of dimensions, the statistics of a minute, metric math in which a missing
value is neither zero nor false, alarms over the last minutes, and search expressions. Anything else is an
AssertionError."""

from __future__ import annotations

import ast
import json
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

# Namespace, metric name, dimensions.
Series = tuple[str, str, frozenset[tuple[str, str]]]
# The values of every series in one minute.
Minute = dict[Series, list[float]]


def series(namespace: str, name: str, dimensions: dict[str, str]) -> Series:
    return namespace, name, frozenset(dimensions.items())


def minute_of(lines: Iterable[str]) -> Minute:
    """Returns the values of every series in lines of the embedded metric format."""
    minute: Minute = {}
    for line in lines:
        event = json.loads(line)
        for directive in event["_aws"]["CloudWatchMetrics"]:
            for names in directive["Dimensions"]:
                dimensions = {name: event[name] for name in names}
                for metric in directive["Metrics"]:
                    value = event[metric["Name"]]
                    key = series(directive["Namespace"], metric["Name"], dimensions)
                    minute.setdefault(key, []).extend(value if isinstance(value, list) else [value])
    return minute


def statistic(values: list[float] | None, name: str) -> float | None:
    if not values:
        return None
    if name == "Sum":
        return math.fsum(values)
    if name == "Maximum":
        return max(values)
    if name in ("p95", "p99"):
        rank = math.ceil(len(values) * int(name[1:]) / 100)
        return sorted(values)[rank - 1]
    raise AssertionError(f"not a statistic that is known here: {name}")


def evaluate(expression: str, values: dict[str, float | None]) -> float | None:
    """Returns one point of a metric math expression. A missing operand makes the result missing."""
    return _value(ast.parse(expression, mode="eval").body, values)


def _value(node: ast.AST, values: dict[str, float | None]) -> float | None:
    if isinstance(node, ast.Constant):
        return float(node.value)
    if isinstance(node, ast.Name):
        return values[node.id]
    if isinstance(node, ast.Call):
        return _call(node.func.id, node.args, values)
    if isinstance(node, ast.BinOp):
        left, right = _value(node.left, values), _value(node.right, values)
        if left is None or right is None:
            return None
        if isinstance(node.op, ast.Div):
            return left / right if right else None
        return {ast.Add: left + right, ast.Sub: left - right, ast.Mult: left * right}[type(node.op)]
    if isinstance(node, ast.Compare) and len(node.ops) == 1:
        left, right = _value(node.left, values), _value(node.comparators[0], values)
        if left is None or right is None:
            return None
        return float({ast.Gt: left > right, ast.GtE: left >= right, ast.Lt: left < right}[type(node.ops[0])])
    raise AssertionError(f"not metric math that is known here: {ast.dump(node)}")


def _call(function: str, arguments: list, values: dict[str, float | None]) -> float | None:
    if function == "FILL":
        found, instead = (_value(one, values) for one in arguments)
        return instead if found is None else found
    if function == "IF":
        condition, then, otherwise = (_value(one, values) for one in arguments)
        if condition is None:
            return None
        return then if condition else otherwise
    if function == "MAX":
        found = [value for value in (_value(one, values) for one in arguments[0].elts) if value is not None]
        return max(found) if found else None
    raise AssertionError(f"not a function that is known here: {function}")


def metrics_of(alarm: dict[str, Any]) -> dict[str, tuple[Series, str]]:
    """Returns the series that an alarm watches and their statistics, by the alarm's ids. Every period is a minute."""

    def one(metric: dict[str, Any]) -> Series:
        dimensions = {dimension["Name"]: dimension["Value"] for dimension in metric.get("Dimensions", [])}
        return series(metric["Namespace"], metric["MetricName"], dimensions)

    if "Metrics" not in alarm:
        assert int(alarm["Period"]) == 60
        return {"m": (one(alarm), alarm["Statistic"])}
    found = {}
    for metric in alarm["Metrics"]:
        if "MetricStat" in metric:
            assert int(metric["MetricStat"]["Period"]) == 60
            assert metric["ReturnData"] is False
            found[metric["Id"]] = (one(metric["MetricStat"]["Metric"]), metric["MetricStat"]["Stat"])
    return found


def point(alarm: dict[str, Any], minute: Minute) -> float | None:
    """Returns the value that an alarm compares with its threshold, for one minute."""
    values = {name: statistic(minute.get(key), stat) for name, (key, stat) in metrics_of(alarm).items()}
    if "Metrics" not in alarm:
        return values["m"]
    returned = [metric["Expression"] for metric in alarm["Metrics"] if metric["ReturnData"]]
    assert len(returned) == 1, "an alarm watches one expression"
    return evaluate(returned[0], values)


def fires(alarm: dict[str, Any], minutes: list[Minute]) -> bool:
    """Returns whether an alarm is on after these minutes, with no data before them."""
    assert alarm["TreatMissingData"] == "notBreaching"
    threshold = float(alarm["Threshold"])
    periods = int(alarm["EvaluationPeriods"])
    breaching = 0
    for minute in minutes[-periods:]:
        value = point(alarm, minute)
        if value is None:
            continue
        breaching += {
            "GreaterThanThreshold": value > threshold,
            "GreaterThanOrEqualToThreshold": value >= threshold,
        }[alarm["ComparisonOperator"]]
    return breaching >= int(alarm.get("DatapointsToAlarm", periods))


@dataclass(frozen=True)
class Search:
    """A search expression of a dashboard: a namespace, the names of all dimensions, and conditions on exact values."""

    namespace: str
    dimensions: frozenset[str]
    # All must hold; of one, any alternative (a name and a value).
    conditions: tuple[tuple[tuple[str, str], ...], ...]
    statistic: str

    @classmethod
    def parse(cls, expression: str) -> Search:
        found = re.fullmatch(r"SEARCH\('\{([^{}]+)\} (.+)', '(\w+)'\)", expression)
        assert found, f"not a search expression that is known here: {expression}"
        schema = [cls._name(name) for name in found[1].split(",")]
        term, conditions = found[2], []
        while term:
            one = re.match(r'(?:\(([^()]+)\)|([\w]+="[^"]+"))(?: |$)', term)
            assert one, f"not a search term that is known here: {term}"
            alternatives = [re.fullmatch(r'(\w+)="([^"]+)"', each) for each in (one[1] or one[2]).split(" OR ")]
            assert all(alternatives), f"not a search term that is known here: {term}"
            conditions.append(tuple((each[1], each[2]) for each in alternatives))
            term = term[one.end() :]
        return cls(schema[0], frozenset(schema[1:]), tuple(conditions), found[3])

    @staticmethod
    def _name(text: str) -> str:
        """A name with anything but letters and digits must be quoted; AWS's own namespaces need not be."""
        assert re.fullmatch(r'"[^"]+"|\w+|AWS/\w+', text), f"a name that must be quoted: {text}"
        return text.strip('"')

    def finds(self, one: Series) -> bool:
        namespace, name, dimensions = one
        values = {"MetricName": name, **dict(dimensions)}
        return (
            namespace == self.namespace
            and {dimension for dimension, _ in dimensions} == self.dimensions
            and all(any(values.get(key) == value for key, value in alternatives) for alternatives in self.conditions)
        )


def dashboard(body: str) -> list[Series | Search]:
    """Returns what the metric widgets of a dashboard show."""
    shown: list[Series | Search] = []
    for widget in json.loads(body)["widgets"]:
        for entry in widget["properties"].get("metrics", []):
            if isinstance(entry[0], dict):
                shown.append(Search.parse(entry[0]["expression"]))
            else:
                namespace, name, *pairs, _ = entry
                shown.append(series(namespace, name, dict(zip(pairs[::2], pairs[1::2]))))
    return shown
