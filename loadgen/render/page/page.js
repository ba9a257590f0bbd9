// Draws the plots of a report from the data in the page. Nothing is fetched and nothing is evaluated; all text goes into the page as text.
"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const PRINT_WIDTH = 690;
  const DASHES = { ok: [], overflow: [10, 4], unavailable: [2, 3], http_error: [10, 3, 2, 3], timeout: [4, 4] };
  const plots = [];

  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
  const seconds = (value) =>
    value == null ? "–" : value < 0.001 ? `${+(value * 1e6).toPrecision(3)} µs` : value < 1 ? `${+(value * 1e3).toPrecision(3)} ms` : `${+value.toPrecision(3)} s`;
  const count = (value) => (value == null ? "–" : value.toLocaleString("en", { maximumFractionDigits: 1 }));

  // The phases as bands behind the lines, with their names above, and the moments as vertical lines in front of them.
  const bands = {
    hooks: {
      drawClear: (u) => {
        const { ctx, bbox } = u;
        for (const phase of data.phases) {
          const [left, right] = span(u, phase.from, phase.to);
          if (right <= left) continue;
          ctx.fillStyle = colour(phase.policy === "applied" ? "band-applied" : "band");
          ctx.fillRect(left, bbox.top, right - left, bbox.height);
          ctx.fillStyle = colour("text");
          ctx.font = `${12 * devicePixelRatio}px system-ui, sans-serif`;
          ctx.textAlign = "center";
          ctx.textBaseline = "bottom";
          const name = fitting(ctx, phase.name, right - left - 4 * devicePixelRatio);
          ctx.fillText(name, (left + right) / 2, bbox.top - 4 * devicePixelRatio);
        }
      },
      draw: (u) => {
        const { ctx, bbox } = u;
        for (const moment of data.moments) {
          const x = Math.round(u.valToPos(moment.at, "x", true));
          if (x < bbox.left || x > bbox.left + bbox.width) continue;
          ctx.save();
          ctx.strokeStyle = ctx.fillStyle = colour(moment.kind);
          ctx.lineWidth = 2 * devicePixelRatio;
          ctx.setLineDash(moment.kind === "toggle" ? [3 * devicePixelRatio, 3 * devicePixelRatio] : []);
          ctx.beginPath();
          ctx.moveTo(x, bbox.top);
          ctx.lineTo(x, bbox.top + bbox.height);
          ctx.stroke();
          ctx.restore();
        }
      },
    },
  };

  // The limit as a line across the time in which it is in force; one that is far above what was in flight is only named, at the top.
  const limits = {
    hooks: {
      draw: (u) => {
        const { ctx, bbox } = u;
        for (const limit of data.limits) {
          const [left, right] = span(u, limit.from, limit.to);
          if (right <= left) continue;
          const above = limit.value > u.scales.y.max;
          const y = above ? bbox.top : Math.round(u.valToPos(limit.value, "y", true));
          ctx.save();
          ctx.strokeStyle = ctx.fillStyle = colour("limit");
          ctx.lineWidth = 2 * devicePixelRatio;
          ctx.setLineDash([8 * devicePixelRatio, 4 * devicePixelRatio]);
          ctx.beginPath();
          ctx.moveTo(left, y);
          ctx.lineTo(right, y);
          if (!above) ctx.stroke();
          ctx.font = `600 ${12 * devicePixelRatio}px system-ui, sans-serif`;
          ctx.textAlign = "left";
          const low = y - bbox.top < 18 * devicePixelRatio;
          ctx.textBaseline = low ? "top" : "bottom";
          const text = fitting(ctx, `limit ${count(limit.value)}${above ? " ↑" : ""}`, right - left - 8 * devicePixelRatio);
          const at = [left + 4 * devicePixelRatio, y + (low ? 4 : -4) * devicePixelRatio];
          ctx.setLineDash([]);
          ctx.lineWidth = 4 * devicePixelRatio;
          ctx.strokeStyle = colour("band-applied"); // lines that pass behind it leave it readable
          ctx.strokeText(text, ...at);
          ctx.fillText(text, ...at);
          ctx.restore();
        }
      },
    },
  };
  const FAR = 3;

  // The top of an axis of counts: above what was seen, and above the limits if they are not far off.
  function top(name, high) {
    const near = name === "in_flight" ? data.limits.map((each) => each.value).filter((value) => value <= FAR * high) : [];
    return Math.max(1, 1.05 * high, ...near.map((value) => 1.15 * value));
  }

  // The legend has names alone until somebody reads the plot, with the pointer or the keyboard.
  const legend = {
    hooks: { setCursor: (u) => u.root.parentElement?.classList.toggle("read", u.cursor.idx != null) },
  };

  function span(u, from, to) {
    const { left, width } = u.bbox;
    return [from, to].map((at) => Math.min(left + width, Math.max(left, u.valToPos(at, "x", true))));
  }

  function fitting(ctx, text, width) {
    if (ctx.measureText(text).width <= width) return text;
    let short = text;
    while (short && ctx.measureText(`${short}…`).width > width) short = short.slice(0, -1);
    return short.length > 1 ? `${short}…` : "";
  }

  // What was in flight is known of single moments: a line from one to the next would claim what nobody counted.
  function line(each, name, write) {
    const stepped = name === "rates";
    const single = name === "in_flight";
    return {
      label: each.name,
      stroke: () => colour(each.outcome),
      width: each.dash ? 1 : 2,
      dash: each.dash ? [2, 3] : DASHES[each.outcome] ?? [6, 2, 2, 2],
      paths: single ? () => null : stepped ? uPlot.paths.stepped({ align: 1 }) : undefined,
      value: (_, __, ___, index) => (index == null ? "" : write(each.values[index])),
      points: single ? { size: 7, show: true, fill: () => colour(each.outcome) } : { size: 5, show: stepped ? false : undefined },
    };
  }

  // How a line's sample in the legend is drawn: as CSS can, for there are more dashes than CSS has.
  function swatch(each, name) {
    if (!each || each.dash || name === "in_flight") return "dotted";
    return DASHES[each.outcome]?.length === 0 ? "solid" : "dashed";
  }

  // All plots show the same stretch of time, wherever in its step a value is drawn.
  function shown(u, low, high) {
    const at = u.data[0];
    return low <= at[0] && high >= at[at.length - 1] ? [data.at[0], data.at[data.at.length - 1] + data.step] : [low, high];
  }

  function options(name, lines, width) {
    const latency = name === "latencies";
    const write = latency ? seconds : count;
    const axis = { stroke: () => colour("muted"), grid: { stroke: () => colour("grid"), width: 1 }, ticks: { stroke: () => colour("grid"), width: 1 } };
    return {
      width,
      height: 260,
      padding: [24, 22, 0, 0],
      plugins: name === "in_flight" ? [bands, limits, legend] : [bands, legend],
      legend: { markers: { width: (u, index) => (name === "in_flight" ? 7 : u.series[index].width + 1), dash: (_, index) => swatch(lines[index - 1], name) } },
      cursor: { y: false, points: { size: 7 } },
      scales: {
        x: { time: false, range: shown },
        y: latency ? { distr: 3 } : { range: (_, low, high) => [0, top(name, high)] },
      },
      axes: [
        { ...axis, values: (_, ticks) => ticks.map((tick) => `${+tick.toFixed(3)} s`), space: 60, size: 32 },
        { ...axis, values: (_, ticks) => ticks.map((tick) => (tick == null ? "" : write(tick))), size: 62, space: latency ? 24 : 32 },
      ],
      series: [{ label: name === "in_flight" ? "at" : "second", value: (_, value) => (value == null ? "–" : name === "in_flight" ? `${value} s` : `${Math.floor(value)}`) }, ...lines.map((each) => line(each, name, write))],
    };
  }

  // Of which time a figure is: of the second that begins there, or of the moment at which it ends.
  const timed = (name, index) => (name === "in_flight" ? `at ${data.at[index] + data.step} s` : `second ${data.at[index]}`);

  // A rate lasts from the beginning of its step to its end, and the last step, which is not a whole one, has none; what is in flight is counted at
  // the end of the step; latencies stand in its middle.
  function columns(lines, name) {
    const within = { rates: 0, latencies: data.step / 2, in_flight: data.step }[name];
    if (name !== "rates") return [data.at.map((second) => second + within), ...lines.map((each) => each.values)];
    return [data.at, ...lines.map((each) => [...each.values.slice(0, -1), each.values[each.values.length - 2] ?? null])];
  }

  function draw(place) {
    const name = place.dataset.plot;
    const lines = data[name];
    const latency = name === "latencies";
    const plot = new uPlot(options(name, lines, place.clientWidth), columns(lines, name), place);
    plots.push({ plot, place });
    new ResizeObserver(() => resize(plot, place.clientWidth)).observe(place);
    place.addEventListener("keydown", (event) => onKey(event, plot, lines, place));
    plot.root.querySelector("canvas").setAttribute("aria-hidden", "true");
    plot.root.querySelectorAll(".u-legend .u-series").forEach((row, index) => {
      if (index) toggleable(row.querySelector("th"), plot, index);
    });
    const details = document.querySelector(`[data-values="${name}"]`);
    details.addEventListener("toggle", () => fill(details.querySelector("div"), name, lines, latency ? seconds : count), { once: true });
  }

  function resize(plot, width) {
    if (width > 0 && Math.abs(width - plot.width) > 1) plot.setSize({ width, height: plot.height });
  }

  function toggleable(button, plot, index) {
    button.tabIndex = 0;
    button.setAttribute("role", "button");
    button.setAttribute("aria-pressed", "true");
    const say = () => button.setAttribute("aria-pressed", String(plot.series[index].show));
    button.addEventListener("click", () => setTimeout(say));
    button.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" && event.key !== " ") return;
      event.preventDefault();
      plot.setSeries(index, { show: !plot.series[index].show });
      say();
    });
  }

  function onKey(event, plot, lines, place) {
    if (event.target !== place) return;
    const last = data.at.length - 1;
    const now = plot.cursor.idx;
    const next = { ArrowLeft: (now ?? last + 1) - 1, ArrowRight: (now ?? -1) + 1, Home: 0, End: last }[event.key];
    if (event.key === "Escape") plot.setScale("x", { min: data.at[0], max: plot.data[0][plot.data[0].length - 1] });
    if (next === undefined) return;
    event.preventDefault();
    const index = Math.min(last, Math.max(0, next));
    plot.setCursor({ left: plot.valToPos(plot.data[0][index], "x"), top: 0 });
    const write = place.dataset.plot === "latencies" ? seconds : count;
    const values = lines.map((each) => `${each.name} ${write(each.values[index])}`).join(", ");
    place.parentElement.querySelector(".spoken").textContent = `${timed(place.dataset.plot, index)}: ${values}`;
  }

  function fill(place, name, lines, write) {
    const table = place.appendChild(document.createElement("table"));
    const cell = (row, kind, text) => {
      const made = row.appendChild(document.createElement(kind));
      made.textContent = text;
      if (kind === "th") made.scope = row.parentElement.tagName === "THEAD" ? "col" : "row";
    };
    const head = table.createTHead().insertRow();
    for (const title of [name === "in_flight" ? "at, in s" : "second", ...lines.map((each) => each.name)]) cell(head, "th", title);
    const rows = table.createTBody();
    data.at.forEach((second, index) => {
      const row = rows.insertRow();
      cell(row, "th", String(name === "in_flight" ? second + data.step : second));
      for (const each of lines) cell(row, "td", write(each.values[index]));
    });
    place.tabIndex = 0;
  }

  const redraw = () => plots.forEach(({ plot }) => plot.redraw(false));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
  addEventListener("beforeprint", () => {
    document.documentElement.classList.add("printed");
    plots.forEach(({ plot }) => plot.setSize({ width: PRINT_WIDTH, height: plot.height }));
    redraw();
  });
  addEventListener("afterprint", () => {
    document.documentElement.classList.remove("printed");
    plots.forEach(({ plot, place }) => plot.setSize({ width: place.clientWidth, height: plot.height }));
    redraw();
  });

  if (data.at.length) document.querySelectorAll("[data-plot]").forEach(draw);
  requestAnimationFrame(() => performance.mark("drawn"));
})();
