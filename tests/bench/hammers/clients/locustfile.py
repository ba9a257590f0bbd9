"""The load as people write it for Locust: users on its fast client, without a wait."""

from __future__ import annotations

from locust import FastHttpUser, task


class Visitor(FastHttpUser):
    @task
    def visit(self) -> None:
        self.client.get("/")
