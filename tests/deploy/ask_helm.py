"""Run by the checkers' Python: answers one question about a chart with Helm's own library, as JSON.

usage: ask_helm.py render|lint|package CHART <values.json
"""

import json
import sys

import helm_python as helm


def main() -> int:
    """Returns 1 with Helm's words when it refuses."""
    question, folder = sys.argv[1:]
    values = json.load(sys.stdin)
    try:
        if question == "lint":
            answer = helm.lint(folder, values=values)
        elif question == "package":
            answer = helm.package(folder, destination=values["destination"])
        else:
            with helm.Chart.load(folder) as chart:
                chart.validate_schema(values)
                answer = chart.render(values, name="demo", namespace="prod")
    except helm.HelmError as error:
        print(error, file=sys.stderr)  # noqa: T201  # the answer to the test that asks
        return 1
    json.dump(answer, sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main())
