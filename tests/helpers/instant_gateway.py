"""A gateway in a process of its own whose tokens cost nothing: what is left is what is around it.

A request's ``priority`` says how many milliseconds are between its tokens.
"""

import asyncio
import itertools

import grpc

from galerne.hello import check_token
from galerne.v1 import inference_pb2 as pb
from galerne.v1 import internal_pb2 as internal
from galerne.v1 import internal_pb2_grpc
from helpers.fake_gateway import model_facts
from helpers.gateway_process import TOKEN
from helpers.part_process import PartProcess
from router.engine.gateway_port import GatewayLoad
from router.gateway.codec import encode_facts, encode_load
from router.gateway.member import ACCEPTED

_FIRST_WORD = 1000  # token ids below are control tokens


class InstantGateway(PartProcess):
    """Serves as long as it is not closed."""

    def __init__(self):
        super().__init__(__file__)


class Servicer(internal_pb2_grpc.GatewayServiceServicer):
    """Answers with words of the vocabulary, one after the other."""

    async def Submit(self, request, context):
        check_token(context.invocation_metadata(), TOKEN)
        await context.send_initial_metadata(((ACCEPTED, "1"),))
        num_tokens, pause_s = request.sampling.max_tokens, request.priority / 1000
        due_s = asyncio.get_running_loop().time()
        words = itertools.cycle(range(_FIRST_WORD, _FIRST_WORD + 4096))
        for offset, token in zip(range(num_tokens), words, strict=False):
            if pause_s:
                due_s += pause_s
                await asyncio.sleep(max(0.0, due_s - asyncio.get_running_loop().time()))
            is_last = offset + 1 == num_tokens
            reason = pb.FINISH_REASON_LENGTH if is_last else pb.FINISH_REASON_UNSPECIFIED
            yield internal.SubmitEvent(offset=offset, token_ids=[token], finish_reason=reason)

    async def DescribeGateway(self, request, context):
        check_token(context.invocation_metadata(), TOKEN)
        return internal.GatewayDescription(
            model=encode_facts(model_facts()), load=encode_load(GatewayLoad())
        )


async def serve():
    server = grpc.aio.server()
    internal_pb2_grpc.add_GatewayServiceServicer_to_server(Servicer(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(f"127.0.0.1:{port}", flush=True)
    await server.wait_for_termination()


if __name__ == "__main__":
    import os
    import sys
    import threading

    def end_with_input():
        sys.stdin.read()
        os._exit(0)

    threading.Thread(target=end_with_input, daemon=True).start()
    asyncio.run(serve())
