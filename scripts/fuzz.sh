#!/usr/bin/env bash
# Runs every fuzz target of the module for a short time each. The targets are
# found, not listed: a new one is fuzzed from its first commit on.
#
#   FUZZTIME  how long each target runs, as in go test -fuzztime; default 1s
#   PKG       packages to look in; default ./...
set -euo pipefail
cd "$(dirname "$0")/.."

fuzztime=${FUZZTIME:-1s}
log=$(mktemp)
trap 'rm -f "$log"' EXIT

# Test binaries of packages without a target need not be built.
packages=$("${GO:-go}" list -f '{{$p := .}}{{range .TestGoFiles}}{{$p.ImportPath}} {{$p.Dir}}/{{.}}
{{end}}{{range .XTestGoFiles}}{{$p.ImportPath}} {{$p.Dir}}/{{.}}
{{end}}' ${PKG:-./...} | while read -r pkg file; do if grep -q '^func Fuzz' "$file"; then echo "$pkg"; fi; done | sort -u)
if [ -z "$packages" ]; then
	echo "fuzz: no target found in ${PKG:-./...}; there must be some, so the search is broken" >&2
	exit 1
fi

# go test -list prints the names of a package's targets, then "ok <package> ...".
# shellcheck disable=SC2086
"${GO:-go}" test -vet=off -list '^Fuzz' $packages >"$log" || { cat "$log"; exit 1; }
targets=$(awk '/^Fuzz/ { names[n++] = $1; next }
               /^ok/   { for (i = 0; i < n; i++) print $2, names[i]; n = 0 }' "$log")
if [ -z "$targets" ]; then
	echo "fuzz: no target found in ${PKG:-./...}; there must be some, so the search is broken" >&2
	exit 1
fi

fuzz() { # package target
	"${GO:-go}" test -vet=off -run '^$' -fuzz "^$2\$" -fuzztime "$fuzztime" "$1" >"$log" 2>&1
}

failed=0
while read -r pkg target; do
	start=$SECONDS
	status=ok
	if ! fuzz "$pkg" "$target"; then
		status=FAIL
		# Up to Go 1.26 a run may end with this error although nothing was found
		# (go.dev/issue/75804): the deadline of -fuzztime races with its workers.
		# A real finding always writes its input, so only this one is run again.
		if grep -q 'context deadline exceeded' "$log" && ! grep -q 'Failing input written' "$log"; then
			echo "fuzz: $pkg $target: ended by its own deadline, once more"
			if fuzz "$pkg" "$target"; then status=ok; fi
		fi
	fi
	execs=$(grep -o 'execs: [0-9]*' "$log" | tail -n 1 || true)
	printf 'fuzz: %-4s %s %s (%ds, %s)\n' "$status" "$pkg" "$target" $((SECONDS - start)) "${execs:-no count of execs}"
	if [ "$status" = FAIL ]; then
		cat "$log"
		failed=1
	fi
done <<<"$targets"

if [ "$failed" = 1 ]; then
	echo "fuzz: commit the failing input under testdata/fuzz with its fix: go test runs it from then on" >&2
fi
exit "$failed"
