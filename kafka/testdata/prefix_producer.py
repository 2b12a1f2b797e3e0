"""Produces a record for each line of stdin, key and value separated by a tab, with
kafka-python. The partition is chosen by the tenant, which ends at the first colon of the
key: a subclass of the default partitioner, as producers of that age have it. It is given
all partitions, and not only those that have a leader now."""

import sys

from kafka import KafkaProducer
from kafka.partitioner.default import DefaultPartitioner


class TenantPartitioner(DefaultPartitioner):
    @classmethod
    def __call__(cls, key, all_partitions, available):
        tenant, _ = key.split(b":", 1)
        return DefaultPartitioner.__call__(tenant, all_partitions, available)


brokers, topic = sys.argv[1], sys.argv[2]
producer = KafkaProducer(bootstrap_servers=brokers.split(","), partitioner=TenantPartitioner())
for line in sys.stdin.buffer:
    key, value = line.rstrip(b"\n").split(b"\t")
    producer.send(topic, key=key, value=value, headers=[("fairlead-class", b"test")])
producer.flush()
producer.close()
