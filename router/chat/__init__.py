"""Chat format: requests to ids, ids to reasoning, content and tool calls. No torch."""
