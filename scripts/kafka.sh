#!/usr/bin/env bash
# The Kafka that tests need: brokers of their own (KRaft) on loopback ports. It
# touches no other Kafka of the machine.
#
#   scripts/kafka.sh up            install what is missing, make it, start it; idempotent
#   scripts/kafka.sh down          stop it; its files stay
#   scripts/kafka.sh restart [N]   stop a broker (default: all) as an operator would, and start it again
#   scripts/kafka.sh kill [N]      kill a broker (default: all) with SIGKILL; up starts it again
#   scripts/kafka.sh remove        stop it and delete its files; the jars stay
#   scripts/kafka.sh jars          print where the jars are
#
#   FAIRLEAD_SERVICES_DIR    where the files are; default: fairlead/services in the user's cache
#   FAIRLEAD_KAFKA_JARS      where the jars are; default: kafka-VERSION in the same folder
#   FAIRLEAD_KAFKA_PORT      of the first broker, the others follow; default 25492. Controllers: 100 above
#   FAIRLEAD_KAFKA_BROKERS   how many; default 1
#   FAIRLEAD_KAFKA_JAVA      more options for Java, of each
set -euo pipefail

version=4.1.1
port=${FAIRLEAD_KAFKA_PORT:-25492}
brokers=${FAIRLEAD_KAFKA_BROKERS:-1}
dir=${FAIRLEAD_SERVICES_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/fairlead/services}
jars=${FAIRLEAD_KAFKA_JARS:-$dir/kafka-$version}
data=$dir/kafka-$port

say() { echo "services: $*"; }
die() { echo "services: $*" >&2; exit 1; }

# install_java sees to it that there is a command, by a package of Debian's.
install_java() {
	command -v "$1" >/dev/null && return
	command -v apt-get >/dev/null ||
		die "Kafka needs $1: install a Java runtime (17 or later) and Maven, so that java and mvn are in PATH" \
			"(Fedora: dnf install java-21-openjdk-headless maven; macOS: brew install openjdk maven)"
	say "$1 is not there, installing it"
	local sudo=
	[ "$(id -u)" = 0 ] || sudo=sudo
	$sudo apt-get update -q
	$sudo env DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends default-jre-headless "${@:2}"
	command -v "$1" >/dev/null || die "$1 is still not in PATH after it was installed"
}

# fetch_jars fetches Kafka with Maven, once.
fetch_jars() {
	[ -f "$jars/complete-with-tools" ] && return
	install_java mvn maven
	say "fetching Kafka $version with Maven"
	mkdir -p "$jars"
	cat >"$jars/pom.xml" <<-POM
		<project xmlns="http://maven.apache.org/POM/4.0.0">
		  <modelVersion>4.0.0</modelVersion>
		  <groupId>dev.fairlead</groupId>
		  <artifactId>kafka-for-tests</artifactId>
		  <version>1</version>
		  <packaging>pom</packaging>
		  <dependencies>
		    <dependency><groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId><version>$version</version></dependency>
		    <dependency><groupId>org.apache.kafka</groupId><artifactId>kafka-tools</artifactId><version>$version</version></dependency>
		    <dependency><groupId>org.slf4j</groupId><artifactId>slf4j-simple</artifactId><version>1.7.36</version></dependency>
		  </dependencies>
		</project>
	POM
	mvn -q -B -f "$jars/pom.xml" dependency:copy-dependencies -DoutputDirectory="$jars/libs" -DincludeScope=runtime ||
		die "Maven could not fetch Kafka $version; what it said is above"
	touch "$jars/complete-with-tools"
}

# properties prints the configuration of a broker. Times are short, so that tests
# that wait for a session to end, a compaction or retention are short too.
properties() {
	local n=$1 voters="" i
	for i in $(seq "$brokers"); do voters="$voters${voters:+,}$i@127.0.0.1:$((port + 99 + i))"; done
	local replicas=$((brokers < 3 ? brokers : 3))
	cat <<-CONF
		process.roles=broker,controller
		node.id=$n
		listeners=PLAINTEXT://127.0.0.1:$((port + n - 1)),CONTROLLER://127.0.0.1:$((port + 99 + n))
		advertised.listeners=PLAINTEXT://127.0.0.1:$((port + n - 1))
		controller.listener.names=CONTROLLER
		controller.quorum.voters=$voters
		log.dirs=$data/$n
		auto.create.topics.enable=false
		default.replication.factor=$replicas
		min.insync.replicas=$((replicas > 1 ? 2 : 1))
		offsets.topic.replication.factor=$replicas
		offsets.topic.num.partitions=5
		transaction.state.log.replication.factor=$replicas
		transaction.state.log.min.isr=$((replicas > 1 ? 2 : 1))
		transaction.state.log.num.partitions=3
		share.coordinator.state.topic.num.partitions=1
		share.coordinator.state.topic.replication.factor=$replicas
		share.coordinator.state.topic.min.isr=1
		group.initial.rebalance.delay.ms=0
		group.min.session.timeout.ms=1000
		group.consumer.min.session.timeout.ms=1000
		group.consumer.session.timeout.ms=3000
		group.consumer.min.heartbeat.interval.ms=100
		group.consumer.heartbeat.interval.ms=300
		log.initial.task.delay.ms=1000
		log.retention.check.interval.ms=1000
		log.cleaner.backoff.ms=200
		message.max.bytes=33554432
		replica.fetch.max.bytes=33554432
		num.network.threads=2
		num.io.threads=4
		log.cleaner.dedupe.buffer.size=8388608
	CONF
}

pid_of() { # the process of a broker, if it runs
	local pid
	pid=$(cat "$data/$1.pid" 2>/dev/null) || return 1
	ps -p "$pid" -o args= 2>/dev/null | grep -q -F "$data/$1.properties" || return 1
	echo "$pid"
}

# shellcheck disable=SC2206
options=(${FAIRLEAD_KAFKA_JAVA:-})
java=(java -Xmx512m -Xms128m -XX:+UseSerialGC "${options[@]}" -cp "$jars/libs/*"
	-Dorg.slf4j.simpleLogger.defaultLogLevel=warn -Dorg.slf4j.simpleLogger.showDateTime=true
	-Dorg.slf4j.simpleLogger.log.kafka.server.KafkaRaftServer=info)

make_broker() {
	[ -f "$data/$1.properties" ] && return
	mkdir -p "$data"
	properties "$1" >"$data/$1.new"
	# The cluster's id is that of its port: brokers of one cluster agree on it.
	"${java[@]}" kafka.tools.StorageTool format -t "$(printf 'fairlead-%05d--------' "$port")" -c "$data/$1.new" >"$data/$1.log" 2>&1 ||
		{ tail -n 20 "$data/$1.log" >&2; die "Kafka's storage was not formatted"; }
	mv "$data/$1.new" "$data/$1.properties"
}

start() {
	pid_of "$1" >/dev/null && return
	: >"$data/$1.log"
	(exec "${java[@]}" kafka.Kafka "$data/$1.properties") </dev/null >>"$data/$1.log" 2>&1 &
	echo $! >"$data/$1.pid"
	disown
}

await() {
	local i
	for i in $(seq 600); do
		if grep -q "Kafka Server started" "$data/$1.log" 2>/dev/null; then return; fi
		if ! pid_of "$1" >/dev/null; then break; fi
		sleep 0.1
	done
	tail -n 20 "$data/$1.log" >&2
	die "Kafka did not start; the end of $data/$1.log is above"
}

stop() { # with a signal
	local pid i
	pid=$(pid_of "$1") || return 0
	kill "-$2" "$pid"
	for i in $(seq 300); do
		kill -0 "$pid" 2>/dev/null || break
		[ "$i" -lt 250 ] || kill -KILL "$pid" 2>/dev/null || true
		sleep 0.1
	done
	rm -f "$data/$1.pid"
}

list() { if [ -n "${1:-}" ]; then echo "$1"; else seq "$brokers"; fi; }

case ${1:-} in
up)
	mkdir -p "$dir"
	# Two at once would both make it.
	if command -v flock >/dev/null; then
		exec 9>"$dir/kafka.lock"
		flock 9
	fi
	install_java java
	fetch_jars
	for n in $(list); do make_broker "$n"; done
	for n in $(list); do start "$n" 9>&-; done
	for n in $(list); do await "$n"; done
	say "Kafka $version answers at $(for n in $(list); do printf '127.0.0.1:%d ' $((port + n - 1)); done)"
	;;
down)
	for n in $(list); do
		if pid_of "$n" >/dev/null; then
			stop "$n" TERM
			say "Kafka broker $n stopped; its files stay in $data"
		else
			say "Kafka broker $n is not running"
		fi
	done
	;;
restart)
	for n in $(list "${2:-}"); do stop "$n" TERM; done
	for n in $(list "${2:-}"); do start "$n"; done
	for n in $(list "${2:-}"); do await "$n"; done
	;;
kill)
	for n in $(list "${2:-}"); do stop "$n" KILL; done
	;;
jars)
	echo "$jars"
	;;
remove)
	for n in $(list); do stop "$n" KILL; done
	rm -rf "$data"
	;;
*)
	sed -n '2,/^set/s/^# \{0,1\}//p' "$0" >&2
	exit 2
	;;
esac
