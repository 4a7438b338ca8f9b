"""The files of launch/: short, well-formed, and all starting the same command."""

import pathlib
import re
import shutil
import subprocess

import pytest
import yaml
from conftest import ROOT

LAUNCH = ROOT / "launch"
SCRIPTS = [*sorted(LAUNCH.glob("*.s*")), LAUNCH / "test" / "slurm.sh"]
KNOWN = {  # of jobset.x-k8s.io/v1alpha2, what each part may hold
    "spec": {"network", "failurePolicy", "successPolicy", "startupPolicy", "replicatedJobs",
             "suspend", "coordinator", "managedBy", "ttlSecondsAfterFinished"},
    "network": {"enableDNSHostnames", "subdomain", "publishNotReadyAddresses"},
    "failurePolicy": {"maxRestarts", "restartStrategy", "rules"},
    "rule": {"name", "action", "onJobFailureReasons", "targetReplicatedJobs"},
    "job": {"name", "groupName", "replicas", "template", "dependsOn"},
}  # fmt: skip


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_scripts(path: pathlib.Path):
    text = path.read_text()
    assert subprocess.run(["bash", "-n", path]).returncode == 0
    assert "set -euo pipefail" in text or path.suffix == ".sbatch"
    if path.parent == LAUNCH:
        assert len(text.splitlines()) <= 60 and re.search(r'jssl(}?")? train\b', text)
    if not shutil.which("shellcheck"):
        pytest.skip("no shellcheck here: only bash has read it")
    done = subprocess.run(["shellcheck", path], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_the_jobset():
    text = (LAUNCH / "kubernetes" / "jobset.yaml").read_text()
    found = yaml.safe_load(text)
    assert len(text.splitlines()) <= 60
    assert (found["apiVersion"], found["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    spec, (train,) = found["spec"], found["spec"]["replicatedJobs"]
    parts = {"spec": spec, "job": train} | {key: spec[key] for key in ("network", "failurePolicy")}
    (parts["rule"],) = spec["failurePolicy"]["rules"]
    for name, part in parts.items():
        assert part.keys() <= KNOWN[name], name
    job = train["template"]["spec"]
    (container,) = job["template"]["spec"]["containers"]
    environ = {one["name"]: one["value"] for one in container["env"]}
    hosts = int(environ["JAX_NUM_PROCESSES"])
    assert job["completionMode"] == "Indexed" and train["replicas"] == 1
    assert job["completions"] == job["parallelism"] == hosts
    host, port = environ["JAX_COORDINATOR_ADDRESS"].split(":")  # job-replica-pod.service
    assert host == f"{found['metadata']['name']}-{train['name']}-0-0.{found['metadata']['name']}"
    assert spec["network"]["enableDNSHostnames"] and "subdomain" not in spec["network"]
    assert container["ports"] == [{"containerPort": int(port)}]
    assert "exec jssl train" in container["command"][2]
    # Exit 2, wrong input, is not tried again; 75 and a lost node start all pods anew.
    (rule,) = job["podFailurePolicy"]["rules"]
    assert rule["action"] == "FailJob" and rule["onExitCodes"]["values"] == [2]
    assert parts["rule"]["action"] == "FailJobSet" and job["backoffLimit"] == 0
