# shellcheck shell=bash
# Sourced by services.sh. Tests start PgBouncer themselves, one each; here it is
# only installed.

install_pgbouncer() {
	if command -v pgbouncer >/dev/null || [ -x /usr/sbin/pgbouncer ]; then return; fi
	if ! command -v apt-get >/dev/null; then
		echo "services: install PgBouncer (dnf or brew install pgbouncer): tests of the pooler need it" >&2
		return
	fi
	echo "services: PgBouncer is not there, installing it"
	local sudo=
	[ "$(id -u)" = 0 ] || sudo=sudo
	$sudo apt-get update -q
	$sudo env DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends pgbouncer
}
