"""Limits of keys over several frontends are those of one."""

import os
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from galerne.clock import VirtualClock
from galerne.errors import ConfigError
from router.api.key_limits import KeyLimiter, KeyLimitError
from router.api.keys import Client, KeyLimits
from router.api.shared_accounts import MAX_MEMBERS, SharedAccounts

ROOT = Path(__file__).parents[2]
PAIR = Client("pair", b"pair", KeyLimits(concurrency=2))


@pytest.fixture
def directory(tmp_path):
    return tmp_path / "accounts"


@pytest.fixture
def join(directory):
    """One frontend more: its limiter, with ``accounts``."""
    joined = []

    def join(clock=None):
        limiter = KeyLimiter(clock or VirtualClock(), None)
        limiter.accounts = SharedAccounts(directory)
        limiter._cells_of = limiter.accounts.cells
        joined.append(limiter.accounts)
        return limiter

    yield join
    for accounts in joined:
        with suppress(OSError):
            accounts.close()


def is_admitted(limiter, client):
    """The account if there was room."""
    try:
        return limiter.admit(client)
    except KeyLimitError:
        return None


steps = st.lists(
    st.tuples(
        st.integers(0, 2),  # at which frontend
        st.sampled_from(["ask", "ask", "end", "charge"]),
        st.floats(0, 20),  # seconds since the step before
        st.integers(0, 12),
    ),
    max_size=60,
)


@given(
    steps,
    st.tuples(*3 * [st.none() | st.integers(1, 6)]).filter(any),
)
def test_several_frontends_admit_and_refuse_as_one_would(tmp_path_factory, steps, limits):
    """The slow reference is one limiter that sees every request."""
    names = ("requests_per_min", "tokens_per_min", "concurrency")
    client = Client("c", b"c", KeyLimits(**dict(zip(names, limits, strict=True))))
    clock = VirtualClock()
    clock.move_to(1.0)
    one = KeyLimiter(clock)
    shared = [SharedAccounts(tmp_path_factory.mktemp("a") / "b")]
    shared += [SharedAccounts(shared[0]._directory) for _ in range(2)]
    three = [KeyLimiter(clock, accounts.cells) for accounts in shared]
    running = []
    for frontend, do, pause_s, amount in steps:
        clock.move_to(clock.now_s() + pause_s)
        if do == "ask":
            expected, got = is_admitted(one, client), is_admitted(three[frontend], client)
            assert (expected is None) == (got is None)
            if got is not None:
                running.append((expected, got))
        elif running:
            for account in running[amount % len(running)]:
                account.release() if do == "end" else account.charge(amount)
            if do == "end":
                del running[amount % len(running)]
    for accounts in shared:
        accounts.close()


def test_what_a_frontend_ran_that_died_is_free_again(join):
    first, second = join(), join()
    assert is_admitted(first, PAIR)
    assert is_admitted(first, PAIR)
    assert not is_admitted(second, PAIR)
    first.accounts.close()  # as the kernel does it when the process ends
    assert is_admitted(second, PAIR)
    assert is_admitted(second, PAIR)


def test_a_successor_does_not_inherit_what_its_number_ran(join):
    first, second = join(), join()
    assert is_admitted(first, PAIR)
    first.accounts.close()
    third = join()
    assert third.accounts._own == 0
    assert is_admitted(third, PAIR)
    assert is_admitted(second, PAIR)
    assert not is_admitted(third, PAIR)


def test_a_process_that_is_killed_frees_what_it_held(directory, join):
    holder = (
        "import sys; from pathlib import Path\n"
        "from router.api.shared_accounts import SharedAccounts\n"
        "accounts = SharedAccounts(Path(sys.argv[1]))\n"
        "accounts.cells(b'pair').add_running(2)\n"
        "print('held', flush=True); sys.stdin.read()\n"
    )
    limiter = join()
    paths = os.pathsep.join(str(ROOT / part) for part in (".", "proto"))
    child = subprocess.Popen(
        [sys.executable, "-P", "-c", holder, str(directory)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": paths},
        text=True,
    )
    try:
        assert child.stdout.readline() == "held\n"
        assert not is_admitted(limiter, PAIR)
    finally:
        child.kill()
        child.wait(60)
        child.stdin.close()
        child.stdout.close()
    assert is_admitted(limiter, PAIR)


def test_a_budget_outlives_its_frontends(join):
    """A restart is no way to more than the limit."""
    client = Client("c", b"c", KeyLimits(requests_per_min=1))
    first = join()
    assert is_admitted(first, client)
    first.accounts.close()
    assert not is_admitted(join(), client)


def test_at_the_same_moment_no_more_are_admitted_than_may_be(join):
    client = Client("c", b"c", KeyLimits(concurrency=25))
    limiters = [join() for _ in range(4)]
    admitted = []

    def ask(limiter):
        for _ in range(25):
            if is_admitted(limiter, client):
                admitted.append(1)

    threads = [threading.Thread(target=ask, args=(limiter,)) for limiter in limiters]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(admitted) == 25


def test_a_directory_that_others_could_write_is_refused(tmp_path, directory):
    directory.mkdir(mode=0o777)
    directory.chmod(0o777)
    with pytest.raises(ConfigError, match="mode 0700"):
        SharedAccounts(directory)
    link = tmp_path / "link"
    (tmp_path / "real").mkdir(mode=0o700)
    link.symlink_to(tmp_path / "real")
    with pytest.raises(ConfigError, match="key_accounts"):
        SharedAccounts(link)


def test_a_directory_that_is_put_in_its_place_later_is_not_written_to(tmp_path, directory, join):
    first = join()
    directory.rename(tmp_path / "moved")
    directory.mkdir(mode=0o777)
    assert is_admitted(first, PAIR)
    assert list(directory.iterdir()) == []
    assert list((tmp_path / "moved").glob("*.account"))


def test_there_is_a_limit_to_the_frontends_of_a_host(join, directory):
    for _ in range(MAX_MEMBERS):
        join()
    with pytest.raises(ConfigError, match=f"{MAX_MEMBERS} frontends"):
        SharedAccounts(directory)
