"""What does a DestinationRule do to a client's sidecar? Read it, see which one wins, translate it, say what Istio ignores."""
