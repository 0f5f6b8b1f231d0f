# Prints the folder of a kube-apiserver, kube-controller-manager, kube-scheduler, kubectl and etcd
# to test against. Looks for KUBEBUILDER_ASSETS first (setup-envtest's convention), then for what an
# earlier call built; else builds Kubernetes 1.20.2 from Debian's source package, which holds all it
# needs, in about five minutes on two cores. Needs root and Debian 12 or newer to build.
set -eu
if [ -n "${KUBEBUILDER_ASSETS:-}" ] && [ -x "$KUBEBUILDER_ASSETS/kube-apiserver" ]; then
  echo "$KUBEBUILDER_ASSETS"
  exit 0
fi
VERSION=1.20.2
PROGRAMS='kube-apiserver kube-controller-manager kube-scheduler kubectl'
CACHE=${XDG_CACHE_HOME:-$HOME/.cache}/madang/kubernetes-$VERSION
if [ -x "$CACHE/etcd" ] && [ -x "$CACHE/kubectl" ]; then
  echo "$CACHE"
  exit 0
fi
if [ "${1:-}" = --lacks ]; then
  echo 'no Kubernetes to test against: sh tools/kubernetes.sh builds it (about five minutes)' >&2
  exit 1
fi

exec 3>&1 1>&2 # the answer alone goes to standard output
WORK=$(mktemp -d)
trap 'rm -rf "$WORK"' EXIT
cd "$WORK"
echo "kubernetes: fetching the source package of $VERSION and Go"
mkdir -p lists/partial
# Debian's own entry, as a source of source packages, and nothing else of this machine's lists.
for file in /etc/apt/sources.list.d/debian.sources /etc/apt/sources.list; do
  [ -s "$file" ] && break
done
case $file in
  *.sources) sed 's/^Types:.*/Types: deb-src/' "$file" >source.sources ;;
  *) sed -n 's/^deb /deb-src /p' "$file" >source.list ;;
esac
APT="-o Dir::Etc::SourceList=$(ls "$WORK"/source.*) -o Dir::Etc::SourceParts=- \
  -o Dir::State::Lists=$WORK/lists -o APT::Sandbox::User=root"
apt-get -qq $APT update
apt-get -qq $APT source --download-only kubernetes >source.log
apt-get -qq update
DEBIAN_FRONTEND=noninteractive apt-get -qq install --yes --no-install-recommends \
  golang-1.19-go golang-github-modern-go-reflect2-dev etcd-server >install.log 2>&1 \
  || { tail -n 20 install.log; exit 1; }

export GOPATH="$WORK/go" GOCACHE="$WORK/cache" GOROOT=/usr/lib/go-1.19 GOFLAGS='' GO111MODULE=off
export CGO_ENABLED=0
GO=$GOROOT/bin/go
mkdir -p "$GOPATH/src/k8s.io/kubernetes"
cd "$GOPATH/src/k8s.io/kubernetes"
tar xzf "$WORK"/kubernetes_*.orig.tar.gz --strip-components 1

# reflect2 1.0.1, as vendored, crashes under Go 1.18 and newer.
rm -r vendor/github.com/modern-go/reflect2
cp -rL /usr/share/gocode/src/github.com/modern-go/reflect2 vendor/github.com/modern-go/
rm -f vendor/github.com/modern-go/reflect2/*_test.go

echo 'kubernetes: generating what the source package leaves to its build'
$GO build -o "$WORK/openapi-gen" ./vendor/k8s.io/kube-openapi/cmd/openapi-gen
folders=$(grep -rl --include='*.go' '+k8s:openapi-gen=' cmd pkg plugin staging/src \
  | grep -v -e _test.go -e /code-generator/ -e /sample-apiserver/ -e zz_generated \
  | sed 's|^staging/src/|vendor/|' | xargs -n1 dirname | LC_ALL=C sort -u \
  | sed 's|^|k8s.io/kubernetes/|' | paste -sd,)
"$WORK/openapi-gen" --logtostderr -i "$folders" -p k8s.io/kubernetes/pkg/generated/openapi \
  -O zz_generated.openapi -h vendor/k8s.io/code-generator/hack/boilerplate.go.txt \
  -r "$WORK/violations" >"$WORK/openapi.log" 2>&1 || { tail -n 20 "$WORK/openapi.log"; exit 1; }

stamps=''
for stamp in component-base/version client-go/pkg/version; do
  stamp=k8s.io/kubernetes/vendor/k8s.io/$stamp
  stamps="$stamps -X $stamp.gitVersion=v$VERSION -X $stamp.gitMajor=1 -X $stamp.gitMinor=20"
done
mkdir -p "$WORK/bin"
for program in $PROGRAMS; do
  echo "kubernetes: building $program"
  $GO build -ldflags "-s -w $stamps" -o "$WORK/bin/$program" "./cmd/$program"
done
cp "$(command -v etcd)" "$WORK/bin/etcd"
mkdir -p "$CACHE"
cp "$WORK"/bin/kube* "$CACHE"
mv "$WORK/bin/etcd" "$CACHE" # last: the folder is whole now
echo "$CACHE" >&3
