"""One prompt over gRPC, and the tokens that came."""

from galerne.v1 import inference_pb2 as pb


def generate(tokens=40, **sampling):
    # Hot, and without repetitions: the small model would say one token for ever.
    fields = {"temperature": 1.0, "repetition_penalty": 1.5, "seed": 5} | sampling
    fields |= {"max_tokens": tokens, "ignore_eos": True}
    return pb.GenerateRequest(text="The Loire ends", sampling=pb.SamplingParams(**fields))


def tokens_of(events):
    return [t for e in events if e.HasField("tokens") for t in e.tokens.token_ids]
