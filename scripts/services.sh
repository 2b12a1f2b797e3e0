#!/usr/bin/env bash
# The PostgreSQL that tests need (kafka.sh has Kafka): a cluster of its own on a loopback
# port. It touches no other cluster of the machine.
#
#   scripts/services.sh up        install what is missing, make it, start it; idempotent
#   scripts/services.sh down      stop it; its files stay
#   scripts/services.sh restart   stop it as a crash would, and start it again
#   scripts/services.sh fast      stop it as an operator would, and start it again
#   scripts/services.sh kill      kill its first process with SIGKILL, and start it again
#   scripts/services.sh standby   stop it, and start it as a standby without a primary
#   scripts/services.sh remove    stop it and delete its files
#
#   FAIRLEAD_SERVICES_DIR    where the files are; default: fairlead/services in the user's cache
#   FAIRLEAD_POSTGRES_PORT   default 25439
#   FAIRLEAD_POSTGRES_BIN    the directory of initdb; default: the newest of Debian's, or that in PATH
set -euo pipefail

port=${FAIRLEAD_POSTGRES_PORT:-25439}
user=fairlead # and its password, and that of nobody else: the port is loopback only
url="postgres://$user:$user@127.0.0.1:$port/postgres?sslmode=disable"

# PostgreSQL refuses to run as root, so root lends it another user.
owner=$(id -un)
if [ "$(id -u)" = 0 ]; then
	owner=postgres
	id "$owner" >/dev/null 2>&1 || owner=nobody
fi

as_owner() {
	if [ "$(id -u)" != 0 ]; then
		"$@"
	elif command -v setpriv >/dev/null; then
		setpriv --reuid "$owner" --regid "$(id -g "$owner")" --clear-groups "$@"
	else
		su "$owner" -s /bin/sh -c 'exec "$0" "$@"' -- "$@"
	fi
}

# find_bin prints the directory of initdb: the newest of Debian's, or that in PATH.
find_bin() {
	local found
	if [ -n "${FAIRLEAD_POSTGRES_BIN:-}" ]; then
		echo "$FAIRLEAD_POSTGRES_BIN"
		return
	fi
	found=$(ls -d /usr/lib/postgresql/*/bin 2>/dev/null | sort -V | tail -n 1 || true)
	if [ -n "$found" ] && [ -x "$found/initdb" ]; then
		echo "$found"
	elif command -v initdb >/dev/null; then
		dirname "$(command -v initdb)"
	fi
}

install_postgres() {
	if ! command -v apt-get >/dev/null; then
		echo "services: install PostgreSQL 13 or later, so that initdb is in PATH" >&2
		echo "  Fedora: dnf install postgresql-server    macOS: brew install postgresql@17" >&2
		exit 1
	fi
	local sudo=
	[ "$(id -u)" = 0 ] || sudo=sudo
	$sudo apt-get update -q
	$sudo env DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends postgresql
}

bin=$(find_bin)
if [ "${1:-}" = up ] && [ -z "$bin" ]; then
	echo "services: PostgreSQL is not there, installing it"
	install_postgres
	bin=$(find_bin)
	[ "$(id -u)" = 0 ] && id postgres >/dev/null 2>&1 && owner=postgres
fi
if [ -z "$bin" ]; then
	echo "services: no PostgreSQL here" >&2
	[ "${1:-}" = down ] && exit 0
	exit 1
fi

dir=${FAIRLEAD_SERVICES_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/fairlead/services}
mkdir -p "$dir"
if [ -z "${FAIRLEAD_SERVICES_DIR:-}" ] && ! as_owner test -x "$dir"; then
	dir=/var/cache/fairlead/services # root's own cache is closed to the user that it lends
	mkdir -p "$dir"
fi
data=$dir/postgres-$port
ctl() { as_owner "$bin/pg_ctl" -D "$data" -s "$@" </dev/null; }

running() { [ -f "$data/PG_VERSION" ] && ctl status >/dev/null 2>&1; }

make_cluster() {
	[ -f "$data/PG_VERSION" ] && return
	rm -rf "$data"
	mkdir -p "$data"
	chmod 700 "$data"
	[ "$(id -u)" != 0 ] || chown "$owner" "$data"
	local secret
	secret=$(mktemp)
	echo "$user" >"$secret"
	[ "$(id -u)" != 0 ] || chown "$owner" "$secret"
	as_owner "$bin/initdb" -D "$data" -U "$user" -A scram-sha-256 --pwfile="$secret" -E UTF8 --locale=C >/dev/null ||
		{ rm -rf "$data" "$secret"; exit 1; }
	rm -f "$secret"
	# fsync stays on: commits are to cost here what they cost.
	as_owner tee -a "$data/postgresql.conf" >/dev/null <<-CONF
		listen_addresses = '127.0.0.1'
		port = $port
		unix_socket_directories = ''
		max_connections = 300
		max_prepared_transactions = 20
		log_min_messages = log
		log_checkpoints = off
	CONF
}

start() {
	running && return
	ctl -w -t 60 -l "$data/log" start || {
		echo "services: PostgreSQL did not start; the end of $data/log:" >&2
		tail -n 20 "$data/log" >&2
		exit 1
	}
}

case ${1:-} in
up)
	. "$(dirname "$0")/packages.sh" && install_packages
	# Two at once would both make it.
	if command -v flock >/dev/null; then
		exec 9>"$dir/lock"
		flock 9
	fi
	make_cluster
	start 9>&-
	echo "services: PostgreSQL $(cat "$data/PG_VERSION") answers at $url"
	;;
down)
	if running; then
		ctl -w -m fast stop
		echo "services: PostgreSQL stopped; its files stay in $data"
	else
		echo "services: PostgreSQL is not running"
	fi
	;;
restart)
	ctl -w -t 60 -m immediate -l "$data/log" restart
	;;
fast)
	ctl -w -t 60 -m fast -l "$data/log" restart
	;;
kill)
	kill -KILL "$(head -n 1 "$data/postmaster.pid")"
	# The processes of its sessions see that it is gone, and end by and by. Until
	# then the memory that they share keeps a new one from starting.
	for _ in $(seq 100); do
		ctl -w -t 60 -l "$data/log" start 2>/dev/null && exit
		sleep 0.1
	done
	echo "services: PostgreSQL did not start after it was killed; the end of $data/log:" >&2
	tail -n 20 "$data/log" >&2
	exit 1
	;;
standby)
	ctl -w -m fast stop
	as_owner touch "$data/standby.signal"
	start
	;;
remove)
	if running; then ctl -w -m immediate stop; fi
	rm -rf "$data"
	;;
*)
	sed -n '2,/^set/s/^# \{0,1\}//p' "$0" >&2
	exit 2
	;;
esac
