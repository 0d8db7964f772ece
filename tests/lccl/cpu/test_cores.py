"""How many processors there are: those that can be seen, within the quotas of cgroup v1 and v2."""

from __future__ import annotations

import os

import pytest

from lccl.engines.cpu.cores import find_cores, usable_cores

V2 = "30 23 0:26 {root} {mount} rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n"
V1 = "31 23 0:27 {root} {mount} rw - cgroup cgroup rw,cpu,cpuacct\n"


@pytest.fixture
def many(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)


def machine(folder, groups, mounts, files):
    """A process's folder in /proc, whose mounts lie in this folder too."""
    process = folder / "proc"
    process.mkdir()
    (process / "cgroup").write_text(groups)
    (process / "mountinfo").write_text("22 1 8:1 / / rw - ext4 /dev/sda rw\n" + mounts)
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return process


def v2(folder, files, groups="0::/\n", root="/"):
    return machine(folder, groups, V2.format(root=root, mount=folder), files)


def v1(folder, files, groups="4:cpu,cpuacct:/\n0::/\n", root="/"):
    return machine(folder, groups, V1.format(root=root, mount=folder), files)


def test_those_that_this_process_may_use(monkeypatch, tmp_path):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3, 5, 6}, raising=False)
    assert find_cores(tmp_path).count == 3
    assert usable_cores() <= 3


def test_those_of_the_machine_where_that_is_not_known(monkeypatch, tmp_path):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 7)
    assert find_cores(tmp_path).count == 7
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert find_cores(tmp_path).count == 1


@pytest.mark.usefixtures("many")
@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("50000 100000\n", 1), ("100000 100000\n", 1), ("150000 100000\n", 2), ("200001 100000\n", 3),
        ("max 100000\n", 8), ("1600000 100000\n", 8), ("1 1000000\n", 1), ("", 8), ("nonsense\n", 8), ("1 0\n", 8),
    ],
)  # fmt: skip
def test_a_quota_of_version_2(tmp_path, text, count):
    assert find_cores(v2(tmp_path, {"cpu.max": text})).count == count


@pytest.mark.usefixtures("many")
@pytest.mark.parametrize(("quota", "count"), [("50000", 1), ("250000", 3), ("-1", 8), ("900000", 8)])
def test_a_quota_of_version_1(tmp_path, quota, count):
    files = {"cpu.cfs_quota_us": f"{quota}\n", "cpu.cfs_period_us": "100000\n"}
    assert find_cores(v1(tmp_path, files)).count == count


@pytest.mark.usefixtures("many")
def test_the_smallest_quota_on_the_way_up_counts(tmp_path):
    files = {"pod/cpu.max": "300000 100000", "pod/one/cpu.max": "max 100000", "pod/other/cpu.max": "1000 100000"}
    found = find_cores(v2(tmp_path, files, "0::/pod/one\n"))
    assert found.count == 3
    assert found.source == f"8 processors can be seen, and {tmp_path}/pod/cpu.max allows 3 of them"


@pytest.mark.usefixtures("many")
def test_a_container_sees_its_own_group_as_the_root_of_the_mount(tmp_path):
    files = {"cpu.cfs_quota_us": "200000", "cpu.cfs_period_us": "100000"}
    assert find_cores(v1(tmp_path, files, "4:cpu,cpuacct:/docker/abc\n", "/docker/abc")).count == 2


@pytest.mark.usefixtures("many")
@pytest.mark.parametrize("path", ["/../..", "/elsewhere/../..", "/missing/here"])
def test_a_group_that_is_not_seen_here_leaves_the_mounts_root(tmp_path, path):
    assert find_cores(v2(tmp_path, {"cpu.max": "400000 100000"}, f"0::{path}\n")).count == 4


@pytest.mark.usefixtures("many")
def test_hierarchies_without_cpu_quotas_are_left_out(tmp_path):
    process = machine(
        tmp_path, "5:memory:/\n4:cpu:/\n", f"31 23 0:27 / {tmp_path} rw - cgroup cgroup rw,memory\n",
        {"cpu.cfs_quota_us": "100000", "cpu.cfs_period_us": "100000"},
    )  # fmt: skip
    assert find_cores(process).count == 8


@pytest.mark.usefixtures("many")
def test_both_versions_side_by_side(tmp_path):
    mounts = V1.format(root="/", mount=tmp_path / "cpu") + V2.format(root="/", mount=tmp_path / "unified")
    files = {"cpu/a/cpu.cfs_quota_us": "500000", "cpu/a/cpu.cfs_period_us": "100000", "unified/b/cpu.max": "7 1"}
    assert find_cores(machine(tmp_path, "4:cpu,cpuacct:/a\n0::/b\n", mounts, files)).count == 5
