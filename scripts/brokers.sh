# shellcheck shell=bash
# Sourced by services.sh. Tests start RabbitMQ and NATS themselves, one each; here
# they are only installed.

install_brokers() {
	local missing=()
	command -v rabbitmq-server >/dev/null || [ -x /usr/sbin/rabbitmq-server ] || missing+=(rabbitmq-server)
	command -v nats-server >/dev/null || [ -x /usr/sbin/nats-server ] || missing+=(nats-server)
	if [ ${#missing[@]} = 0 ]; then return; fi
	if ! command -v apt-get >/dev/null; then
		echo "services: install ${missing[*]} (dnf, brew): tests of forwarding need them" >&2
		return
	fi
	echo "services: not there, installing: ${missing[*]}"
	local sudo=
	[ "$(id -u)" = 0 ] || sudo=sudo
	$sudo apt-get update -q
	# RUNLEVEL: the package is not to start a server of its own.
	$sudo env RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends "${missing[@]}"
}
