"""Policy, quotas and workspaces through the real command line and daemon."""

import json
import subprocess
import sys
from urllib.error import HTTPError

import pytest

from tests.e2e.yard import LiveYard


def test_a_policy_that_was_set_is_there_after_a_restart(tmp_path):
    file = tmp_path / "ours.toml"
    file.write_text('name = "ours"\npatience = "3h"\n[[class]]\npurpose = "test"\npriority = 7\n')
    with LiveYard(tmp_path / "state") as yard:
        assert yard.cli("policy", "show", "--json")["name"] == "madang"
        assert yard.cli("policy", "set", str(file), "--json")["name"] == "ours"
    with LiveYard(tmp_path / "state") as yard:
        view = yard.cli("policy", "show", "--json")

    assert (view["name"], view["policy"]["patience"]) == ("ours", "3h")
    assert {each["priority"] for each in view["classes"] if each["purpose"] == "test"} == {7}


def test_quotas_and_workspaces_are_set_shown_and_taken_away(tmp_path):
    with LiveYard(tmp_path / "state") as yard:
        yard.cli("workspace", "set", "lab", "--json")
        yard.cli("project", "set", "vision", "--workspace", "lab", "--json")
        yard.cli("quota", "set", "project:vision", "--limit", "2", "--weight", "3", "--json")
        yard.cli("quota", "set", "project:vision", "--guaranteed", "1", "--json")
        (quota,) = yard.cli("quota", "ls", "--json")["quotas"]
        workspaces = yard.cli("workspace", "ls", "--json")["workspaces"]
        with pytest.raises(HTTPError) as refused:
            yard.ask("PUT", "/v1/quotas", {"owner": "project:vision", "guaranteed_gpus": 10**6})
        problem = json.loads(refused.value.read())
        yard.cli("quota", "rm", "project:vision", "--json")
        left = yard.cli("quota", "ls", "--json")["quotas"]

    assert (quota["limit_gpus"], quota["weight"], quota["guaranteed_gpus"]) == (2, 3, 1)
    assert {"id": "lab", "projects": ["vision"], "held_gpus": 0} in workspaces
    assert (refused.value.code, problem["code"]) == (409, "conflict")
    assert "would be guaranteed" in problem["detail"]
    assert left == []


def test_a_broken_policy_file_is_told_before_anything_starts(tmp_path):
    file = tmp_path / "broken.toml"
    file.write_text("patiense = '3h'\n")
    words = [sys.executable, "-m", "madang", "policy", "check", str(file)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)

    assert done.returncode == 2
    assert "patiense: there is no such key" in done.stderr
