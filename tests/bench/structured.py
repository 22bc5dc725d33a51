"""``make bench-structured``: what a format costs, on the demo's model.

    python -m tests.bench.structured [ROUNDS]      # 5 unless given

Time to the first token without a format, with one that is new to frontend and gateway, and with a
known one; seconds of the mask in a step; and, for a schema that takes long to compile, how many
steps another stream took meanwhile and how long they were, beside those of a quiet engine.
"""

import asyncio
import json
import random
import statistics
import sys
import time
from itertools import pairwise

from helpers.api_servers import embedded
from helpers.gateway_process import TOKEN, Directory, speaking_settings
from helpers.schemas import random_schema
from router.api.frontend import Frontend
from router.api.inputs import ChatCompletionInput
from router.chat.encode import ChatInput
from router.guidance.formats import schema_format
from router.guidance.grammar import format_grammar

NUM_WIDE = 1500  # properties of the schema that takes long
MESSAGES = [{"role": "user", "content": "Hello"}]


def wide_schema(seed):
    """Many properties, each with a pattern of its own: slow to compile."""
    patterns = (f"^[a-z]{{1,9}}{seed}x{i}$" for i in range(NUM_WIDE))
    properties = {f"p{i}": {"type": "string", "pattern": p} for i, p in enumerate(patterns)}
    return {"type": "object", "properties": properties, "additionalProperties": False}


def call(schema, **sampling):
    output = None if schema is None else schema_format(schema, "schema")
    sampling = {"temperature": 1.0, "max_tokens": 8, "ignore_eos": True} | sampling
    return ChatCompletionInput(chat=ChatInput(messages=MESSAGES), output=output, sampling=sampling)


async def first_token_ms(frontend, schema):
    started = time.perf_counter()
    events = frontend.chat(call(schema))
    while not getattr(await anext(events), "token_ids", ()):
        pass
    seconds = time.perf_counter() - started
    async for _ in events:
        pass
    return 1e3 * seconds


def watch_steps(host):
    """When steps end, from now on; on the engine's thread."""
    times = []
    inner = host.engine._on_deltas

    def on_deltas(deltas):
        times.append(time.perf_counter())
        inner(deltas)

    host.engine._on_deltas = on_deltas
    return times


async def beside_a_compile(frontend, host, times, seed):
    """Seconds of a compile, and the gaps between steps during it and as long before it."""
    stream = asyncio.create_task(read(frontend, 900))
    compiler = host._built.guides.compiler
    grammar = format_grammar(schema_format(wide_schema(seed), "schema"))
    await asyncio.sleep(0.5)
    started = time.perf_counter()
    await compiler.run(lambda: compiler.matcher(grammar))
    ended = time.perf_counter()
    await stream
    seconds = ended - started
    beside, quiet = between(times, started, ended), between(times, started - 0.4, started)
    return seconds, beside, quiet


async def read(frontend, num_tokens):
    async for _ in frontend.chat(call(None, max_tokens=num_tokens)):
        pass


def between(times, start, end):
    """Gaps in ms of the steps that ended between two moments."""
    return [1e3 * (b - a) for a, b in pairwise(times) if start <= b <= end]


def line(name, values):
    middle = statistics.median(values)
    print(f"| {name} | {middle:.1f} | {min(values):.1f} to {max(values):.1f} |")


async def bench(host, num_rounds):
    from router.gateway.pool import GatewayPool

    pool = GatewayPool(Directory(gateway=host.address), TOKEN, 5.0)
    await pool.start(10.0)
    frontend = Frontend(pool, embedded())
    started = time.perf_counter()
    await first_token_ms(frontend, {"type": "object"})
    print(f"first format of all, with both vocabularies: {time.perf_counter() - started:.2f} s\n")
    await report(frontend, host, num_rounds)
    await frontend.close()
    await pool.close()


async def report(frontend, host, num_rounds):
    plain, cold, warm = [], [], []
    for seed in range(num_rounds * 4):
        schema = random_schema(random.Random(seed)) | {"title": str(seed)}
        plain.append(await first_token_ms(frontend, None))
        cold.append(await first_token_ms(frontend, schema))
        warm.append(await first_token_ms(frontend, schema))
    print("| first token, ms | median | range |\n|---|---:|---:|")
    line("no format", plain)
    line("new schema", cold)
    line("known schema", warm)
    sizes = [len(json.dumps(wide_schema(seed))) for seed in range(num_rounds)]
    print(f"\na schema of {NUM_WIDE} patterns, {sizes[0] >> 10} KiB:\n")
    print("| compile, s | steps meanwhile | ms a step | longest | ms a step before | longest |")
    print("|---:|---:|---:|---:|---:|---:|")
    times = watch_steps(host)
    for seed in range(num_rounds):
        seconds, beside, quiet = await beside_a_compile(frontend, host, times, seed)
        cells = [f"{seconds:.2f}", str(len(beside))]
        for gaps in (beside, quiet):
            cells += [f"{statistics.median(gaps):.1f}", f"{max(gaps):.1f}"] if gaps else ["-", "-"]
        print(f"| {' | '.join(cells)} |")


def main():
    from router.gateway.host import GatewayHost

    host = GatewayHost(speaking_settings(0), None)
    try:
        asyncio.run(bench(host, int(sys.argv[1]) if len(sys.argv) > 1 else 5))
    finally:
        host.stop()


if __name__ == "__main__":
    main()
