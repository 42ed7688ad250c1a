r"""Make the report of a study from its folder alone, at any time; or compare two studies.

No data, model or cluster is needed, and the study may still run or have been interrupted: the
report then says what is missing. A study is named by its id below --root, or by its folder.

    python jobs/report.py default-20260301-090000
    python jobs/report.py runs/ours --target 0.4 0.5     # labels that these mIoU cost, by method
    python jobs/report.py ours --output /tmp/report      # elsewhere than in the study's folder
    python jobs/report.py ours ours-vit-b                # paired differences of two studies

It writes
    report/index.html           everything on one page that needs no network
    report/figures/*.png *.svg  its figures
    report/tables/*.parquet     scores, comparisons, curves and trials, for analysis elsewhere
and prints the tables. Two studies become one page, report/compare-<second>.html in the first one's
folder, and need the same data and test images; differences are of the same method, K and draw.
Exit codes: 0 done, 2 a mistake in the command, or studies that cannot be compared.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from rich.console import Console

from ssprompt_core.errors import UserError


def main(arguments: list[str]) -> int:
    """Run the job; return the exit code."""
    given = vars(_parser().parse_args(arguments))
    # here, since --help and mistakes in the words need none of it
    from ssprompt_platform.report.reporting import ReportOptions, make_report

    options = ReportOptions(**given)
    try:
        make_report(options, Console())
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; the same command makes the report anew", file=sys.stderr)
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("study", metavar="STUDY", help="id of a study, or its folder")
    add("second", metavar="SECOND", nargs="?", help="another study to compare with")
    add("--root", default="runs", help="storage root of the studies (default: runs)")
    add(
        "--target",
        nargs="+",
        type=float,
        default=[],
        metavar="MIOU",
        help="mIoU between 0 and 1: how many labels a class it takes, by each method's curve",
    )
    add("--output", type=Path, metavar="DIR", help="write the report here")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
