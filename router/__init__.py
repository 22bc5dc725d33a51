"""The gateway: API, chat format, engine, model and exchange."""
