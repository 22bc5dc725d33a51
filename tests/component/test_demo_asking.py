"""Questions of the exam over a real gRPC server, with scripted answers behind it."""

import asyncio
import io

import grpc
import numpy as np
from PIL import Image

from cluster.demo.evaluation.asking import Reply, ask, ask_all, request_of
from cluster.demo.evaluation.exam import questions
from cluster.demo.lessons.document import Call, Document, Message
from cluster.demo.showcase import KILLED, PICTURE, SHOWN
from cluster.demo.training.render import demo_renderer
from galerne.v1 import inference_pb2_grpc
from helpers.api_servers import ids_of, make_frontend
from helpers.fake_gateway import Answer, FakeGateway
from router.api.grpc_server import build_grpc_server
from router.engine.request import FinishReason

CALLS, ARGS, THINK, END_THINK = 9, 32, 34, 35
EOS = 2


async def asked(gateway, use):
    """``use(stub)`` in a thread, as the CLI calls it."""
    built = build_grpc_server(make_frontend(gateway), "127.0.0.1:0")
    await built.server.start()

    def work():
        with grpc.insecure_channel(f"127.0.0.1:{built.port}") as channel:
            return use(inference_pb2_grpc.InferenceServiceStub(channel))

    try:
        return await asyncio.to_thread(work)
    finally:
        await built.server.stop(None)


def question(text="2+2=?", **fields):
    return Document("add", "en", "none", (Message("user", text, **fields), Message("assistant")))


async def test_a_reply_has_text_reasoning_ids_and_an_end():
    ids = ids_of(THINK, "2+2=4", END_THINK, "4")
    seen = []

    def use(stub):
        return ask(stub, question(), lambda event, count: seen.append(count))

    reply = await asked(FakeGateway(Answer(ids)), use)
    assert (reply.text, reply.thinking, reply.calls) == ("4", "2+2=4", ())
    assert reply.has_ended
    assert reply.token_ids == (*ids, EOS)
    assert seen[-1] == len(reply.token_ids)


async def test_calls_come_whole_and_broken_arguments_stay_visible():
    ids = ids_of(CALLS, "f", ARGS, '{"a": 1}', CALLS, "g", ARGS, '{"a": ')
    document = SHOWN[4].document  # offers tools
    reply = await asked(FakeGateway(Answer(ids)), lambda stub: ask(stub, document))
    assert reply.calls == (Call("f", {"a": 1}), Call("g", {"not JSON": '{"a": '}))


async def test_an_answer_cut_by_max_tokens_has_not_ended():
    gateway = FakeGateway(Answer(ids_of("4"), reason=FinishReason.LENGTH))
    reply = await asked(gateway, lambda stub: ask(stub, question()))
    assert isinstance(reply, Reply)
    assert not reply.has_ended


async def test_replies_keep_the_order_of_the_questions():
    gateway = FakeGateway()
    gateway.prepare = lambda run: run.play([Answer(run.request.prompt_token_ids[-4:-1])])
    documents = [question(f"word{i} {i}{i}") for i in range(12)]
    replies = await asked(gateway, lambda stub: list(ask_all(stub, documents, concurrency=5)))
    assert [reply.text[-2:] for reply in replies] == [f"{i}{i}"[-2:] for i in range(12)]


async def test_the_server_gives_the_model_what_the_training_rendered():
    """Every task at both efforts, with tools, calls, results and pictures, to the last id."""
    documents = [*questions(1, seed=5), *(shown.document for shown in (*SHOWN, KILLED))]
    gateway = FakeGateway(Answer(ids_of("x")), takes_images=True)
    await asked(gateway, lambda stub: list(ask_all(stub, documents, concurrency=1)))
    for document, run in zip(documents, gateway.runs, strict=True):
        prompt = document._replace(messages=document.messages[:-1])
        assert list(run.request.prompt_token_ids) == demo_renderer().render(prompt).ids


def test_a_picture_is_sent_without_loss():
    request = request_of(question(picture=PICTURE))
    image = Image.open(io.BytesIO(request.messages[0].content[0].image))
    assert np.array_equal(np.asarray(image), PICTURE.pixels())
