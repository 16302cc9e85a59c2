
// Writes values into the document. Everything from a daemon becomes text, never markup.

function element(id) {
  return document.getElementById(id);
}

function create(tag, className, content) {
  const node = document.createElement(tag);
  node.className = className;
  if (content !== undefined) {
    node.textContent = content;
  }
  return node;
}

// Writes text only if it has changed: what is in a live region would be read out again.
function write(id, text) {
  if (element(id).textContent !== text) {
    element(id).textContent = text;
  }
}

// Replaces the children of a list only if its text has changed.
function fill(id, children) {
  const list = element(id);
  const textOf = (nodes) => JSON.stringify([...nodes].map((node) => node.textContent));
  if (textOf(list.children) !== textOf(children)) {
    list.replaceChildren(...children);
  }
}

// Fills a list of terms. Those whose value is undefined are left out.
function fillTerms(id, terms) {
  const known = terms.filter(([, value]) => value !== undefined);
  fill(id, known.flatMap(([term, value]) => [create("dt", "", term), create("dd", "", value)]));
}

function count(value) {
  return typeof value === "number" ? value.toLocaleString("en") : undefined;
}

// Returns a number of microseconds in milliseconds, with a sign if it is an offset.
function milliseconds(us, isOffset) {
  if (typeof us !== "number") {
    return undefined;
  }
  const ms = us / 1000;
  const digits = Math.abs(ms) < 100 ? 3 : 1;
  const text = ms.toLocaleString("en", {
    minimumFractionDigits: digits,
    maximumFractionDigits: digits,
  });
  return isOffset && ms >= 0 ? `+${text} ms` : `${text} ms`;
}

// Returns a duration with its two largest units.
function duration(seconds) {
  if (typeof seconds !== "number") {
    return undefined;
  }
  const units = [["d", 86400], ["h", 3600], ["min", 60], ["s", 1]];
  const first = units.findIndex(([, size]) => seconds >= size);
  if (first < 0) {
    return "0 s";
  }
  let rest = Math.floor(seconds);
  const parts = units.slice(first, first + 2).map(([unit, size]) => {
    const amount = Math.floor(rest / size);
    rest -= amount * size;
    return `${amount} ${unit}`;
  });
  return parts.join(" ");
}

// Returns a moment as UTC, to the second.
function moment(unixMs) {
  if (typeof unixMs !== "number" || !(Math.abs(unixMs) <= 8.64e15)) {
    return undefined;
  }
  return `${new Date(unixMs).toISOString().slice(0, 19).replace("T", " ")} UTC`;
}

function bytes(value) {
  return typeof value === "number" ? `${(value / 1048576).toFixed(1)} MiB` : undefined;
}

function yesOrNo(value) {
  return typeof value === "boolean" ? (value ? "yes" : "no") : undefined;
}

// Shows an answer: the status, and the samples of the metrics, which may be empty.
function show(status, samples) {
  const { edge, clock } = daemonsOf(status);
  const kind = [edge && "edge", clock && "clock"].filter(Boolean).join(" and ");
  write("kind", kind);
  write("id", String(status.id ?? ""));
  const verdict = judge(status);
  document.title = `${verdict.word}: ${status.id} (TickStorm ${kind})`;
  showVerdict(verdict);
  showAlarms(alarmsOf(status));
  for (const id of ["time-section", "connections-section", "clocks-section"]) {
    element(id).hidden = edge === undefined;
  }
  element("host-section").hidden = clock === undefined;
  if (edge !== undefined) {
    showTime(edge, samples);
    showClocks(edge);
    showConnections(edge, samples);
  }
  if (clock !== undefined) {
    showHost(clock, edge !== undefined);
  }
  showLateness(samples);
  showProcess(status, edge, clock);
}

function showVerdict({ level, word, reasons }) {
  element("verdict").dataset.level = level;
  write("word", word);
  fill("reasons", reasons.map((reason) => create("li", "", reason)));
}

function showAlarms(alarms) {
  element("alarms-section").hidden = alarms.length === 0;
  fill("alarms", alarms.map(alarmItem));
}

function alarmItem({ reason, message, action, clocks }) {
  const item = create("li", "");
  const names = listOf(clocks).join(", ");
  const title = create("p", "");
  title.append(create("span", "reason bad", reason), names === "" ? "" : ` (${names})`);
  item.append(title, create("p", "", message));
  if (action !== undefined) {
    item.append(create("p", "", `What to do: ${action}`));
  }
  return item;
}

function showTime(edge, samples) {
  const { authority } = edge;
  const known = isObject(authority);
  const rate = known && typeof authority.rate_ppm === "number" ? authority.rate_ppm : undefined;
  const behind = sampleOf(samples, "tickstorm_time_offset_seconds");
  fillTerms("time", [
    ["Time", known ? moment(authority.unix_us / 1000) : "unknown"],
    ["Error bound", known ? milliseconds(authority.bound_us, false) : undefined],
    ["Following", known ? authority.following ?? "no clock: holdover" : "no clock"],
    ["Rate of this machine", rate === undefined ? undefined : `${rate.toFixed(2)} ppm`],
    ["Ahead of this host’s clock", known && behind !== undefined
      ? milliseconds(behind * 1e6, true) : undefined],
  ]);
}

function showClocks(edge) {
  const followed = edge.authority?.following;
  const rows = listOf(edge.clocks).map((clock) => {
    const isFollowed = clock.id === followed;
    const state = isFollowed ? "followed" : CLOCK_STATES[clock.state] ?? clock.state;
    const level = clock.state === "accepted" ? "good" : clock.state === "heard" ? "" : "bad";
    const row = create("tr", "");
    const name = create("th", "name", clock.id);
    name.scope = "row";
    row.append(
      name,
      create("td", level, state),
      create("td", "number rank", count(clock.rank) ?? "–"),
      create("td", "number", milliseconds(clock.offset_us, true) ?? "–"),
      create("td", "number", milliseconds(clock.bound_us, false) ?? "–"),
    );
    return row;
  });
  if (rows.length === 0) {
    const cell = create("td", "", "No clock has been heard.");
    cell.colSpan = 5;
    const row = create("tr", "");
    row.append(cell);
    rows.push(row);
  }
  fill("clocks", rows);
}

function showConnections(edge, samples) {
  const meter = element("meter");
  meter.max = edge.max_connections;
  meter.high = 0.8 * edge.max_connections;
  meter.optimum = 0;
  meter.value = edge.connections;
  const share = (100 * edge.connections) / edge.max_connections;
  write("used", `${count(edge.connections)} of ${count(edge.max_connections)} `
    + `(${share.toFixed(share < 10 ? 1 : 0)} %)`);
  const inState = (state) => count(sampleOf(samples, "tickstorm_connections", { state }));
  const { judged_in_last_minute: judged, refused_in_last_minute: refused } = edge.logins ?? {};
  fillTerms("connections", [
    ["Logging in", inState("handshake") ?? count(sampleOf(samples, "tickstorm_handshakes"))],
    ["Logged in, not subscribed", inState("authenticated")],
    ["Subscribed", inState("subscribed")],
    ["Being closed", inState("lingering")],
    ["Waiting to be accepted", count(edge.accept_queue?.length)],
    ["Logins in the last minute", judged === undefined
      ? undefined : `${count(judged)}, ${count(refused)} refused`],
    ["Memory of unfinished input", bytes(edge.memory?.buffered_bytes)],
    ["TCP memory of the kernel", bytes(edge.memory?.kernel_bytes)],
  ]);
}

function showHost(clock, isNamed) {
  const disciplined = yesOrNo(clock.synchronized);
  fillTerms("host", [
    ["Clock", isNamed ? clock.id : undefined],
    ["Disciplined", disciplined],
    ["Error, by the kernel", milliseconds(clock.clock_error_us, false)],
    ["Connected to NATS", yesOrNo(clock.nats)],
    ["Last tick announced", moment(clock.last_announced_epoch_ms) ?? "none"],
  ]);
}

function showProcess(status, edge, clock) {
  const link = edge?.nats_link ?? clock?.nats_link ?? {};
  const certificate = edge?.tls?.certificate;
  fillTerms("process", [
    ["Version", status.version],
    ["Running for", duration(status.uptime_s)],
    ["Admin port", status.admin_addr],
    ["Port for clients", edge?.listen_addr],
    ["Shards", count(edge?.shards)],
    ["NATS server", link.server ?? undefined],
    ["Heard over NATS", yesOrNo(link.heard)],
    ["Certificate expires", moment(Date.parse(certificate?.not_after))],
  ]);
}

// The histograms, each with the unit of its buckets in milliseconds, and the quantile that says how
// bad the worst of them are: a send is bad if it is late, a margin if it is small. An ahead feed is
// to send before the tick’s time, an at-time feed at it.
const LATENESS = [
  ["tickstorm_release_lateness_seconds", "Start of the fan-out after its time to send", 1000, 0.99],
  ["tickstorm_publish_latency_ms", "Send to each client after its time to send", 1, 0.99],
  ["tickstorm_ahead_margin_seconds", "Left before the tick’s time when sent ahead", 1000, 0.01],
];

function showLateness(samples) {
  const charts = LATENESS.flatMap(([name, title, unitMs, quantile]) =>
    histogramsOf(samples, name).map((histogram) => chart(title, histogram, unitMs, quantile)));
  element("lateness-section").hidden = charts.length === 0;
  fill("lateness", charts);
}

// Draws a histogram as a table with bars, from its first bucket that is not empty to its last one.
function chart(title, histogram, unitMs, quantile) {
  const { buckets, labels } = histogram;
  const bound = (value) => (value === Infinity
    ? "more" : `≤ ${Number((value * unitMs).toPrecision(6)).toLocaleString("en")} ms`);
  const filled = buckets.map(({ count: n }, index) => (n > 0 ? index : -1)).filter((at) => at >= 0);
  const shown = buckets.slice(filled[0], filled.at(-1) + 1);
  const most = Math.max(...shown.map(({ count: n }) => n));
  const body = create("tbody", "");
  for (const { bound: value, count: n } of shown) {
    const name = create("th", "number", bound(value));
    name.scope = "row";
    const bar = create("span", "bar");
    bar.style.width = `${(100 * n) / most}%`;
    const cell = create("td", "share");
    if (n > 0) {
      cell.append(bar);
    }
    const row = create("tr", "");
    row.append(name, cell, create("td", "number", n.toLocaleString("en")));
    body.append(row);
  }
  const table = create("table", "");
  const what = labels.map((label) => label.replaceAll("_", " ")).join(", ");
  const caption = create("h3", "", what === "" ? title : `${title} (${what})`);
  const all = histogram.count.toLocaleString("en");
  const note = create("p", "note", `${quantile * 100} % of ${all}: `
    + bound(quantileBound(histogram, quantile)));
  table.append(body);
  const box = create("div", "");
  box.append(caption, table, note);
  return box;
}
