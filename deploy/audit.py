"""Known vulnerabilities in what .venv holds: pip-audit, from an environment of its own, with OSV's advisories.

``make check`` runs it. A vulnerability that is found fails; where the advisories cannot be reached, that is said and
nothing fails. Arguments go to pip-audit (``make audit AUDIT="--ignore-vuln ID"``); OSV_URL names a mirror of OSV.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import urllib.request
import venv
from pathlib import Path

OSV_URL = os.environ.get("OSV_URL", "https://api.osv.dev/v1/query")
KNOWN = {"package": {"name": "jinja2", "ecosystem": "PyPI"}, "version": "2.10"}  # has advisories
HOME = Path(__file__).parents[1] / "build" / "audit"
TOOL = "pip-audit>=2.9"


def why_not() -> str:
    """Why there are no advisories; empty when there are."""
    question = urllib.request.Request(OSV_URL, json.dumps(KNOWN).encode(), {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(question, timeout=10) as answer:
            return "" if json.load(answer).get("vulns") else "it has no advisory where there is one"
    except (OSError, ValueError) as error:
        return str(error)


def tool() -> str:
    """The path of pip-audit, installed where it is not part of what it looks at."""
    programs = HOME / ("Scripts" if sys.platform == "win32" else "bin")
    if not (programs / "pip-audit").exists():
        venv.create(HOME, with_pip=True)
        subprocess.run([programs / "python", "-m", "pip", "install", "--quiet", TOOL], check=True)
    return str(programs / "pip-audit")


def main() -> int:
    reason = why_not()
    if reason:
        print(f"audit: SKIPPED, dependencies were not looked up: {OSV_URL}: {reason}")
        return 0
    packages = sysconfig.get_path("purelib")
    asked = ["--vulnerability-service", "osv", "--osv-url", OSV_URL, "--path", packages, "--skip-editable"]
    return subprocess.run([tool(), *asked, "--progress-spinner", "off", *sys.argv[1:]], check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
