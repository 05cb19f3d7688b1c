#!/usr/bin/env bash
# Builds kube-apiserver and kube-controller-manager from their Go modules, for tests/end_to_end/test_kubernetes.py:
#   scripts/kubernetes_server.sh DIRECTORY     then put DIRECTORY into PATH
# Needs Go 1.26 and about 15 minutes of two cores; etcd is a package of the distribution (etcd-server).
set -euo pipefail
kubernetes=1.36.3
directory=$(realpath -m "${1:?usage: scripts/kubernetes_server.sh DIRECTORY}")
source=$(mktemp -d)
trap 'rm -rf "$source"' EXIT
mkdir -p "$directory"
cd "$source"
go mod init server
module=$(go mod download -json "k8s.io/kubernetes@v$kubernetes" | sed -n 's/^\t"GoMod": "\(.*\)",$/\1/p')
# Inside the module its parts are folders; outside they are modules of the same minor and patch version.
sed -n 's|^\t\(k8s.io/[a-z-]*\) => ./staging/.*|replace \1 => \1 v0.'"${kubernetes#1.}"'|p' "$module" >> go.mod
go get "k8s.io/kubernetes@v$kubernetes"
for program in kube-apiserver:NewAPIServerCommand kube-controller-manager:NewControllerManagerCommand; do
  name=${program%%:*}
  mkdir "$name"
  cat > "$name/main.go" << END
package main

import (
	"os"

	"k8s.io/component-base/cli"
	"k8s.io/kubernetes/cmd/$name/app"
)

func main() { os.Exit(cli.Run(app.${program##*:}())) }
END
done
go mod tidy -e
for name in kube-apiserver kube-controller-manager; do
  go build -ldflags '-s -w' -o "$directory/$name" "./$name"
done
