// Shows what the desk says once a second, and asks it to toggle. All text from outside goes into the page as text.
"use strict";
(() => {
  const NAME = "mesh-policy";
  const POLL_MS = 1000;
  const TOGGLING_MS = 250; // what a toggle has come to is shown within a second
  const AWAY_MS = 3000;
  const CHECK_MS = 500;
  const CHECKED_CHARACTERS = 65536; // a longer text is checked when it is applied
  const MAX_POINTS = 600; // more seconds are taken together, so that neither a day nor a year of them costs more
  const NOW_S = 3;
  const WAIT_MS = 30_000; // longer than Locust waits for the desk
  const TOGGLE_MS = 200_000; // longer than Locust itself waits, in a cluster, too
  const token = document.querySelector('meta[name="loadgen-token"]').content;
  const root = document.documentElement;
  const at = (id) => document.getElementById(id);
  const editor = at("rule");
  const scenarioRule = editor.value;
  const GROUPS = ["ok", "overflow", "other"];

  let state = null;
  let away = ""; // why there is no answer
  let busy = ""; // what was asked and is not done
  let ended = 0; // how many toggles that were asked here have ended
  let own = false; // whether what was asked here, and failed, may have moved the turn
  let written = scenarioRule; // what the page itself has put into the editor
  let outcome = ""; // what came of it, if that was not good
  let turn = ""; // the state's, which changes with every toggle and test
  let inForce = null; // the text of the rule that is in force
  let learnt = ""; // the turn since which it is
  let problems = [];
  let checked = "";

  // Text.

  const say = (node, text) => {
    if (node.textContent !== text) node.textContent = text;
  };
  const count = (value) => (value == null ? "–" : value.toLocaleString("en"));
  const rate = (value) => (value == null ? "–" : value.toLocaleString("en", { maximumFractionDigits: 1 }));
  const share = (part, all) => (all ? `${((100 * part) / all).toFixed(part && part < all ? 1 : 0)} %` : "–");
  const clock = (seconds) => `${rate(seconds)} s`;
  const limitsOf = (limits) =>
    Object.entries(limits)
      .map(([name, value]) => `${name} ${value}`)
      .join(", ") || "none";
  const many = (number, what) => `${count(number)} ${what}${number === 1 ? "" : "s"}`;

  function made(kind, text, className) {
    const node = document.createElement(kind);
    if (text !== undefined) node.textContent = text;
    if (className) node.className = className;
    return node;
  }

  // The seconds: as many as are drawn, each bar as long as `step`.

  const plotted = { test: "", seen: 0, step: 1, ok: [], overflow: [], other: [], recent: [], toggles: [] };

  function forget(test) {
    Object.assign(plotted, { test, seen: 0, step: 1, ok: [], overflow: [], other: [], recent: [], toggles: [] });
  }

  function take(timeline) {
    if (timeline.toggles.length !== plotted.toggles.length) plotted.recent = []; // "now" is since the last toggle
    plotted.toggles = timeline.toggles;
    if (timeline.from !== plotted.seen) return; // of another test: the next answer begins at its first second
    for (let index = 0; index < timeline.ok.length; index += 1) {
      let bar = Math.floor(plotted.seen / plotted.step);
      if (bar >= MAX_POINTS) {
        for (const group of GROUPS) plotted[group] = halved(plotted[group]);
        plotted.step *= 2;
        bar = Math.floor(plotted.seen / plotted.step);
      }
      for (const group of GROUPS) plotted[group][bar] = (plotted[group][bar] ?? 0) + timeline[group][index];
      plotted.seen += 1;
      plotted.recent.push(GROUPS.map((group) => timeline[group][index]));
      if (plotted.recent.length > NOW_S) plotted.recent.shift();
    }
  }

  function halved(values) {
    const half = [];
    for (let index = 0; index < values.length; index += 2) half.push(values[index] + (values[index + 1] ?? 0));
    return half;
  }

  function columns() {
    const { step, seen } = plotted;
    const bars = plotted.ok.length;
    if (!bars) return [[0, 1], ...GROUPS.map(() => [null, null])];
    const starts = plotted.ok.map((_, bar) => bar * step);
    const rates = GROUPS.map((group) => plotted[group].map((sum, bar) => sum / Math.min(step, seen - bar * step)));
    return [[...starts, seen], ...rates.map((values) => [...values, values[bars - 1]])]; // a bar lasts until its end
  }

  // The plot.

  const colour = (name) => getComputedStyle(root).getPropertyValue(`--${name}`).trim();
  const place = at("plot");

  function ruled() {
    const spans = [];
    for (const { policy, at_s: from } of plotted.toggles) {
      if (spans.length && spans[spans.length - 1][1] === null) spans[spans.length - 1][1] = from;
      if (policy === "applied") spans.push([from, null]);
    }
    return spans.map(([from, to]) => [from, to ?? Math.max(from, plotted.seen)]); // what is to come is not known
  }

  const marks = {
    hooks: {
      drawClear: (u) => {
        const { ctx, bbox } = u;
        ctx.fillStyle = colour("band");
        for (const [from, to] of ruled()) {
          const [begin, end] = [from, Math.min(to, u.scales.x.max)].map((second) => Math.min(bbox.left + bbox.width, Math.max(bbox.left, u.valToPos(second, "x", true))));
          if (end > begin) ctx.fillRect(begin, bbox.top, end - begin, bbox.height);
        }
      },
      draw: (u) => {
        for (const { at_s: toggled, converged_s: shown } of plotted.toggles) {
          upright(u, shown, "convergence", []);
          upright(u, toggled, "toggle", [3, 3]);
        }
      },
    },
  };

  function upright(u, second, name, dash) {
    const { ctx, bbox } = u;
    const x = Math.round(u.valToPos(second, "x", true));
    if (x < bbox.left || x > bbox.left + bbox.width) return;
    ctx.save();
    ctx.strokeStyle = colour(name);
    ctx.lineWidth = 2 * devicePixelRatio;
    ctx.setLineDash(dash.map((length) => length * devicePixelRatio));
    ctx.beginPath();
    ctx.moveTo(x, bbox.top);
    ctx.lineTo(x, bbox.top + bbox.height);
    ctx.stroke();
    ctx.restore();
  }

  const axis = { stroke: () => colour("axis"), grid: { stroke: () => colour("grid"), width: 1 }, ticks: { stroke: () => colour("grid"), width: 1 } };
  const DASHES = { ok: [], overflow: [10, 4], other: [2, 3] };
  const plot = new uPlot(
    {
      width: place.clientWidth,
      height: 260,
      padding: [12, 16, 0, 0],
      plugins: [marks],
      cursor: { y: false, drag: { x: false, y: false } },
      scales: { x: { time: false, range: (_, low, high) => [low, Math.max(high, low + 10)] }, y: { range: (_, low, high) => [0, Math.max(1, (high ?? 0) * 1.05)] } },
      axes: [
        { ...axis, values: (_, ticks) => ticks.map((tick) => `${+tick.toFixed(1)} s`), space: 60, size: 32 },
        { ...axis, values: (_, ticks) => ticks.map(rate), size: 62, space: 32 },
      ],
      series: [
        { label: "second", value: (_, value) => (value == null ? "–" : `${Math.floor(value)}`) },
        ...GROUPS.map((group) => ({
          label: group,
          stroke: () => colour(group),
          width: 2,
          dash: DASHES[group],
          paths: uPlot.paths.stepped({ align: 1 }),
          value: (_, value) => rate(value),
          points: { show: false },
        })),
      ],
    },
    columns(),
    place,
  );
  plot.root.querySelector("canvas").setAttribute("aria-hidden", "true");
  new ResizeObserver(() => {
    if (place.clientWidth > 0 && Math.abs(place.clientWidth - plot.width) > 1) plot.setSize({ width: place.clientWidth, height: plot.height });
  }).observe(place);
  root.addEventListener("themed", () => plot.redraw(false));

  // Tables: a cell is only touched if it says something new.

  function table(node, heads) {
    const row = node.createTHead().insertRow();
    for (const [text, isWord] of heads) {
      const head = row.appendChild(made("th", text, isWord === true ? "word" : isWord));
      head.scope = "col";
    }
    const body = node.createTBody();
    return (rows) => {
      while (body.rows.length > rows.length) body.deleteRow(-1);
      rows.forEach((cells, index) => {
        const line = body.rows[index] ?? body.insertRow();
        cells.forEach((cell, column) => {
          const [text, alarm] = Array.isArray(cell) ? cell : [cell, false];
          let there = line.cells[column];
          if (!there) {
            there = line.appendChild(made(column ? "td" : "th", "", heads[column][1] === true ? "word" : heads[column][1]));
            if (!column) there.scope = "row";
          }
          say(there, text);
          there.classList.toggle("alarm", alarm);
        });
      });
    };
  }

  const COUNTS = [["ok"], ["overflow"], ["other"], ["overflow share"], ["Ledger: client"], ["sidecar"], ["difference"]];
  const showClients = table(at("clients"), [
    ["Client", true],
    ["Rule in force", true],
    ["Limits", "wide"],
    ["Confirmed", true],
    ...COUNTS,
  ]);
  const showPhases = table(at("phases"), [
    ["Phase", true],
    ["Policy", true],
    ["Rule", true],
    ["From"],
    ["To"],
    ["Converged"],
    ...COUNTS,
  ]);

  const split = ({ ok, overflow, other }) => [count(ok), count(overflow), [count(other), other > 0], share(overflow, ok + overflow + other)];
  const ledger = ({ client, proxy, difference }) => [count(client), count(proxy), [count(difference), Boolean(difference)]];
  const took = (ms) => (ms == null ? "" : `after ${rate(ms)} ms`);

  function confirmed(client) {
    if (client.confirmed === null) return "–";
    if (!client.confirmed) return ["not yet", true];
    return took(client.converged_ms) || "yes";
  }

  function phases() {
    const rows = state.phases.map((phase) => [
      phase.name,
      phase.policy,
      phase.rule ?? "none",
      clock(phase.began_s),
      clock(phase.ended_s),
      took(phase.converged_ms) || "–",
      ...split(phase),
      ...ledger(phase.ledger),
    ]);
    if (state.running && state.clients.length && state.phase_began_s !== null && !state.phases.some(({ name }) => name === state.phase)) {
      const now = Object.fromEntries(GROUPS.map((group) => [group, state.clients.reduce((sum, client) => sum + client[group], 0)]));
      const slowest = Math.max(...state.clients.map((client) => client.converged_ms ?? -1));
      const { rule } = state.clients[0];
      const policy = state.applied ? "applied" : rows.length ? "removed" : "absent";
      rows.push([state.phase, policy, rule ?? "none", clock(state.phase_began_s), "counts now", took(slowest < 0 ? null : slowest) || "–", ...split(now), "–", "–", "–"]);
    }
    return rows;
  }

  // What is said.

  const TITLES = { enforced: "Enforced", overshoot: "Overshoot", not_enforced: "Not enforced", inconclusive: "Inconclusive" };
  const KINDS = { enforced: "good", overshoot: "doubtful", not_enforced: "bad", inconclusive: "none" };

  function notices() {
    if (away) return [away];
    if (!state) return [];
    const found = [];
    if (state.missing === "mesh") found.push(`There is no mesh: ${state.why}.`);
    if (state.missing === "desk") found.push(`The desk, which toggles the policy, does not answer: ${state.why}.`);
    if (state.gone) found.push(`The mesh is gone: ${state.gone}, and Locust after it.`);
    if (state.refused) found.push(`The last test was refused, or broken off: ${state.refused}.`);
    if (state.locust.workers === 0) found.push("No worker is connected, so no test can start. After a test they are away for --stop-timeout seconds.");
    if (state.forbidden) found.push(`The policy cannot be toggled here: ${state.forbidden}.`);
    if (outcome) found.push(outcome);
    return found;
  }

  function showNotices() {
    const wanted = notices();
    const node = at("notices");
    if (wanted.join("\n") === [...node.children].map((each) => each.textContent).join("\n")) return;
    node.replaceChildren(...wanted.map((text) => made("p", text, "notice bad")));
  }

  function reasons() {
    const found = [];
    if (state.validity) found.push(...state.validity.reasons);
    if (state.said && !found.includes(state.said)) found.push(state.said);
    if (state.restore && state.restore.state !== "not_needed" && !state.running) found.push(`Restored: ${state.restore.state}; ${state.restore.detail}.`);
    return found;
  }

  function showVerdict() {
    const { verdict, validity, running } = state;
    const failed = !running && state.restore?.state === "failed";
    let kind = "none";
    let title = "No test is running";
    if (running && !verdict) title = "The test runs; there is no verdict yet";
    if (verdict) {
      kind = KINDS[verdict.state] ?? "none";
      title = `${TITLES[verdict.state] ?? verdict.state}${running ? ", until now" : ", in the last test"}`;
    }
    if (validity?.state === "INVALID" || failed) {
      kind = "bad";
      title += failed ? "; the mesh is NOT restored" : "; what was measured is INVALID";
    }
    at("verdict").className = `paper ${kind}`;
    say(at("verdict-title"), title);
    say(at("sentence"), verdict?.sentence ?? "");
    const list = at("reasons");
    const wanted = reasons();
    if (wanted.join("\n") !== [...list.children].map((each) => each.textContent).join("\n")) list.replaceChildren(...wanted.map((text) => made("li", text)));
    at("start").hidden = running;
    at("report").hidden = running || !verdict;
  }

  function sentence() {
    if (!state.clients.length) return "unknown: no sidecar has answered";
    const total = state.clients.length;
    if (state.toggling) return `${state.toggling.policy === "applied" ? "A rule is being put in force" : "The rule is being removed"}: ${state.toggling.confirmed} of ${total} sidecars have confirmed.`;
    const kinds = new Set(state.clients.map((client) => `${client.rule ?? ""}\n${limitsOf(client.limits)}`));
    if (kinds.size > 1) return `The sidecars differ: see the clients below.`;
    const { rule, limits } = state.clients[0];
    const slowest = Math.max(...state.clients.map((client) => client.converged_ms ?? -1));
    const how = slowest >= 0 && state.running ? ` Converged: the slowest sidecar showed it ${took(slowest)}.` : "";
    return rule ? `Rule ${rule} at all ${total} sidecars: ${limitsOf(limits)}.${how}` : `No rule at any of the ${total} sidecars.${how}`;
  }

  // The buttons.

  function unless() {
    if (away || !state) return "Waiting for Locust.";
    if (state.missing || state.gone) return "There is nothing to toggle.";
    if (state.forbidden) return "Toggling is not allowed here: see above.";
    if (!state.running) return "No test is running: start users first.";
    if (busy || state.toggling) return "Wait until every sidecar has confirmed.";
    return "";
  }

  function unlessApplied() {
    const mistakes = problems.filter(({ severity }) => severity === "error").length;
    if (!editor.value.trim()) return "Apply: there is no rule in the editor.";
    if (mistakes && checked === editor.value) return `Apply: the rule has ${many(mistakes, "mistake")}.`;
    return state.applied && inForce === editor.value && learnt === state.turn ? "Apply: just this text is in force." : "";
  }

  const unlessRemoved = () => (state.applied ? "" : "Remove: no rule is in force.");

  function showButtons() {
    const all = unless();
    const [apply, remove] = all ? [all, all] : [unlessApplied(), unlessRemoved()];
    at("apply").disabled = Boolean(apply);
    at("remove").disabled = Boolean(remove);
    say(at("why"), all || [apply, remove].filter(Boolean).join(" "));
    const toggling = state?.toggling;
    at("progress").hidden = !busy && !toggling;
    const total = toggling?.of ?? state?.clients?.length ?? 1;
    say(at("confirming"), toggling ? `${toggling.confirmed} of ${total} sidecars have confirmed` : busy);
    at("confirmed").max = Math.max(1, total);
    at("confirmed").value = toggling?.confirmed ?? 0;
    at("reset").disabled = editor.value === scenarioRule;
  }

  // What is in force, whoever put it there; a page that is new, or whose text nobody has touched, shows it.
  function learn(text, since) {
    if (text && editor.value !== text && editor.value === written) {
      editor.value = text;
      edited();
    }
    if (editor.value === text) written = text;
    inForce = text || null;
    learnt = since;
  }

  // Nobody says any more what is in force, so nothing that was said before stays as if it were.
  function unknown(title) {
    at("verdict").className = "paper none";
    say(at("verdict-title"), title);
    say(at("sentence"), "");
    at("reasons").replaceChildren();
    say(at("in-force"), away ? `Not known since ${new Date(answeredAt).toLocaleTimeString("en-GB")}.` : "Not known.");
    at("start").hidden = true;
    showClients([]);
    showPhases([]);
    for (const name of [...GROUPS.map((group) => `now-${group}`), "overflow-now"]) say(at(name), "–");
  }

  function show() {
    showNotices();
    showButtons();
    if (!state) return;
    say(at("status"), state.locust.state);
    say(at("users"), count(state.locust.users));
    if (away || state.missing) {
      unknown(away ? "What is in force is not known: Locust does not answer" : state.missing === "mesh" ? "There is no mesh" : "What is in force is not known: the desk is gone");
      return;
    }
    say(at("service"), state.mesh.service);
    showVerdict();
    say(at("in-force"), sentence());
    showClients(state.clients.map((client) => [client.name, client.rule ?? "none", limitsOf(client.limits), confirmed(client), ...split(client), ...ledger(client.ledger)]));
    showPhases(phases());
    const sums = GROUPS.map((_, group) => plotted.recent.reduce((sum, second) => sum + second[group], 0));
    const all = sums.reduce((sum, each) => sum + each, 0);
    GROUPS.forEach((group, index) => {
      const text = state.running && all ? `${share(sums[index], all)} · ${rate(sums[index] / plotted.recent.length)}/s` : "–";
      say(at(`now-${group}`), text);
    });
    say(at("overflow-now"), state.running ? share(sums[1], all) : "–");
  }

  // What is asked.

  class Refused extends Error {
    constructor(message, found = []) {
      super(message);
      this.problems = found;
    }
  }

  async function answered(response) {
    if (response.type === "opaqueredirect") throw new Refused("You are logged out of Locust: load this page again to log in.");
    const isJson = (response.headers.get("content-type") ?? "").startsWith("application/json");
    const said = isJson ? await response.json() : null;
    if (response.ok && said) return said;
    throw new Refused(said?.message ?? ((await text(response)) || `Locust answered ${response.status}.`), said?.problems);
  }

  const text = async (response) => (response.bodyUsed ? "" : (await response.text()).slice(0, 300));

  async function ask(what, body) {
    const response = await fetch(`${NAME}/${what}`, {
      method: "POST",
      headers: { "Content-Type": "application/json", "X-Loadgen-Token": token },
      body: JSON.stringify(body),
      redirect: "manual",
      signal: AbortSignal.timeout(TOGGLE_MS),
    });
    return answered(response);
  }

  let next = 0;
  let polling = false;
  let answeredAt = 0;

  async function poll() {
    clearTimeout(next);
    if (polling) return; // the one under way asks again
    polling = true;
    const began = performance.now();
    const before = ended;
    try {
      const response = await fetch(`${NAME}/state?since=${plotted.seen}&turn=${encodeURIComponent(learnt)}`, { redirect: "manual", cache: "no-store", signal: AbortSignal.timeout(WAIT_MS) });
      state = await answered(response);
      away = "";
      answeredAt = Date.now();
      if (!state.missing) {
        if (!busy && before === ended) { // or the answer may be older than what was asked here
          if (!own && state.turn !== turn) outcome = ""; // somebody has decided anew
          own = false;
        }
        if (state.text !== undefined) learn(state.text, state.turn);
        turn = state.turn;
        const test = state.turn.split(".")[0];
        if (test !== plotted.test) forget(test);
        take(state.timeline);
        delete state.timeline;
        plot.setData(columns());
      }
    } catch (error) {
      away = error instanceof Refused ? error.message : "Locust does not answer: it has ended, or the connection is lost. If it has ended, its desk takes the rule out.";
    }
    polling = false;
    show();
    const pause = away ? AWAY_MS : busy || state?.toggling ? TOGGLING_MS : POLL_MS;
    next = setTimeout(() => (document.hidden ? (next = 0) : poll()), Math.max(0, pause - (performance.now() - began)));
  }

  document.addEventListener("visibilitychange", () => {
    if (!document.hidden && !next) poll();
  });

  async function toggle(what, body, saying) {
    busy = saying;
    outcome = "";
    show();
    poll();
    try {
      const said = await ask(what, { ...body, expected: state.turn });
      if (said.findings) showProblems(said.findings, body.rule);
    } catch (error) {
      if (error.problems?.length) showProblems(error.problems, body.rule);
      else if (error instanceof Refused) outcome = `${what === "apply" ? "The rule was not applied" : "The rule was not removed"}: ${error.message}`;
      else outcome = `What has come of it is not known, because Locust does not answer: look at what is in force now.`;
    }
    own = Boolean(outcome);
    ended += 1;
    busy = "";
    show();
  }

  at("apply").addEventListener("click", () => toggle("apply", { rule: editor.value }, "The rule is being put in force"));
  at("remove").addEventListener("click", () => toggle("remove", {}, "The rule is being removed"));
  at("reset").addEventListener("click", () => {
    editor.value = scenarioRule;
    edited();
  });

  // The editor.

  const BREAK = /\r\n|[\n\r\x85\u2028\u2029]/g; // what YAML counts as the end of a line

  function place_of(line, column) {
    let start = 0;
    BREAK.lastIndex = 0;
    for (let number = 1; number < line; number += 1) {
      if (!BREAK.exec(editor.value)) break;
      start = BREAK.lastIndex;
    }
    const rest = [...editor.value.slice(start).split(/\n/, 1)[0]]; // columns count characters, not code units
    const from = start + rest.slice(0, column - 1).join("").length;
    return [from, from + (/^\S+/.exec(editor.value.slice(from))?.[0].length ?? 0)];
  }

  function jump(line, column) {
    const [from, to] = place_of(line, column);
    editor.focus();
    editor.setSelectionRange(from, to);
    editor.scrollTop = Math.max(0, (line - 4) * parseFloat(getComputedStyle(editor).lineHeight));
    editor.scrollLeft = Math.max(0, column * 8 - editor.clientWidth / 2);
  }

  function showProblems(found, ofText) {
    problems = found;
    checked = ofText;
    const mistakes = found.filter(({ severity }) => severity === "error").length;
    const summary = mistakes ? many(mistakes, "mistake") : found.length ? `No mistake; ${many(found.length, "remark")}` : "No mistake in the rule.";
    say(at("checked"), summary);
    at("checked").className = mistakes ? "bad-text" : "";
    at("problems").replaceChildren(
      ...found.map(({ line, column, message, hint, severity }) => {
        const item = made("li", "", severity);
        if (line) {
          const button = item.appendChild(made("button", `line ${line}, column ${column}`));
          button.type = "button";
          button.addEventListener("click", () => jump(line, column));
          item.append(": ");
        }
        item.append(message);
        if (hint) item.append(made("span", hint, "hint"));
        return item;
      }),
    );
    numbers();
    show();
  }

  let numbered = "";

  function numbers() {
    const lines = editor.value.split(BREAK).length;
    const marked = new Set(problems.filter(({ line }) => line && checked === editor.value).map(({ line }) => line));
    const now = `${lines} ${[...marked].join(" ")}`;
    if (now === numbered) return;
    numbered = now;
    const pieces = [];
    let plain = "";
    for (let line = 1; line <= lines; line += 1) {
      if (marked.has(line)) {
        pieces.push(plain, made("b", `▸ ${line}`));
        plain = "\n";
      } else plain += `${line}\n`;
    }
    at("gutter").replaceChildren(...pieces, plain);
    at("gutter").scrollTop = editor.scrollTop;
  }

  let due = 0;

  function edited() {
    numbers();
    showButtons();
    clearTimeout(due);
    due = setTimeout(check, CHECK_MS);
  }

  async function check() {
    const rule = editor.value;
    if (!rule.trim() || rule.length > CHECKED_CHARACTERS) {
      problems = [];
      at("problems").replaceChildren();
      say(at("checked"), rule.trim() ? "So long a text is checked when it is applied." : "");
      return;
    }
    try {
      const { findings } = await ask("check", { rule });
      if (editor.value === rule) showProblems(findings, rule);
    } catch {
      if (editor.value === rule) say(at("checked"), ""); // there is no desk, or no Locust: that is said elsewhere
    }
  }

  editor.addEventListener("input", edited);
  editor.addEventListener("scroll", () => {
    at("gutter").scrollTop = editor.scrollTop;
  });

  const button = at("theme");
  const pressed = () => button.setAttribute("aria-pressed", String(root.dataset.theme === "dark"));
  button.addEventListener("click", () => root.dispatchEvent(new Event("switched")));
  root.addEventListener("themed", pressed);
  pressed();

  numbers();
  check();
  poll();
})();
