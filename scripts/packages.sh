# shellcheck shell=bash
# Sourced by services.sh. What tests start or run themselves is only installed here:
# PgBouncer, RabbitMQ, NATS, and of other producers kcat, and pip for one in Python.

install_packages() {
	local missing=() name
	for name in pgbouncer rabbitmq-server nats-server kcat; do
		command -v "$name" >/dev/null || [ -x "/usr/sbin/$name" ] || missing+=("$name")
	done
	python3 -m pip --version >/dev/null 2>&1 || missing+=(python3-pip)
	if [ ${#missing[@]} = 0 ]; then return; fi
	if ! command -v apt-get >/dev/null; then
		echo "services: install ${missing[*]} (dnf, brew): tests of the pooler, of forwarding and of other producers need them" >&2
		return
	fi
	echo "services: not there, installing: ${missing[*]}"
	local sudo=
	[ "$(id -u)" = 0 ] || sudo=sudo
	$sudo apt-get update -q
	# RUNLEVEL: a package is not to start a server of its own.
	$sudo env RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends "${missing[@]}"
}
