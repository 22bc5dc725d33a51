"""Keys, their limits, the audit log and files that change: without a server."""

import asyncio
import hashlib
import json
import os
import stat
import threading
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from galerne.clock import VirtualClock
from galerne.errors import ConfigError, UnauthenticatedError
from galerne.file_watch import FileWatch
from galerne.metric_set import MetricSet
from helpers.waiting import until
from router.api.access import ADMIN_RPCS, Access, current_client
from router.api.audit import REFUSALS_PER_MIN, AuditLog
from router.api.errors import ForbiddenError
from router.api.key_files import KeyFiles
from router.api.key_limits import KeyAccount, KeyLimiter, KeyLimitError
from router.api.keys import ANYONE, ApiKeys, Client, KeyLimits, parse_entry, read_entries

SESAME = "sha256:" + hashlib.sha256(b"sesame").hexdigest()


def bearer(key):
    return f"Bearer {key}"


def test_a_key_is_known_written_out_or_by_its_hash():
    for entry in ("sesame", SESAME, f"{SESAME} name=ci", " sesame  concurrency=2 "):
        assert ApiKeys([entry]).check(bearer("sesame"))


@pytest.mark.parametrize(
    "shown",
    [None, "", "sesame", "Bearer", "Bearer ", "Bearer sesame2", "Basic sesame", f"Bearer {SESAME}"],
)
def test_what_shows_no_key_is_refused(shown):
    with pytest.raises(UnauthenticatedError):
        ApiKeys(["sesame"]).check(shown)


def test_keys_of_one_name_are_one_client_and_others_are_not():
    keys = ApiKeys(["old name=ci", "new name=ci", "third", "fourth"])
    owners = {key: keys.owner(bearer(key)) for key in ("old", "new", "third", "fourth")}
    assert owners["old"] == owners["new"]
    assert len(set(owners.values())) == 3
    assert keys.owner(bearer("wrong")) == b""
    assert "old" not in repr(keys.check(bearer("old")))


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ("", "must not be empty"),
        ("sha256:12", "64 hex digits"),
        ("k requests_per_min=0", "whole number above 0"),
        ("k requests_per_min=1e3", "whole number above 0"),
        ("k colour=red", "requests_per_min="),
        ("k name=a name=b", "each once"),
    ],
)
def test_a_wrong_entry_is_refused_without_telling_the_key(entry, said):
    with pytest.raises(ConfigError, match=said) as refused:
        parse_entry(entry)
    assert "sha256:12" not in str(refused.value)


def test_entries_come_from_a_file_or_a_mounted_secret_and_are_hashed(tmp_path):
    file = tmp_path / "keys"
    file.write_text(f"# ours\nsesame name=a\n\n{SESAME}\n")
    assert read_entries(file) == (f"{SESAME} name=a", SESAME)
    secret = tmp_path / "secret"
    (secret / "..data").mkdir(parents=True)
    (secret / "..data" / "one").write_text("sesame")
    (secret / "one").symlink_to("..data/one")
    assert read_entries(secret) == (SESAME,)
    file.write_text("# none\n")
    for path in (file, tmp_path / "missing"):
        with pytest.raises(ConfigError):
            read_entries(path)


@given(
    st.integers(1, 100),
    st.lists(st.tuples(st.floats(0, 90), st.integers(0, 300)), max_size=60),
)
def test_tokens_of_any_time_stay_within_the_limit_but_for_what_runs(per_min, steps):
    """Whatever comes when: what was taken before an admission is below what time has given."""
    account, now_s, used = KeyAccount(), 0.0, 0
    client = Client("c", b"c", KeyLimits(tokens_per_min=per_min))
    for pause_s, tokens in steps:
        now_s += pause_s
        with suppress(KeyLimitError):
            account.admit(client, now_s)
            assert used <= per_min * (1 + now_s / 60) + 1e-6
            account.charge(tokens)
            used += tokens


@given(st.integers(1, 50), st.lists(st.floats(0, 5), max_size=80))
def test_whoever_waits_as_told_is_let_in_and_never_sooner(per_min, pauses):
    account, now_s = KeyAccount(), 0.0
    client = Client("c", b"c", KeyLimits(requests_per_min=per_min))
    for num_admitted, pause_s in enumerate(pauses, 1):
        now_s += pause_s
        try:
            account.admit(client, now_s)
        except KeyLimitError as refused:
            now_s += refused.retry_after_s + 0.001  # it is told in milliseconds
            account.admit(client, now_s)
        assert num_admitted <= per_min * (1 + now_s / 60) + 1e-6


def test_concurrency_counts_what_runs_and_each_client_alone():
    limiter = KeyLimiter(VirtualClock())
    one = Client("one", b"1", KeyLimits(concurrency=2))
    first, _ = limiter.admit(one), limiter.admit(one)
    with pytest.raises(KeyLimitError, match="concurrency limit 2"):
        limiter.admit(one)
    limiter.admit(Client("two", b"2", KeyLimits(concurrency=2)))
    first.release()
    limiter.admit(one)


def test_a_refused_request_costs_nothing_of_other_limits():
    account = KeyAccount()
    client = Client("c", b"c", KeyLimits(requests_per_min=2, concurrency=1))
    account.admit(client, 0.0)
    for _ in range(10):
        with pytest.raises(KeyLimitError, match="concurrency"):
            account.admit(client, 0.0)
    account.release()
    account.admit(client, 0.0)


# -- who may do what --------------------------------------------------------------------------


def make_access(tmp_path, *keys, admins=()):
    return Access(ApiKeys(keys, admins), AuditLog(tmp_path / "audit"), VirtualClock())


def lines(tmp_path):
    return [json.loads(line) for line in (tmp_path / "audit").read_text().splitlines()]


@pytest.mark.parametrize(
    ("keys", "admins", "key", "may_ask", "may_change"),
    [
        ((), (), None, True, True),  # nobody has asked for keys
        (("k",), (), "k", True, False),
        (("k",), (), None, False, False),
        (("k",), ("a",), "k", True, False),
        (("k",), ("a",), "a", True, True),
        ((), ("a",), None, True, False),
        ((), ("a",), "a", True, True),
    ],
)
def test_only_operators_change_the_cluster(tmp_path, keys, admins, key, may_ask, may_change):
    access = make_access(tmp_path, *keys, admins=admins)
    metadata = [("authorization", bearer(key))] if key else []
    for method in ("Chat", *ADMIN_RPCS):
        is_let_in = may_change if method in ADMIN_RPCS else may_ask
        try:
            client = access.enter_rpc(method, metadata)
        except (ForbiddenError, UnauthenticatedError):
            assert not is_let_in, method
        else:
            assert is_let_in, method
            assert current_client() is client


def test_refusals_and_actions_are_in_the_log_with_who_and_whence_and_no_key(tmp_path):
    access = make_access(tmp_path, "secret-of-ci name=ci", admins=["secret-of-ops name=ops"])
    for key in ("secret-guess", "secret-of-ci"):
        with pytest.raises((UnauthenticatedError, ForbiddenError)):
            access.enter("SetTopology", bearer(key), "10.0.0.9", as_admin=True)
    access.enter("SetTopology", bearer("secret-of-ops"), "10.0.0.\n8", as_admin=True)
    access.note_action("SetTopology", asked={"mode": "latency"})
    wrong, forbidden, action = lines(tmp_path)
    assert wrong["reason"] == "wrong key"
    assert (forbidden["who"], forbidden["reason"]) == ("ci", "not an admin key")
    assert (action["event"], action["who"]) == ("admin_action", "ops")
    assert action["asked"] == {"mode": "latency"}
    assert (wrong["peer"], action["peer"]) == ("10.0.0.9", "10.0.0.?8")
    text = (tmp_path / "audit").read_text()
    assert "secret" not in text
    assert hashlib.sha256(b"secret-of-ci").hexdigest() not in text
    assert stat.S_IMODE(os.stat(tmp_path / "audit").st_mode) == 0o600


def test_requests_are_in_the_log_with_their_sizes_only(tmp_path):
    access = make_access(tmp_path, "k name=ci")
    access.enter("/v1/chat/completions", bearer("k"))
    lease = access.lease("chat")
    lease.charge_prompt(7)
    lease.charge_answer(3)
    lease.release("stop")
    [line] = lines(tmp_path)
    assert set(line) == {
        *("at", "event", "who", "what", "outcome", "prompt_tokens", "completion_tokens")
    }
    assert (line["who"], line["prompt_tokens"], line["completion_tokens"]) == ("ci", 7, 3)


def test_one_who_tries_keys_does_not_fill_the_disk(tmp_path):
    clock = VirtualClock()
    audit = AuditLog(tmp_path / "audit", clock)
    for _ in range(REFUSALS_PER_MIN + 50):
        audit.refused("unknown", "Chat", "", "wrong key")
    assert len(lines(tmp_path)) == REFUSALS_PER_MIN
    clock.move_to(60.0)
    audit.refused("unknown", "Chat", "", "wrong key")
    assert lines(tmp_path)[-1]["left_out"] == 50


def test_lines_of_several_frontends_do_not_mix(tmp_path):
    path = tmp_path / "audit"

    def write(who):
        audit = AuditLog(path)
        for _ in range(50):
            audit.action(who, "SetTopology", "", asked={"mode": who * 20_000})

    threads = [threading.Thread(target=write, args=(who,)) for who in "abc"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    written = lines(tmp_path)
    assert len(written) == 150
    assert all(line["asked"]["mode"] == line["who"] * 20_000 for line in written)


def test_an_audit_log_that_cannot_be_written_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="audit_log"):
        AuditLog(tmp_path / "missing" / "audit")


# -- files that change ------------------------------------------------------------------------


def test_new_content_counts_once_it_has_stood_still_and_only_once(tmp_path):
    file = tmp_path / "f"
    file.write_text("one")
    watch = FileWatch([file])
    assert not watch.look()
    file.write_text("t")
    assert not watch.look()
    file.write_text("two")
    assert not watch.look()
    assert watch.look()
    assert not watch.look()
    file.unlink()
    assert not any(watch.look() for _ in range(3))
    file.write_text("two")
    assert not any(watch.look() for _ in range(3))


async def test_keys_are_rotated_while_they_are_used_and_a_slip_locks_nobody_out(tmp_path):
    file, metrics = tmp_path / "keys", MetricSet()
    file.write_text("old name=ci\n")
    files = KeyFiles(file, None, metrics)
    task = asyncio.create_task(files.keep_fresh(0.01))

    def changes(outcome):
        name = "galerne_api_key_file_changes_total"
        return metrics.registry.get_sample_value(name, {"outcome": outcome}) or 0

    owner = files.keys.owner(bearer("old"))
    file.write_text("new name=ci\n")
    await until(lambda: changes("taken") == 1)
    with pytest.raises(UnauthenticatedError):
        files.keys.check(bearer("old"))
    assert files.keys.check(bearer("new")).owner == owner
    file.write_text("")
    await until(lambda: changes("refused") == 1)
    assert files.keys.check(bearer("new")) is not ANYONE
    assert metrics.registry.get_sample_value("galerne_api_key_file_looks_total") >= 4
    task.cancel()
