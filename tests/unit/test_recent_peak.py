"""The largest of a sliding time, against a list of all that was seen."""

from hypothesis import given
from hypothesis import strategies as st

from cluster.planning.recent_peak import RecentPeak


@given(
    keep_s=st.floats(0, 20),
    seen=st.lists(st.tuples(st.floats(0, 10), st.floats(0, 100)), min_size=1, max_size=60),
)
def test_it_is_the_largest_of_those_that_still_count(keep_s, seen):
    peak, all_seen, now_s = RecentPeak(keep_s), [], 0.0
    for passed_s, value in seen:
        now_s += passed_s
        all_seen.append((now_s, value))
        counting = [v for at_s, v in all_seen if at_s >= now_s - keep_s]
        assert peak.saw(now_s, value) == max(counting)
