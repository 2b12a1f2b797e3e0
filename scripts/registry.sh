#!/usr/bin/env bash
# A schema registry for the tests of kafka/registry against a real one: Apicurio
# Registry, which has Confluent's API, in memory, on loopback. CI does without: there
# the same tests have franz-go's fake of that API and what real serializers wrote.
#
#   scripts/registry.sh up     fetch it with Maven once (150 MB, Java 17 or later), start it, print its URL
#   scripts/registry.sh down   stop it; its schemas are gone
#
#   FAIRLEAD_REGISTRY=$(scripts/registry.sh up) go test ./kafka/registry
#
#   FAIRLEAD_SERVICES_DIR     where the files are; default: fairlead/services in the user's cache
#   FAIRLEAD_REGISTRY_PORT    default 25571
set -euo pipefail

version=2.6.13.Final
port=${FAIRLEAD_REGISTRY_PORT:-25571}
dir=${FAIRLEAD_SERVICES_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/fairlead/services}
home=$dir/apicurio-$version
pid=$dir/apicurio-$port.pid
url=http://127.0.0.1:$port/apis/ccompat/v7

case ${1:-} in
up)
	if ! [ -f "$home/complete" ]; then
		mkdir -p "$home"
		mvn -q -B dependency:copy -Dartifact="io.apicurio:apicurio-registry-app:$version:tar.gz:all" -DoutputDirectory="$home" >&2
		tar -xzf "$home/apicurio-registry-app-$version-all.tar.gz" -C "$home"
		rm "$home/apicurio-registry-app-$version-all.tar.gz"
		touch "$home/complete"
	fi
	if ! curl -fs "$url/subjects" >/dev/null; then
		cd "$home"
		nohup java -Xmx400m -Dquarkus.http.host=127.0.0.1 -Dquarkus.http.port="$port" \
			-jar "apicurio-registry-app-$version-runner.jar" >"$dir/apicurio-$port.log" 2>&1 &
		echo $! >"$pid"
		for _ in $(seq 120); do
			curl -fs "$url/subjects" >/dev/null && break
			sleep 0.5
		done
		curl -fs "$url/subjects" >/dev/null || { echo "the registry does not answer: see $dir/apicurio-$port.log" >&2; exit 1; }
	fi
	echo "$url"
	;;
down)
	[ -f "$pid" ] && kill "$(cat "$pid")" && rm "$pid"
	;;
*)
	sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "$0"
	exit 2
	;;
esac
