"""Writes deploy/kubernetes from the chart: what `helm template` gives, a file a template.

    python -m tools.manifests            write them
    python -m tools.manifests --check    say which differ; the exit status is 1 if one does

Promises: nothing in deploy/kubernetes is written by hand, so that who has no Helm gets the same
objects. Needs a real helm (tools/kubernetes.sh's sibling, tools/helm.sh, takes one).
"""

import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

TOP = Path(__file__).parent.parent
CHART = TOP / "deploy" / "helm" / "madang"
FOLDER = TOP / "deploy" / "kubernetes"
NAMESPACE = "madang"
SOURCE = re.compile(r"^---\n# Source: madang/templates/(\S+)\n", re.MULTILINE)
HEAD = "# Written from deploy/helm/madang by `python -m tools.manifests`; change it there.\n"

# folder of deploy/kubernetes → the values that differ from the chart's own
KINDS: Mapping[str, Sequence[str]] = {
    "postgres": (),
    "sqlite": ("replicas=1", "database.secretName=", "state.volume.enabled=true"),
}
NAMESPACE_TEXT = f"""\
{HEAD}# Agents share their node's network and process table: no namespace for other people's pods.
apiVersion: v1
kind: Namespace
metadata:
  name: {NAMESPACE}
  labels:
    pod-security.kubernetes.io/enforce: privileged
"""


def main(words: Sequence[str] = ()) -> int:
    """Write, or with --check compare."""
    differ = []
    for path, text in all_files(helm()):
        if "--check" not in words:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        elif not path.exists() or path.read_text() != text:
            differ.append(path)
    for path in [*differ, *unknown_files()]:
        print(f"{path.relative_to(TOP)} is not what the chart gives: python -m tools.manifests")
    return 1 if differ or unknown_files() else 0


def helm() -> str:
    """The path of a real helm; nothing is fetched.

    Raises:
        SystemExit: there is none.
    """
    script = TOP / "tools" / "helm.sh"
    found = subprocess.run(["sh", script, "--lacks"], capture_output=True, text=True, check=False)
    if found.returncode != 0:
        raise SystemExit(found.stderr.strip())
    return found.stdout.strip()


def rendered(program: str, sets: Sequence[str], version: str = "1.37.0", file: str = "") -> str:
    """What `helm template` prints for a server of this version.

    Raises:
        subprocess.CalledProcessError: the chart refuses these values; stderr says why.
    """
    words = [program, "template", "madang", str(CHART), "--namespace", NAMESPACE]
    words += ["--kube-version", version, *(["--values", file] if file else [])]
    for one in sets:
        words += ["--set", one]
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout


def all_files(program: str) -> Iterator[tuple[Path, str]]:
    """Every file of deploy/kubernetes and its text."""
    for kind, sets in KINDS.items():
        yield FOLDER / kind / "00-namespace.yaml", NAMESPACE_TEXT
        texts: dict[str, str] = {}
        pieces = SOURCE.split(rendered(program, [*sets, "helmLabels=false"]))
        assert not pieces[0].strip(), pieces[0]
        for name, text in zip(pieces[1::2], pieces[2::2], strict=True):
            begun = f"{texts[name]}---\n" if name in texts else HEAD
            texts[name] = begun + text.rstrip() + "\n"
        for name, text in texts.items():
            yield FOLDER / kind / name, text


def unknown_files() -> list[Path]:
    """Files that no template gives any more."""
    known = {path for path, _ in all_files(helm())}
    return sorted(set(FOLDER.rglob("*.yaml")) - known)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
