"""What CloudWatch makes of embedded metrics, as far as the alarms of the template use it: exact sets of dimensions, statistics of a
minute, metric math in which missing is neither zero nor false, and alarms over the last minutes. It refuses what it does not know."""

import ast
import json
import math
from typing import Any, Dict, FrozenSet, Iterable, List, Optional, Tuple

Series = Tuple[str, str, FrozenSet[Tuple[str, str]]]
Minute = Dict[Series, List[float]]


def series(namespace: str, name: str, dimensions: Dict[str, str]) -> Series:
    return namespace, name, frozenset(dimensions.items())


def minute_of(lines: Iterable[str]) -> Minute:
    """The values of every series in lines of the embedded metric format."""
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


def statistic(values: Optional[List[float]], name: str) -> Optional[float]:
    if not values:
        return None
    if name == "Sum":
        return math.fsum(values)
    if name in ("p95", "p99"):
        rank = math.ceil(len(values) * int(name[1:]) / 100)
        return sorted(values)[rank - 1]
    raise AssertionError(f"not a statistic that is known here: {name}")


def evaluate(expression: str, values: Dict[str, Optional[float]]) -> Optional[float]:
    """One point of a metric math expression. A missing operand makes the result missing."""
    return _value(ast.parse(expression, mode="eval").body, values)


def _value(node: ast.AST, values: Dict[str, Optional[float]]) -> Optional[float]:
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


def _call(function: str, arguments: list, values: Dict[str, Optional[float]]) -> Optional[float]:
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


def metrics_of(alarm: Dict[str, Any]) -> Dict[str, Tuple[Series, str]]:
    """What an alarm looks at: its own names for series, and each one's statistic. Every period is a minute."""
    def one(metric: Dict[str, Any]) -> Series:
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


def point(alarm: Dict[str, Any], minute: Minute) -> Optional[float]:
    """What an alarm compares with its threshold, for one minute."""
    values = {name: statistic(minute.get(key), stat) for name, (key, stat) in metrics_of(alarm).items()}
    if "Metrics" not in alarm:
        return values["m"]
    returned = [metric["Expression"] for metric in alarm["Metrics"] if metric["ReturnData"]]
    assert len(returned) == 1, "an alarm watches one expression"
    return evaluate(returned[0], values)


def fires(alarm: Dict[str, Any], minutes: List[Minute]) -> bool:
    """Whether an alarm is on after these minutes; before them there was nothing."""
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
