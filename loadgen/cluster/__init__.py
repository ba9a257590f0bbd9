"""How is a rule of a real cluster changed, and put back whatever happens? Everything here talks to a Kubernetes API server."""
