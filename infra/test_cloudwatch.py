"""The stand-in for CloudWatch that the other tests rely on."""

from __future__ import annotations

import json
import unittest

from cloudwatch import Search, evaluate, minute_of, series, statistic


class MetricMath(unittest.TestCase):
    def test_a_missing_value_is_neither_zero_nor_false(self) -> None:
        self.assertIsNone(evaluate("a + 1", {"a": None}))
        self.assertIsNone(evaluate("IF(a > 0, 1, 2)", {"a": None}))
        self.assertEqual(evaluate("FILL(a, 0) + 1", {"a": None}), 1)
        self.assertIsNone(evaluate("1 / a", {"a": 0.0}))
        self.assertEqual(evaluate("IF(a > 0, 1 / a, 0)", {"a": 0.0}), 0)
        self.assertEqual(evaluate("MAX([a, b])", {"a": None, "b": 2.0}), 2)

    def test_percentiles_are_of_values_and_no_values_have_no_statistic(self) -> None:
        self.assertEqual(statistic([float(n) for n in range(1, 101)], "p99"), 99)
        self.assertEqual(statistic([3.0], "p95"), 3)
        self.assertIsNone(statistic([], "Sum"))

    def test_only_the_exact_set_of_dimensions_is_a_series(self) -> None:
        line = {
            "_aws": {
                "CloudWatchMetrics": [{"Namespace": "N", "Dimensions": [["a", "b"], []], "Metrics": [{"Name": "m"}]}]
            },
            "a": "1",
            "b": "2",
            "m": [1, 2],
        }
        minute = minute_of([json.dumps(line)])
        self.assertEqual(minute, {series("N", "m", {"a": "1", "b": "2"}): [1, 2], series("N", "m", {}): [1, 2]})


class Searches(unittest.TestCase):
    def test_a_search_finds_the_exact_dimensions_and_values(self) -> None:
        search = Search.parse("""SEARCH('{"N/x",a} (MetricName="m" OR MetricName="n") (a="1" OR a="2")', 'Sum')""")
        self.assertEqual(search.statistic, "Sum")
        for name, value in (("m", "1"), ("n", "2")):
            self.assertTrue(search.finds(series("N/x", name, {"a": value})))
        for other in (
            series("N/y", "m", {"a": "1"}),
            series("N/x", "o", {"a": "1"}),
            series("N/x", "m", {"a": "3"}),
            series("N/x", "m", {}),
            series("N/x", "m", {"a": "1", "b": "1"}),
        ):
            self.assertFalse(search.finds(other), other)

    def test_a_search_that_cloudwatch_might_read_otherwise_is_refused(self) -> None:
        for expression in (
            """SEARCH('{N/x,a} MetricName="m"', 'Sum')""",
            """SEARCH('{N,a} MetricName=m', 'Sum')""",
            """SEARCH('{N,a} m', 'Sum')""",
            """SEARCH('{N,a} MetricName="m" OR a="1"', 'Sum')""",
            """SEARCH('MetricName="m"', 'Sum')""",
            """SUM(SEARCH('{N,a} MetricName="m"', 'Sum'))""",
        ):
            with self.assertRaises(AssertionError, msg=expression):
                Search.parse(expression)


if __name__ == "__main__":
    unittest.main()
