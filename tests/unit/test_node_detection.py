"""What a node is found to have, and what said so: in trees of files that stand for the kernel's."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apicas._node.detection import Node, find_node
from apicas._node.inventory import Inventory
from apicas._node.requests import Request
from apicas._node.surroundings import Surroundings

M, G = 2**20, 2**30
V2 = "30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw\n"
V1 = (
    "31 23 0:27 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n"
    "32 23 0:28 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
)
MEMINFO = "MemTotal:       65536 kB\nMemFree:  1 kB\nMemAvailable:    32768 kB\n"


class Machine:
    """Files below a directory, and the answers of a system."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.cpus: Collection[int] = range(8)
        self.variables: dict[str, str] = {}
        (root / "tmp").mkdir()

    def write(self, path: str, text: str) -> None:
        file = self.root / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    def job(self, **variables: str) -> None:
        self.variables |= {"SLURM_JOB_ID": "7", **variables}

    def find(self, **given: int) -> Node:
        surroundings = Surroundings(
            variables=self.variables, root=self.root, affinity=lambda: self.cpus, free_bytes=lambda _: 5 * G
        )
        return find_node(surroundings, given)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def cores(node: Node) -> tuple[int, str]:
    return node.cores.count.value, node.cores.count.origin


def memory(node: Node) -> tuple[int, str]:
    return node.has["memory"].value, node.has["memory"].origin


# Cores. ---------------------------------------------------------------------------------------------------------------


def test_without_anything_else_the_affinity_counts(machine: Machine) -> None:
    machine.cpus = {3, 1, 7}
    node = machine.find()
    assert cores(node) == (3, "CPU affinity")
    assert node.cores.numbers == (1, 3, 7)
    assert node.cores.nodes == ((1, 3, 7),)
    assert node.warnings == ()


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"SLURM_CPUS_PER_TASK": "4", "SLURM_CPUS_ON_NODE": "6"}, (4, "$SLURM_CPUS_PER_TASK")),
        ({"SLURM_CPUS_ON_NODE": "6"}, (6, "$SLURM_CPUS_ON_NODE")),
        ({"SLURM_CPUS_ON_NODE": "128"}, (8, "CPU affinity")),
        ({"SLURM_JOB_CPUS_PER_NODE": "72(x2),5", "SLURM_NODEID": "2"}, (5, "$SLURM_JOB_CPUS_PER_NODE")),
        ({"SLURM_JOB_CPUS_PER_NODE": "3(x2),5", "SLURM_NODEID": "1"}, (3, "$SLURM_JOB_CPUS_PER_NODE")),
        ({"SLURM_JOB_CPUS_PER_NODE": "6,2", "SLURM_NODEID": "9"}, (2, "$SLURM_JOB_CPUS_PER_NODE")),
        ({"NCPUS": "2"}, (2, "$NCPUS")),
        ({"PBS_NUM_PPN": "3"}, (3, "$PBS_NUM_PPN")),
        ({"LSB_DJOB_NUMPROC": "4"}, (4, "$LSB_DJOB_NUMPROC")),
    ],
)
def test_the_least_of_what_a_batch_system_says_counts(
    machine: Machine, variables: dict[str, str], expected: tuple[int, str]
) -> None:
    machine.job(**variables)
    assert cores(machine.find()) == expected


def test_variables_of_a_batch_system_count_in_a_batch_job_only(machine: Machine) -> None:
    machine.variables = {"NCPUS": "2", "SLURM_CPUS_PER_TASK": "1"}
    assert cores(machine.find()) == (8, "CPU affinity")


@pytest.mark.parametrize("odd", ["many", "0", "-3", "1.5", "9" * 500])
def test_an_odd_value_is_a_warning(machine: Machine, odd: str) -> None:
    machine.job(SLURM_CPUS_PER_TASK=odd)
    node = machine.find()
    assert cores(node) == (8, "CPU affinity")
    assert [warning for warning in node.warnings if warning.startswith("$SLURM_CPUS_PER_TASK is not used: ")]


def test_a_quota_counts_wherever_on_the_way_up_it_is(machine: Machine) -> None:
    machine.write("/proc/self/cgroup", "0::/slurm/job_1/step_0\n")
    machine.write("/proc/self/mountinfo", V2)
    machine.write("/sys/fs/cgroup/slurm/job_1/step_0/cpu.max", "max 100000\n")
    machine.write("/sys/fs/cgroup/slurm/job_1/cpu.max", "250000 100000\n")
    machine.write("/sys/fs/cgroup/slurm/cpu.max", "600000 100000\n")
    assert cores(machine.find()) == (2, "control group, /sys/fs/cgroup/slurm/job_1/cpu.max")


def test_less_than_a_core_is_one(machine: Machine) -> None:
    machine.write("/proc/self/cgroup", "0::/\n")
    machine.write("/proc/self/mountinfo", V2)
    machine.write("/sys/fs/cgroup/cpu.max", "50000 100000")
    assert cores(machine.find())[0] == 1


def test_a_quota_of_version_1_counts_too(machine: Machine) -> None:
    machine.write("/proc/self/cgroup", "4:memory:/a\n3:cpu,cpuacct:/a/b\n0::/\n")
    machine.write("/proc/self/mountinfo", V1)
    machine.write("/sys/fs/cgroup/cpu,cpuacct/a/b/cpu.cfs_quota_us", "-1")
    machine.write("/sys/fs/cgroup/cpu,cpuacct/a/b/cpu.cfs_period_us", "100000")
    machine.write("/sys/fs/cgroup/cpu,cpuacct/a/cpu.cfs_quota_us", "300000")
    machine.write("/sys/fs/cgroup/cpu,cpuacct/a/cpu.cfs_period_us", "100000")
    assert cores(machine.find()) == (3, "control group, /sys/fs/cgroup/cpu,cpuacct/a/cpu.cfs_quota_us")


@pytest.mark.parametrize(
    ("group", "mounted"),
    [
        ("/docker/abc", "/docker/abc"),  # the mount shows this very group
        ("/docker/abc", "/"),  # a namespace: the group's path is not below the mount
        ("/../../host/abc", "/"),
    ],
)
def test_in_a_container_the_limits_are_where_the_mount_is(machine: Machine, group: str, mounted: str) -> None:
    machine.write("/proc/self/cgroup", f"0::{group}\n")
    machine.write("/proc/self/mountinfo", V2.replace(" / /sys", f" {mounted} /sys"))
    machine.write("/sys/fs/cgroup/cpu.max", "400000 100000")
    machine.write("/sys/fs/cgroup/memory.max", str(32 * M))
    machine.write("/proc/meminfo", MEMINFO)
    node = machine.find()
    assert cores(node) == (4, "control group, /sys/fs/cgroup/cpu.max")
    assert memory(node) == (32 * M, "control group, /sys/fs/cgroup/memory.max")


def test_odd_quotas_are_warnings(machine: Machine) -> None:
    machine.write("/proc/self/cgroup", "0::/\n")
    machine.write("/proc/self/mountinfo", V2)
    machine.write("/sys/fs/cgroup/cpu.max", "0 lots")
    machine.write("/sys/fs/cgroup/memory.max", "-17")
    assert [warning.partition(" is not used")[0] for warning in machine.find().warnings] == [
        "/sys/fs/cgroup/cpu.max",
        "/sys/fs/cgroup/memory.max",
    ]


def test_cores_are_grouped_by_numa_node(machine: Machine) -> None:
    machine.cpus = {0, 1, 4, 5, 9}
    machine.write("/sys/devices/system/node/node0/cpulist", "0-3\n")
    machine.write("/sys/devices/system/node/node1/cpulist", "4-7\n")
    machine.write("/sys/devices/system/node/node10/cpulist", "\n")
    machine.write("/sys/devices/system/node/online", "0-1\n")
    assert machine.find().cores.nodes == ((0, 1), (4, 5), (9,))


@pytest.mark.parametrize(
    ("online", "variables", "quota", "are_ours"),
    [
        ("0-7", {}, "max 100000", False),  # a whole node, which others may use as well
        ("0-15", {}, "max 100000", True),  # somebody chose these
        ("0-7", {"SLURM_CPUS_ON_NODE": "8"}, "max 100000", True),  # a whole node, and the job's
        ("0-15", {"SLURM_CPUS_PER_TASK": "4"}, "max 100000", False),  # four of eight: nobody says which
        ("0-15", {}, "200000 100000", False),
    ],
)
def test_cores_can_be_pinned_where_nobody_else_is_expected_on_them(
    machine: Machine, online: str, variables: dict[str, str], quota: str, *, are_ours: bool
) -> None:
    if variables:
        machine.job(**variables)
    machine.write("/sys/devices/system/cpu/online", online)
    machine.write("/proc/self/cgroup", "0::/\n")
    machine.write("/proc/self/mountinfo", V2)
    machine.write("/sys/fs/cgroup/cpu.max", quota)
    assert machine.find().cores.are_ours is are_ours


# Memory. --------------------------------------------------------------------------------------------------------------


def test_without_a_share_what_is_free_counts_and_in_a_job_all(machine: Machine) -> None:
    machine.write("/proc/meminfo", MEMINFO)
    assert memory(machine.find()) == (32 * M, "MemAvailable of /proc/meminfo")
    machine.job()
    assert memory(machine.find()) == (64 * M, "MemTotal of /proc/meminfo")


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"SLURM_MEM_PER_NODE": "16"}, (16 * M, "$SLURM_MEM_PER_NODE")),
        ({"SLURM_MEM_PER_NODE": "16M"}, (16 * M, "$SLURM_MEM_PER_NODE")),
        ({"SLURM_MEM_PER_NODE": "0"}, (64 * M, "MemTotal of /proc/meminfo")),
        ({"SLURM_MEM_PER_NODE": "9999"}, (64 * M, "MemTotal of /proc/meminfo")),
        ({"SLURM_MEM_PER_CPU": "3", "SLURM_CPUS_ON_NODE": "6"}, (18 * M, "$SLURM_MEM_PER_CPU x 6")),
        ({"SLURM_MEM_PER_CPU": "3"}, (24 * M, "$SLURM_MEM_PER_CPU x 8")),
        ({"SLURM_MEM_PER_GPU": "5", "CUDA_VISIBLE_DEVICES": "0,1"}, (10 * M, "$SLURM_MEM_PER_GPU x 2")),
    ],
)
def test_what_slurm_set_aside_counts(machine: Machine, variables: dict[str, str], expected: tuple[int, str]) -> None:
    machine.write("/proc/meminfo", MEMINFO)
    machine.job(**variables)
    assert memory(machine.find()) == expected


def test_the_least_limit_of_the_control_groups_counts(machine: Machine) -> None:
    machine.write("/proc/meminfo", MEMINFO)
    machine.write("/proc/self/cgroup", "0::/a/b\n")
    machine.write("/proc/self/mountinfo", V2)
    machine.write("/sys/fs/cgroup/a/b/memory.max", "max")
    machine.write("/sys/fs/cgroup/a/memory.max", str(40 * M))
    machine.write("/sys/fs/cgroup/a/memory.high", str(36 * M))
    assert memory(machine.find()) == (36 * M, "control group, /sys/fs/cgroup/a/memory.high")
    machine.job(SLURM_MEM_PER_NODE="35")
    assert memory(machine.find()) == (35 * M, "$SLURM_MEM_PER_NODE")


def test_no_limit_of_version_1_is_none(machine: Machine) -> None:
    machine.write("/proc/meminfo", MEMINFO)
    machine.write("/proc/self/cgroup", "4:memory:/a\n")
    machine.write("/proc/self/mountinfo", V1)
    machine.write("/sys/fs/cgroup/memory/a/memory.limit_in_bytes", "9223372036854771712")
    assert memory(machine.find()) == (32 * M, "MemAvailable of /proc/meminfo")
    machine.write("/sys/fs/cgroup/memory/memory.limit_in_bytes", str(8 * M))
    assert memory(machine.find()) == (8 * M, "control group, /sys/fs/cgroup/memory/memory.limit_in_bytes")


def test_a_system_that_tells_nothing_has_no_memory_to_pack_by(machine: Machine) -> None:
    assert "memory" not in machine.find().has


# GPUs. ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("variables", "names", "origin"),
    [
        ({"CUDA_VISIBLE_DEVICES": "0,2"}, ("0", "2"), "$CUDA_VISIBLE_DEVICES"),
        ({"CUDA_VISIBLE_DEVICES": " 1 , 0 "}, ("1", "0"), "$CUDA_VISIBLE_DEVICES"),
        ({"CUDA_VISIBLE_DEVICES": "GPU-89-7c,MIG-GPU-1/2/3"}, ("GPU-89-7c", "MIG-GPU-1/2/3"), "$CUDA_VISIBLE_DEVICES"),
        ({"CUDA_VISIBLE_DEVICES": "", "SLURM_JOB_GPUS": "0"}, (), "$CUDA_VISIBLE_DEVICES"),
        ({"CUDA_VISIBLE_DEVICES": "-1"}, (), "$CUDA_VISIBLE_DEVICES"),
        ({"CUDA_VISIBLE_DEVICES": "NoDevFiles"}, (), "$CUDA_VISIBLE_DEVICES"),
        ({"CUDA_VISIBLE_DEVICES": "0,-1,1"}, ("0",), "$CUDA_VISIBLE_DEVICES"),
        ({"ROCR_VISIBLE_DEVICES": "0,1"}, ("0", "1"), "$ROCR_VISIBLE_DEVICES"),
        ({"SLURM_STEP_GPUS": "2", "SLURM_JOB_GPUS": "2,3"}, ("2",), "$SLURM_STEP_GPUS"),
        ({"SLURM_JOB_GPUS": "0-2"}, ("0", "1", "2"), "$SLURM_JOB_GPUS"),
        ({}, (), "no driver"),
    ],
)  # fmt: skip
def test_gpus_are_those_that_are_visible(
    machine: Machine, variables: dict[str, str], names: tuple[str, ...], origin: str
) -> None:
    machine.job(**variables)
    node = machine.find()
    assert (node.gpus.names, node.gpus.origin) == (names, origin)
    assert node.has["gpus"].value == len(names)
    assert node.warnings == ()


@pytest.mark.parametrize(
    ("text", "names", "warning"),
    [("0,first,1", ("0",), "'first' is no GPU"), ("1,1,0", ("1", "0"), "'1' is there more than once")],
)
def test_an_odd_list_of_gpus_is_a_warning(machine: Machine, text: str, names: tuple[str, ...], warning: str) -> None:
    machine.variables["CUDA_VISIBLE_DEVICES"] = text
    node = machine.find()
    assert node.gpus.names == names
    assert warning in node.warnings[0]


def test_devices_are_counted_from_0_and_only_those_that_are_shown(machine: Machine) -> None:
    for name in ("nvidia2", "nvidia3", "nvidiactl", "nvidia-uvm"):
        machine.write(f"/dev/{name}", "")
    assert machine.find().gpus.names == ("0", "1")
    assert machine.find().gpus.origin == "/dev"
    machine.write("/proc/driver/nvidia/gpus/0000:07:00.0/information", "")
    assert machine.find().gpus.names == ("0",)
    assert machine.find().gpus.origin == "/proc/driver/nvidia/gpus"


def test_the_variable_that_shows_gpus_is_the_one_they_came_from(machine: Machine) -> None:
    machine.variables["ROCR_VISIBLE_DEVICES"] = "4"
    allocation = Inventory.of(machine.find()).take(Request(amounts=(("gpus", 1),)))
    assert allocation is not None
    assert allocation.variables()["ROCR_VISIBLE_DEVICES"] == "4"


# Scratch, and what the user gives. ------------------------------------------------------------------------------------


def test_the_first_directory_that_can_be_written_to_is_the_scratch(machine: Machine, tmp_path: Path) -> None:
    (tmp_path / "job").mkdir()
    (tmp_path / "file").write_text("")
    machine.variables = {"SLURM_TMPDIR": str(tmp_path / "none"), "TMPDIR": str(tmp_path / "job"), "TMP": "/"}
    node = machine.find()
    assert node.scratch is not None
    assert (node.scratch.directory.value, node.scratch.directory.origin) == (tmp_path / "job", "$TMPDIR")
    assert node.has["scratch"].value == 5 * G
    assert "$SLURM_TMPDIR is not used" in node.warnings[0]


def test_without_any_directory_there_is_no_scratch(machine: Machine) -> None:
    (machine.root / "tmp").rmdir()
    machine.variables = {"TMPDIR": "a\0b"}
    node = machine.find()
    assert node.scratch is None
    assert "scratch" not in node.has


def test_what_the_user_gives_holds_and_more_than_was_found_is_a_warning(machine: Machine) -> None:
    machine.write("/proc/meminfo", MEMINFO)
    node = machine.find(license=4, memory=M, cores=100)
    assert {name: found.value for name, found in node.has.items()} == {
        "cores": 100, "gpus": 0, "memory": M, "scratch": 5 * G, "license": 4,
    }  # fmt: skip
    assert node.has["license"].origin == "given"
    assert node.warnings == ("cores: 100 were given, and 8 found (CPU affinity)",)


def test_an_inventory_is_of_what_was_found(machine: Machine) -> None:
    machine.cpus = {2, 3}
    machine.write("/sys/devices/system/cpu/online", "0-7")
    inventory = Inventory.of(machine.find(license=1))
    assert dict(inventory.free) == {"cores": 2, "scratch": 5 * G, "license": 1}


def test_this_very_machine_is_looked_at() -> None:
    node = find_node()
    assert node.has["cores"].value >= 1
    assert all(found.origin for found in node.has.values())


ODD = st.text("0123456789,-(x)maG:/. \n\0é", max_size=20)


@given(st.dictionaries(st.sampled_from(["SLURM_CPUS_PER_TASK", "SLURM_JOB_CPUS_PER_NODE", "SLURM_NODEID",
    "SLURM_MEM_PER_NODE", "SLURM_MEM_PER_CPU", "CUDA_VISIBLE_DEVICES", "SLURM_JOB_GPUS", "NCPUS", "TMPDIR"]), ODD),
    st.dictionaries(st.sampled_from(["proc/self/cgroup", "proc/self/mountinfo", "proc/meminfo", "cpu.max", "memory.max",
        "sys/devices/system/node/node0/cpulist", "sys/devices/system/cpu/online"]), ODD))  # fmt: skip
def test_no_text_anywhere_is_more_than_a_warning(
    tmp_path_factory: pytest.TempPathFactory, variables: dict[str, str], files: dict[str, str]
) -> None:
    machine = Machine(tmp_path_factory.mktemp("machine"))
    machine.write("/proc/self/cgroup", "0::/\n")
    machine.write("/proc/self/mountinfo", V2.replace("/sys/fs/cgroup", "/"))
    for path, text in files.items():
        machine.write(path, text)
    machine.job(**variables)
    node = machine.find()
    assert all(found.value >= 0 for found in node.has.values())
    assert node.cores.count.value >= 1
