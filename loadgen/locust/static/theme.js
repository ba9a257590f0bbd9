// Light or dark? As Locust's own page says, which keeps the choice under this key, or as the system prefers.
"use strict";
(() => {
  const root = document.documentElement;
  const system = matchMedia("(prefers-color-scheme: dark)");

  function chosen() {
    try {
      return localStorage.getItem("theme");
    } catch {
      return null; // storage may be forbidden
    }
  }

  function show() {
    const choice = chosen();
    root.dataset.theme = choice === "dark" || (choice === null && system.matches) ? "dark" : "light";
    root.dispatchEvent(new Event("themed"));
  }

  root.addEventListener("switched", () => {
    const next = root.dataset.theme === "dark" ? "light" : "dark";
    try {
      localStorage.setItem("theme", next);
      show();
    } catch {
      root.dataset.theme = next;
      root.dispatchEvent(new Event("themed"));
    }
  });
  addEventListener("storage", show);
  system.addEventListener("change", show);
  show();
})();
