"""The public API: gRPC servicers and the OpenAI-compatible HTTP app."""
