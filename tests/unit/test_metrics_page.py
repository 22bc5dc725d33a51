"""One page out of many processes' texts: by lines, and as parsing all of them would make it."""

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from galerne.metric_set import MetricSet
from router.api.metrics_page import metrics_page

NAMES = st.sampled_from(("galerne_a_total", "galerne_b", "galerne_c_seconds"))
VALUES = st.floats(allow_nan=False, allow_infinity=True)
SAMPLES = st.dictionaries(st.text(max_size=8), VALUES, max_size=4)
PAGES = st.dictionaries(NAMES, SAMPLES, max_size=3)
HELP = 'What it is: 5 % {of} "all" \\ it.'


def metrics_of(page):
    made = MetricSet()
    for name, samples in page.items():
        items = [((value,), number) for value, number in samples.items()]
        if name.endswith("_total"):
            made.show_counter(name, HELP, lambda items=items: items, "kind")
        else:
            made.show_gauge(name, HELP, lambda items=items: items, "kind")
    return made


def parsed(text):
    return {
        (family.name, family.type, family.documentation): [
            (sample.name, sample.labels, sample.value) for sample in family.samples
        ]
        for family in text_string_to_metric_families(text.decode())
    }


def merged_slowly(pages):
    """By parsing everything."""
    merged = {}
    for process, text in pages.items():
        for key, samples in parsed(text).items():
            own = [(name, {**labels, "process": process}, value) for name, labels, value in samples]
            merged.setdefault(key, []).extend(own)
    return merged


@given(PAGES, st.lists(PAGES, max_size=3))
def test_the_page_has_every_sample_of_every_process_and_each_family_once(own, others):
    texts = {f"part-{i}": metrics_of(page).text() for i, page in enumerate(others)}
    page = metrics_page(metrics_of(own), texts)
    assert parsed(page) == merged_slowly({"frontend": metrics_of(own).text(), **texts})
    types = [line for line in page.decode().split("\n") if line.startswith("# TYPE")]
    assert len(types) == len(set(types))


def test_a_process_whose_text_is_none_is_left_out_and_the_others_stay():
    own = metrics_of({"galerne_b": {"x": 1.0}})
    good = b"# HELP galerne_b B\n# TYPE galerne_b gauge\ngalerne_b 7.0\n"
    bad = (
        b"{{{",
        b"galerne_b 1.0\n",
        b"\xff",
        good + b"galerne_other 1.0\n",
        good + b"galerne_b\n",
    )
    page = metrics_page(own, {"good": good, **{f"bad-{i}": text for i, text in enumerate(bad)}})
    assert 'galerne_b{process="good"} 7.0' in page.decode().splitlines()
    assert b"bad-" not in page
