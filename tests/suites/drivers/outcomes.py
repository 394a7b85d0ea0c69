"""Runs a database driver's own tests with pytest and prints a JSON line for each: what it is called, how it ended.

    python outcomes.py FOLDER [pytest's arguments...]
"""

import json
import os
import sys

import pytest


class Outcomes:
    """A test has failed if any part of it has: its preparation, itself, what comes after it."""

    def __init__(self):
        self.worst = {}

    def pytest_runtest_logreport(self, report):
        rank = {"passed": 0, "skipped": 1, "failed": 2}
        before = self.worst.get(report.nodeid, "passed")
        self.worst[report.nodeid] = max(before, report.outcome, key=rank.get)
        if report.when == "teardown":
            print(json.dumps({"test": report.nodeid, "outcome": self.worst[report.nodeid]}), flush=True)
        if report.failed:
            print(report.nodeid, report.longreprtext[-3000:], sep="\n", file=sys.stderr)


os.chdir(sys.argv[1])
sys.path.insert(0, os.getcwd())
quiet = ["-p", "no:cacheprovider", "-p", "no:terminal", "-p", "no:schemathesis", "--benchmark-disable"]
ended = pytest.main(quiet + sys.argv[2:], plugins=[Outcomes()])
# That tests failed is for whoever compares; that there were none, or that pytest broke, is not.
sys.exit(0 if ended in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED) else int(ended))
