"""The public HTTP and gRPC ports, as a Ray Serve application."""
