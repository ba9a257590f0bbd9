"""The mesh's side of Locust: a process of its own that toggles the policy and keeps the books, because Locust's own is monkey-patched."""
