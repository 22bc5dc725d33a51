"""What the controller believes of parts that report to it."""

from cluster.control.members import GONE_AFTER_S, Heartbeat, MemberBook

# In containers pids are alike.
OLD = Heartbeat(part="shard-a", address="10.0.0.1:70", pid=115, node="node-1")
NEW = Heartbeat(part="shard-a", address="10.0.0.2:71", pid=115, node="node-2")


def test_a_part_that_was_replaced_while_it_was_cut_off_must_end():
    book = MemberBook()
    assert book.hear(OLD)
    assert book.hear(NEW)
    assert not book.hear(OLD)
    assert book.hear(NEW)
    assert book.address_of("shard-a") == NEW.address
    assert book.members["shard-a"].restarts == 1


def test_a_restart_in_place_is_counted():
    book = MemberBook()
    assert book.hear(OLD)
    assert book.hear(OLD)
    again = Heartbeat(part="shard-a", address="10.0.0.1:72", pid=116, node="node-1")
    assert book.hear(again)
    assert book.members["shard-a"].restarts == 1


def test_a_part_that_falls_silent_has_no_address():
    now = [100.0]
    book = MemberBook(lambda: now[0])
    assert book.hear(OLD)
    now[0] += GONE_AFTER_S - 0.1
    assert book.address_of("shard-a") == OLD.address
    now[0] += 0.2
    assert book.address_of("shard-a") is None
    assert book.hear(OLD)
    assert book.address_of("shard-a") == OLD.address
