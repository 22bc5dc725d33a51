"""A gateway process: engine and model behind the internal ``GatewayService``, and its client."""
