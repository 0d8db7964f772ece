"""What the two distributions declare, and that the locked environment is theirs; `make check-wheel` builds a wheel."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
SERVER, CLIENT = (tomllib.loads((ROOT / f"{folder}pyproject.toml").read_text()) for folder in ("", "client/"))
BUILD = SERVER["tool"]["scikit-build"]
LOCK = (ROOT / "requirements.lock").read_text()
PINS = [line.rstrip(" \\") for line in LOCK.splitlines() if re.match(r"\w", line)]
FREE = set(SERVER["tool"]["uv"]["exclude-dependencies"])


def locked():
    """Every version of a package that the lock has, for one Python or another."""
    versions = {}
    for line in PINS:
        pin = Requirement(line)
        ((operator, version),) = ((one.operator, one.version) for one in pin.specifier)
        assert operator == "=="
        versions.setdefault(canonicalize_name(pin.name), []).append(version)
    return versions


def wanted():
    extras = SERVER["project"]["optional-dependencies"]
    yield from SERVER["project"]["dependencies"]
    yield from (one for extra in ("service", "test", "tracing") for one in extras[extra])
    yield from SERVER["dependency-groups"]["build"]
    yield from CLIENT["project"]["dependencies"] + CLIENT["project"]["optional-dependencies"]["bench"]


def test_a_wheel_has_no_package_named_service():
    """Another project on PyPI owns that name."""
    assert BUILD["wheel"]["packages"] == {"lccl": "lccl", "lccl/service": "service"}
    assert SERVER["project"]["scripts"]["lccl-serve"] == "lccl.service.__main__:main"
    assert CLIENT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"] == ["lccl_client"]


def test_the_service_is_installed_under_its_own_name():
    import lccl.service.errors

    import service.errors

    assert Path(lccl.service.errors.__file__).samefile(service.errors.__file__)


@pytest.mark.parametrize("line", sorted(set(wanted())))
def test_what_is_asked_for_is_locked(line):
    """Else `make lock UPDATE=` has to be run."""
    asked, versions = Requirement(line), locked()
    if asked.name in FREE:
        assert asked.name not in versions
    else:
        assert all(asked.specifier.contains(one) for one in versions[canonicalize_name(asked.name)])


def test_locked_files_have_hashes_and_come_from_any_index():
    assert all("--hash=sha256:" in part for part in re.split(r"^(?=\w)", LOCK, flags=re.MULTILINE)[1:])
    assert "://" not in LOCK
    assert not re.search(r"^-", LOCK, re.MULTILINE)


def test_both_build_requirements_are_locked():
    for project in (SERVER, CLIENT):
        assert set(project["build-system"]["requires"]) <= set(SERVER["dependency-groups"]["build"])
