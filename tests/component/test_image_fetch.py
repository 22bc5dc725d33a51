"""Images by URL: a real server on loopback behind names that the test resolves."""

import asyncio
import base64
import io
from contextlib import asynccontextmanager

import grpc
import httpx
import pytest
from aiohttp import web
from PIL import Image

from galerne.errors import InvalidRequestError
from galerne.v1 import inference_pb2 as pb
from galerne.v1 import inference_pb2_grpc as pb_grpc
from helpers.api_servers import grpc_channel, http_served, ids_of, make_frontend
from helpers.fake_gateway import Answer, FakeGateway
from router.api.image_fetch import ImageFetcher
from router.api.image_urls import ImageUrlPolicy
from router.api.inputs import ApiLimits
from router.chat.convert import ImageSource
from router.chat.image_files import ImageLimits

LOOPBACK = ("127.0.0.0/8",)


def png(colour="teal"):
    file = io.BytesIO()
    Image.new("RGB", (56, 28), colour).save(file, "PNG")
    return file.getvalue()


class Resolver:
    """Answers what the test says, and remembers who was asked for."""

    def __init__(self, **addresses):
        self.addresses = addresses
        self.asked = []

    async def __call__(self, host):
        self.asked.append(host.name)
        answers = self.addresses[host.name.removesuffix(".test")]
        return answers.pop(0) if isinstance(answers[0], list) else answers


class Site:
    """What a server was asked for, and what it answers."""

    def __init__(self):
        self.seen = []
        self.port = 0
        self.never = asyncio.Event()

    async def answer(self, request):
        self.seen.append((request.host, request.path, dict(request.headers)))
        match request.path.split("/")[1:]:
            case ["image"]:
                return web.Response(body=png(), content_type="image/png")
            case ["status", code]:
                return web.Response(status=int(code), text="secret of the inside")
            case ["to"]:
                return web.Response(status=302, headers={"Location": request.query["url"]})
            case ["nowhere"]:
                return web.Response(status=302)
            case ["endless"]:
                return await self._endless(request)
            case ["silent"]:
                await self.never.wait()
        return web.Response(status=404)

    async def _endless(self, request):
        stream = web.StreamResponse()
        await stream.prepare(request)
        try:
            while True:
                await stream.write(bytes(10_000))
        except ConnectionResetError:
            return stream


@asynccontextmanager
async def site():
    made = Site()
    app = web.Application()
    app.router.add_get("/{path:.*}", made.answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    served = web.TCPSite(runner, "127.0.0.1", 0)
    await served.start()
    made.port = runner.addresses[0][1]
    try:
        yield made
    finally:
        made.never.set()
        await runner.cleanup()


def fetcher(port, resolve=None, limits=None, **changes):
    changes = {"hosts": (f"*.test:{port}", f"127.0.0.1:{port}"), "networks": LOOPBACK} | changes
    resolve = resolve or Resolver(img=["127.0.0.1"], other=["127.0.0.1"])
    return ImageFetcher(ImageUrlPolicy(**changes), limits or ImageLimits(), resolve)


async def refused(made, url, field="f"):
    with pytest.raises(InvalidRequestError) as caught:
        await made.fetch([ImageSource(url, field)])
    assert caught.value.field == field
    return caught.value.problem


async def test_file_comes_from_the_address_that_was_looked_up_once():
    async with site() as made:
        resolve = Resolver(img=["127.0.0.1"])
        urls = [f"http://img.test:{made.port}/image{q}" for q in ("", "?b", "")]
        sources = [ImageSource(url, f"f{i}") for i, url in enumerate(urls)]
        fetched = await fetcher(made.port, resolve).fetch(sources)
        assert fetched == dict.fromkeys(urls[:2], png())
        assert len(made.seen) == len(resolve.asked) == 2
        host, _, headers = made.seen[0]
        assert host == f"img.test:{made.port}"
        assert not {"Cookie", "Authorization", "Referer"} & headers.keys()
        assert headers["Accept-Encoding"] == "identity"


@pytest.mark.parametrize(
    "addresses",
    [
        ["10.0.0.1"], ["169.254.169.254"], ["::1"], ["::ffff:10.0.0.1"], ["fe80::1%eth0"],
        ["93.184.216.34", "10.0.0.1"], ["not an address"],
    ],
)  # fmt: skip
async def test_name_with_an_address_that_is_not_public_is_not_connected_to(addresses):
    problem = await refused(
        fetcher(80, Resolver(img=addresses), hosts=("img.test",)), "http://img.test/image"
    )
    assert problem == "img.test has an address to which this server does not connect"


async def test_loopback_is_refused_by_name_and_by_number_unless_its_network_is_named():
    async with site() as made:
        resolve = Resolver(img=["127.0.0.1"], **{"127.0.0.1": ["127.0.0.1"]})
        closed = fetcher(made.port, resolve, networks=())
        for host in ("img.test", "127.0.0.1"):
            told = await refused(closed, f"http://{host}:{made.port}/image")
            assert "does not connect" in told
        assert made.seen == []


async def test_second_answer_of_a_name_server_is_never_asked_for():
    async with site() as made:
        rebinding = Resolver(img=[["127.0.0.1"], ["10.0.0.1"]])
        one = fetcher(made.port, rebinding)
        assert await one.fetch([ImageSource(f"http://img.test:{made.port}/image", "f")])
        assert rebinding.asked == ["img.test"]
        assert "does not connect" in await refused(one, f"http://img.test:{made.port}/image")
        assert len(made.seen) == 1


async def test_redirect_is_followed_to_another_listed_host():
    async with site() as made:
        resolve = Resolver(img=["127.0.0.1"], other=["127.0.0.1"])
        target = f"http://other.test:{made.port}/image"
        url = f"http://img.test:{made.port}/to?url={target}"
        assert await fetcher(made.port, resolve).fetch([ImageSource(url, "f")]) == {url: png()}
        relative = f"http://img.test:{made.port}/to?url=/image"
        fetched = await fetcher(made.port, resolve).fetch([ImageSource(relative, "f")])
        assert fetched == {relative: png()}
        assert resolve.asked == ["img.test", "other.test", "img.test", "img.test"]


@pytest.mark.parametrize(
    ("path", "problem"),
    [
        ("to?url=http://elsewhere.org/image", "not among the hosts"),
        ("to?url=http://127.0.0.1:1/image", "not among the hosts"),
        ("to?url=http://inside.test:PORT/image", "does not connect"),
        ("to?url=http://me:secret@img.test:PORT/image", "user or password"),
        ("to?url=file:///etc/passwd", "http or https"),
        ("to?url=/to%3Furl%3D/to%253Furl%253D/to%25253Furl%25253D/image", "more than 3 times"),
        ("nowhere", "without a usable place"),
        ("status/404", "answers 404"),
        ("status/500", "answers 500"),
        ("status/204", "answers 204"),
    ],
)
async def test_answer_that_is_no_file_of_an_allowed_host_is_refused(path, problem):
    async with site() as made:
        resolve = Resolver(img=["127.0.0.1"], inside=["10.0.0.1"])
        url = f"http://img.test:{made.port}/{path.replace('PORT', str(made.port))}"
        told = await refused(fetcher(made.port, resolve), url)
        assert problem in told
        assert "secret" not in told


async def test_file_is_given_up_at_the_limit_while_it_comes():
    async with site() as made:
        url = f"http://img.test:{made.port}/endless"
        limits = ImageLimits(max_bytes=200_000)
        assert "larger than 200000 bytes" in await refused(fetcher(made.port, limits=limits), url)
        together = fetcher(made.port, max_request_bytes=150_000)
        assert "150000 bytes together" in await refused(together, url)


async def test_host_that_stays_silent_and_one_that_is_not_there_cost_the_deadline_at_most():
    async with site() as made:
        quick = fetcher(made.port, timeout_s=0.3)
        assert "within 0.3 s" in await refused(quick, f"http://img.test:{made.port}/silent")
    gone = await refused(fetcher(made.port), f"http://img.test:{made.port}/image")
    assert gone.startswith("cannot be fetched: ")


async def test_nothing_is_fetched_for_a_request_with_one_url_that_is_not_allowed():
    async with site() as made:
        sources = [
            ImageSource(f"http://img.test:{made.port}/image", "first"),
            ImageSource("http://elsewhere.org/image", "second"),
        ]
        with pytest.raises(InvalidRequestError, match=r"^second: "):
            await fetcher(made.port).fetch(sources)
        assert made.seen == []


def asking(url):
    parts = [{"type": "text", "text": "See"}, {"type": "image_url", "image_url": {"url": url}}]
    return {"messages": [{"role": "user", "content": parts}]}


async def test_image_by_url_reaches_the_gateway_from_http_and_grpc_as_one_sent_along_does():
    async with site() as made:
        gateway = FakeGateway(Answer(ids_of("ok")), takes_images=True)
        urls = ImageUrlPolicy(hosts=(f"127.0.0.1:{made.port}",), networks=LOOPBACK)
        frontend = make_frontend(gateway, limits=ApiLimits(image_urls=urls))
        url = f"http://127.0.0.1:{made.port}/image"
        sent_along = f"data:image/png;base64,{base64.b64encode(png()).decode()}"
        async with http_served(frontend) as base, httpx.AsyncClient(base_url=base) as client:
            for one in (url, sent_along):
                answer = await client.post("/v1/chat/completions", json=asking(one))
                assert answer.status_code == 200, answer.text
        async with grpc_channel(frontend) as channel:
            part = pb.ContentPart(image_url=url)
            chat = pb.ChatRequest(messages=[pb.ChatMessage(role="user", content=[part])])
            async for _ in pb_grpc.InferenceServiceStub(channel).Chat(chat):
                pass
        hashes = {run.request.images[0].content_hash for run in gateway.runs}
        assert len(gateway.runs) == 3
        assert len(hashes) == 1
        assert len(made.seen) == 2


async def test_url_is_refused_by_its_field_where_no_host_is_listed():
    frontend = make_frontend(FakeGateway(Answer([]), takes_images=True))
    url = "http://169.254.169.254/latest/meta-data"
    async with http_served(frontend) as base, httpx.AsyncClient(base_url=base) as client:
        answer = await client.post("/v1/chat/completions", json=asking(url))
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "messages[0].content[1].image_url.url"
    async with grpc_channel(frontend) as channel:
        part = pb.ContentPart(image_url=url)
        chat = pb.ChatRequest(messages=[pb.ChatMessage(role="user", content=[part])])
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await pb_grpc.InferenceServiceStub(channel).Chat(chat).read()
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert caught.value.details().startswith("messages[0].content[0].image_url: ")
