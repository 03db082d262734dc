"""
``python -m benchmarks [--only NAME] [--json] [--quick]``
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence

from benchmarks.harness import QUICK, Scale
from benchmarks.table import NAMES, run


def main(arguments: Sequence[str] | None = None) -> int:
    """
    Run the benchmarks and print their figures. The exit status says only whether they ran.
    """
    options = _parser().parse_args(arguments)
    figures = {}
    if not options.json:
        print(_LINE.format("benchmark", "value", "baseline", "ratio", "goal", "met"))
    for name in options.only or NAMES:
        figures[name] = run(name, QUICK if options.quick else Scale())
        if not options.json:
            print(_row(name, figures[name]), flush=True)
    if options.json:
        print(json.dumps(figures, indent=2))
    return 0


_LINE = "{:<18} {:>24}  {:<44} {:>7}  {:<44} {}"


def _row(name: str, figure: dict) -> str:
    if "skipped" in figure:
        return f"{name:<18} {'skipped':>24}  {figure['skipped']}"
    value = f"{figure['value']:g} {figure['unit']}"
    baseline = f"{figure['baseline_value']:g}: {figure['baseline']}"
    return _LINE.format(
        name, value[:24], baseline[:44], f"{figure['ratio']:.3f}", figure["goal"][:44], "yes" if figure["met"] else "no"
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m benchmarks", description="Measure the package beside its baselines.")
    parser.add_argument("--only", action="append", choices=NAMES, metavar="NAME", help=f"one of: {', '.join(NAMES)}")
    parser.add_argument("--json", action="store_true", help="print one JSON object {name: {value, unit, …}}")
    parser.add_argument("--quick", action="store_true", help="a few calls only: shows that it runs, not how fast")
    return parser


if __name__ == "__main__":
    sys.exit(main())
