"""A set of metrics knows what it shows; labels that others choose stay few."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Histogram, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from galerne.metric_set import OTHER, BoundedLabels, MetricSet, TimeBuckets

BOUNDS = (0.001, 0.01, 0.5, 2.0)


def types_of(text):
    lines = [line.split() for line in text.decode().splitlines() if line.startswith("# TYPE")]
    return {name: kind for _, _, name, kind in lines}


def test_every_metric_is_on_the_page_under_the_name_and_type_it_was_defined_with():
    made = MetricSet(has_process=True)
    made.counter("galerne_a_total", "A.", "kind")
    made.gauge("galerne_b", "B.")
    made.histogram("galerne_c_seconds", "C.", BOUNDS)
    made.show_counter("galerne_d_total", "D.", lambda: 3)
    made.show_gauge("galerne_e", "E.", lambda: [(("x",), 1.5), (("y",), 2.5)], "which")
    made.show_histogram("galerne_f_seconds", "F.", lambda: [TimeBuckets(BOUNDS).read()])
    assert types_of(made.text()) == {d.name: d.kind for d in made.definitions}
    assert made.registry.get_sample_value("galerne_d_total") == 3
    assert made.registry.get_sample_value("galerne_e", {"which": "y"}) == 2.5
    assert made.registry.get_sample_value("galerne_process_resident_memory_bytes") > 1e6
    assert b"_created" not in made.text()


def test_a_name_is_defined_once():
    made = MetricSet()
    made.gauge("galerne_a", "A.")
    with pytest.raises(ValueError, match="galerne_a is defined already"):
        made.show_gauge("galerne_a", "A.", lambda: 1)


@given(st.lists(st.one_of(st.sampled_from(BOUNDS), st.floats(0, 10))))
def test_buckets_without_a_lock_say_what_the_librarys_histogram_does(samples):
    fast, made = TimeBuckets(BOUNDS), MetricSet()
    made.show_histogram("h_seconds", "H.", lambda: [fast.read()])
    registry = CollectorRegistry()
    slow = Histogram("h_seconds", "H.", buckets=BOUNDS, registry=registry)
    for sample in samples:
        fast.add(sample)
        slow.observe(sample)
    [found], [wanted] = (
        text_string_to_metric_families(text.decode())
        for text in (made.text(), generate_latest(registry))
    )
    assert [(s.name, s.labels, pytest.approx(s.value)) for s in wanted.samples] == [
        (s.name, s.labels, s.value) for s in found.samples
    ]


@given(st.lists(st.text(max_size=3)), st.integers(0, 5))
def test_labels_stay_within_their_bound_and_the_first_keep_their_names(values, most):
    bounded = BoundedLabels(most)
    shown = [bounded.of(value) for value in values]
    assert len(set(shown) - {OTHER}) <= most
    first = list(dict.fromkeys(values))[:most]
    assert shown == [value if value in first else OTHER for value in values]
