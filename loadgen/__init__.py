"""loadgen shows what an Istio connection-pool limit really does, with three witnesses that must agree."""

__version__ = "0.1.0"
