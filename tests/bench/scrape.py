"""``make bench-scrape``: how large a scrape is, and how long it takes, at the model's full size.

    python -m tests.bench.scrape [--layers 36] [--experts 128] [--shards 8]

Real metric objects of every process with all the series that load gives them: each process' text,
the page that the frontend makes of them, and the way through a parser that it does not take.
"""

import argparse
import time

from prometheus_client import CollectorRegistry, Metric, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from helpers.filled_metrics import filled_shard, filled_texts
from router.api.metrics_page import metrics_page

REPEATS = 20


def seconds(what):
    """The least of several runs: others share the machine."""
    times = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        what()
        times.append(time.perf_counter() - started)
    return min(times)


def through_a_parser(own, texts):
    """The same page, parsed and written anew."""
    merged = {}
    for process, text in {"frontend": own.text(), **texts}.items():
        for family in text_string_to_metric_families(text.decode()):
            fresh = Metric(family.name, family.documentation, family.type)
            into = merged.setdefault(family.name, fresh)
            into.samples += [
                s._replace(labels={**s.labels, "process": process}) for s in family.samples
            ]
    registry = CollectorRegistry()
    for metric in merged.values():
        registry.register(type("Held", (), {"collect": lambda self, m=metric: [m]})())
    return generate_latest(registry)


def num_series(text):
    return sum(not line.startswith(b"#") for line in text.splitlines())


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", type=int, default=36)
    parser.add_argument("--experts", type=int, default=128)
    parser.add_argument("--shards", type=int, default=8)
    arguments = parser.parse_args()
    shape = (arguments.layers, arguments.experts, arguments.shards)
    own, texts = filled_texts(*shape)
    texts["frontend"] = own.text()
    print(f"{arguments.layers} layers, {arguments.experts} experts, {arguments.shards} shards")
    for process in ("frontend", "controller", "gateway-0", "shard-0"):
        text = texts[process]
        print(f"  {process:12} {num_series(text):6,} series {len(text) / 1e3:8.1f} kB")
    del texts["frontend"]
    page = metrics_page(own, texts)
    print(f"  {'page':12} {num_series(page):6,} series {len(page) / 1e3:8.1f} kB")
    shard = filled_shard(arguments.layers, arguments.experts, range(arguments.experts))
    everything = num_series(shard.text())
    print(f"  a shard that has rows for every number of an expert: {everything:,} series")
    print(f"text of one shard {1e3 * seconds(shard.text):.2f} ms")
    print(f"page by lines {1e3 * seconds(lambda: metrics_page(own, texts)):.2f} ms")
    print(f"through a parser {1e3 * seconds(lambda: through_a_parser(own, texts)):.2f} ms")


if __name__ == "__main__":
    main()
