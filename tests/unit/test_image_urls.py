"""What may be fetched: hosts by list, addresses by their kind."""

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.config import load_config
from galerne.errors import ConfigError, InvalidRequestError
from router.api.image_urls import ImageUrlPolicy, check_url

LISTED = ImageUrlPolicy(hosts=("example.org", "*.cdn.org", "files.org:8443", "127.0.0.1"))
ALL = ImageUrlPolicy(hosts=("*",))


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("https://elsewhere.org/a.png", "not among the hosts"),
        ("https://example.org.evil.org/a.png", "not among the hosts"),
        ("https://notexample.org/a.png", "not among the hosts"),
        ("https://cdn.org/a.png", "not among the hosts"),
        ("https://evilcdn.org/a.png", "not among the hosts"),
        ("https://example.org:444/a.png", "not among the hosts"),
        ("http://example.org:443/a.png", "not among the hosts"),
        ("https://files.org/a.png", "not among the hosts"),
        ("https://example.org@elsewhere.org/a.png", "user or password"),
        ("https://me:secret@example.org/a.png", "user or password"),
        ("https://elsewhere.org\\@example.org/a.png", "."),
        ("https://elsewhere.org#@example.org/a.png", "not among the hosts"),
        ("https://elsewhere.org?@example.org/a.png", "not among the hosts"),
        ("ftp://example.org/a.png", "http or https"),
        ("file://example.org/etc/passwd", "http or https"),
        ("gopher://example.org/", "http or https"),
        ("http:///a.png", "URL"),
        ("http://", "URL"),
        ("//example.org/a.png", "http or https"),
        ("http://[::1", "not a URL"),
        ("http://example.org:99999/", "not a URL"),
        ("http://2130706433/", "not among the hosts"),
        ("http://0x7f.1/", "not among the hosts"),
    ],
)
def test_url_that_is_not_allowed_is_refused_by_its_field(url, problem):
    with pytest.raises(InvalidRequestError, match=problem) as caught:
        check_url(url, LISTED, "messages[0]")
    assert caught.value.field == "messages[0]"


@pytest.mark.parametrize(
    "url",
    [
        "https://example.org/a.png",
        "HTTPS://EXAMPLE.ORG/a.png",
        "http://example.org./a.png",
        "http://example.org:80/a.png?x=y",
        "https://a.b.cdn.org/a.png",
        "https://files.org:8443/a.png",
        "http://127.0.0.1/a.png",  # the address is another question
    ],
)
def test_url_of_a_listed_host_is_allowed_at_its_port(url):
    found, host = check_url(url + "#part", LISTED, "f")
    assert found.raw_fragment == ""
    assert host.name == host.name.lower().rstrip(".")


def test_no_host_is_allowed_unless_named():
    with pytest.raises(InvalidRequestError, match="not among the hosts"):
        check_url("https://example.org/a.png", ImageUrlPolicy(), "f")


REFUSED = [
    "0.0.0.0", "10.0.0.1", "100.64.0.1", "127.0.0.1", "127.255.255.254", "169.254.169.254",
    "172.16.0.1", "172.31.255.255", "192.0.0.8", "192.0.2.1", "192.88.99.1", "192.168.1.1",
    "198.18.0.1", "198.51.100.7", "203.0.113.9", "224.0.0.1", "239.255.255.250", "240.0.0.1",
    "255.255.255.255", "::", "::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:169.254.169.254",
    "::127.0.0.1", "64:ff9b::7f00:1", "64:ff9b:1::7f00:1", "100::1", "2001::1", "2001:db8::1",
    "2001:0:4136:e378:8000:63bf:3fff:fdd2", "2002:7f00:1::", "3fff::1", "5f00::1", "fc00::1",
    "fd12:3456::1", "fe80::1", "fe80::1%eth0", "fec0::1", "ff02::1", "", "localhost", "1.2.3",
]  # fmt: skip


@pytest.mark.parametrize("address", REFUSED)
def test_address_that_is_not_public_is_not_reached(address):
    assert not ALL.reaches(address)


@pytest.mark.parametrize(
    "address", ["1.1.1.1", "93.184.216.34", "::ffff:93.184.216.34", "2606:4700:4700::1111"]
)
def test_public_address_is_reached(address):
    assert ALL.reaches(address)


PRIVATE = [ipaddress.ip_network(n) for n in ("10.0.0.0/8", "127.0.0.0/8", "192.168.0.0/16")]


@given(st.sampled_from(PRIVATE), st.integers(0, 2**24 - 1))
def test_private_address_is_refused_in_every_spelling(network, number):
    address = network[number % network.num_addresses]
    value = int(address)
    assert not ALL.reaches(str(address))
    for prefix in ("::ffff:0:0", "64:ff9b::", "::"):
        assert not ALL.reaches(
            str(ipaddress.IPv6Address(int(ipaddress.ip_address(prefix)) + value))
        )
    assert not ALL.reaches(str(ipaddress.IPv6Address((0x2002 << 112) + (value << 80))))


def test_named_network_is_reached_and_no_other():
    inside = ImageUrlPolicy(hosts=("*",), networks=("10.1.0.0/16", "fd00:1::/32"))
    reached = ["10.1.2.3", "::ffff:10.1.2.3", "fd00:1::5", "1.1.1.1"]
    assert all(map(inside.reaches, reached))
    assert not any(map(inside.reaches, ["10.2.0.1", "fd00:2::5", "127.0.0.1"]))


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"image_url_hosts": ["https://example.org"]}, "image_url_hosts"),
        ({"image_url_hosts": ["exa mple.org"]}, "image_url_hosts"),
        ({"image_url_hosts": ["a.*.org"]}, "image_url_hosts"),
        ({"image_url_hosts": ["example.org:0"]}, "image_url_hosts"),
        ({"image_url_hosts": ["example.org:70000"]}, "image_url_hosts"),
        ({"image_url_networks": ["10.0.0.1/8"]}, "image_url_networks"),
        ({"image_url_networks": ["ten"]}, "image_url_networks"),
        ({"images": {"timeout_s": 0}}, "images.timeout_s"),
        ({"images": {"max_pixel": 1}}, "images.max_pixel"),
        ({"images": {"patches_per_step": 0}}, "images.patches_per_step"),
    ],
)
def test_wrong_setting_is_refused_by_name(change, key):
    with pytest.raises(ConfigError) as caught:
        load_config(None, change)
    assert caught.value.key == key


def test_settings_reach_the_parts_that_keep_them():
    config = load_config(
        None,
        {
            "image_url_hosts": ["example.org"],
            "image_url_networks": ["10.0.0.0/8"],
            "images": {"max_images": 3, "cache_bytes": 77, "timeout_s": 2},
        },
    )
    assert config.images.limits.max_images == 3
    assert config.images.vision.cache_bytes == 77
    assert config.image_urls == ImageUrlPolicy(
        hosts=("example.org",), networks=("10.0.0.0/8",), timeout_s=2
    )
    assert load_config(None, {}).image_urls == ImageUrlPolicy()
