"""Gateways over the tiny checkpoint that record what they do."""

import json
from contextlib import contextmanager

from helpers.fixture_models import checkpoint
from helpers.gateway_process import NAME, gateway_settings
from helpers.gateways import Collector
from router.gateway.build import build_gateway
from router.gateway.codec import decode_request, encode_request
from router.gateway.record_file import find_records
from router.gateway.settings import DTYPES
from router.gateway.sizes import BLOCK_SIZE
from router.model.kv_cache import PagedLatentCache


@contextmanager
def recorded(directory, *, book=None, recorder=None, num_blocks=128, numerics="bf16", **changes):
    """A gateway built as for serving, without its service; its record is closed at the end."""
    config = checkpoint(NAME).config
    per_block = PagedLatentCache.bytes_per_block(config, BLOCK_SIZE, DTYPES[numerics])
    changes |= {"numerics": numerics, "kv_bytes": num_blocks * per_block, "record": directory}
    collector = Collector()
    settings = gateway_settings(**changes)
    built = build_gateway(settings, book, collector, lambda what, done, of: None, recorder)
    built.engine.start()
    try:
        yield built.engine, collector
    finally:
        built.engine.stop()


def submit(engine, *requests):
    """Submit them as a gateway gets them: by the wire, which rounds floats."""
    for request in requests:
        engine.submit(decode_request(encode_request(request))).result(10)


def only_record(directory):
    (record,) = find_records(directory)
    return record


def events_file(record):
    return record.path / "events.jsonl"


def lines_of(record):
    """Fields of every line."""
    return [json.loads(line) for line in events_file(record).read_text().splitlines()]


def write_lines(record, lines):
    text = "".join(json.dumps(fields) + "\n" for fields in lines)
    events_file(record).write_text(text)
