"""Files of requests, answered one by one: OpenAI's batch format, resumable."""
