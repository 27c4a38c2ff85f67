"""The gRPC services. Each method turns a request into calls of what does the work, and the outcome into a reply."""
