#!/usr/bin/env python3
"""Writes what Confluent's Python serializers make of some values, with the schemas as a
registry has them: known answers for the tests beside this file. A Protobuf schema is the descriptor in
base64 here, which is what this client registers; Confluent's registry makes source of it.

  python3 -m venv V && V/bin/pip install 'confluent-kafka[avro,protobuf,json]' grpcio-tools
  V/bin/python foreign.py REGISTRY_URL ../internal/shop/shop.proto >foreign.json
"""
import json
import os
import subprocess
import sys
import tempfile

from confluent_kafka.schema_registry import Schema, SchemaReference, SchemaRegistryClient
from confluent_kafka.schema_registry.avro import AvroSerializer
from confluent_kafka.schema_registry.json_schema import JSONSerializer
from confluent_kafka.schema_registry.protobuf import ProtobufSerializer
from confluent_kafka.serialization import MessageField, SerializationContext

url, proto = sys.argv[1:]
client = SchemaRegistryClient({"url": url})
topic = "orders%d" % os.getpid()
records, ids = [], []


def add(name, serializer, value, want):
    data = serializer(value, SerializationContext(topic + "-" + name, MessageField.VALUE))
    ids.append(int.from_bytes(data[1:5], "big"))
    records.append({"name": name, "value": data.hex(), "want": want})


v1 = {
    "type": "record", "name": "OrderPlaced", "namespace": "shop",
    "fields": [
        {"name": "order", "type": "string"},
        {"name": "cents", "type": "int"},
        {"name": "note", "type": ["null", "string"], "default": None},
    ],
}
v2 = {
    "type": "record", "name": "OrderPlaced", "namespace": "shop",
    "fields": [
        {"name": "order", "type": "string"},
        {"name": "amount", "type": "long", "aliases": ["cents"]},
        {"name": "currency", "type": "string", "default": "EUR"},
        {"name": "lines", "type": {"type": "array", "items": {
            "type": "record", "name": "Line", "fields": [{"name": "sku", "type": "string"}, {"name": "quantity", "type": "int"}]}}, "default": []},
    ],
}
add("avro-v1", AvroSerializer(client, json.dumps(v1)), {"order": "o-1", "cents": 1250, "note": "grüße"},
    {"order": "o-1", "amount": 1250, "currency": "EUR", "lines": []})
add("avro-v2", AvroSerializer(client, json.dumps(v2)),
    {"order": "o-2", "amount": 9007199254740993, "currency": "SEK", "lines": [{"sku": "a", "quantity": -3}]},
    {"order": "o-2", "amount": 9007199254740993, "currency": "SEK", "lines": [{"sku": "a", "quantity": -3}]})

money = {"type": "record", "name": "Money", "namespace": "shop", "fields": [{"name": "cents", "type": "long"}, {"name": "currency", "type": "string"}]}
client.register_schema("money" + topic, Schema(json.dumps(money), "AVRO"))
paid = {"type": "record", "name": "OrderPaid", "namespace": "shop", "fields": [{"name": "order", "type": "string"}, {"name": "paid", "type": "shop.Money"}]}
add("avro-reference", AvroSerializer(client, Schema(json.dumps(paid), "AVRO", [SchemaReference("shop.Money", "money" + topic, 1)])),
    {"order": "o-3", "paid": {"cents": -7, "currency": "EUR"}}, {"order": "o-3", "paid": {"cents": -7, "currency": "EUR"}})

schema = {"$schema": "http://json-schema.org/draft-07/schema#", "title": "shop.OrderNoted", "type": "object",
          "properties": {"order": {"type": "string"}, "note": {"type": "string"}}}
add("json", JSONSerializer(json.dumps(schema), client), {"order": "o-4", "note": "<ü>"}, {"order": "o-4", "note": "<ü>"})

with tempfile.TemporaryDirectory() as out:
    subprocess.run([sys.executable, "-m", "grpc_tools.protoc", "-I" + os.path.dirname(proto), "--python_out=" + out, os.path.basename(proto)], check=True)
    sys.path.insert(0, out)
    import shop_pb2

    placed = shop_pb2.OrderPlaced(order="o-5", cents=12345678901, lines=[shop_pb2.OrderPlaced.Line(sku="b", quantity=2)])
    add("protobuf-first", ProtobufSerializer(shop_pb2.OrderPlaced, client, {"use.deprecated.format": False}), placed,
        {"order": "o-5", "cents": "12345678901", "lines": [{"sku": "b", "quantity": 2}]})
    add("protobuf-second", ProtobufSerializer(shop_pb2.OrderPaid, client, {"use.deprecated.format": False}), shop_pb2.OrderPaid(order="o-6", cents=-5),
        {"order": "o-6", "cents": "-5"})
    add("protobuf-nested", ProtobufSerializer(shop_pb2.Parcel.Moved, client, {"use.deprecated.format": False}),
        shop_pb2.Parcel.Moved(parcel="p", to="Zürich"), {"parcel": "p", "to": "Zürich"})

schemas = []
for subject in client.get_subjects():
    if not subject.startswith(topic) and not subject == "money" + topic:
        continue
    s = client.get_latest_version(subject)
    schemas.append({"id": s.schema_id, "subject": subject.replace(topic, "T"), "version": s.version, "type": s.schema.schema_type, "schema": s.schema.schema_str,
                    "references": [{"name": r.name, "subject": r.subject.replace(topic, "T"), "version": r.version} for r in s.schema.references or []]})
json.dump({"schemas": schemas, "records": records}, sys.stdout, indent=1, ensure_ascii=False)
print()
