"""Pauses between the starts of a part that fails."""

from cluster.start_again import StartAgain


def test_pauses_grow_to_a_minute_and_one_part_holds_up_no_other():
    now = [100.0]
    again = StartAgain(lambda: now[0])
    assert again.may("shard-0")
    pauses_s = []
    for _ in range(6):
        pauses_s.append(again.failed("shard-0"))
        assert not again.may("shard-0")
        assert again.may("shard-1")
        now[0] += pauses_s[-1]
        assert again.may("shard-0")
    assert pauses_s == [5.0, 10.0, 20.0, 40.0, 60.0, 60.0]
    again.forget("shard-0")
    assert again.failed("shard-0") == 5.0
