
// Judges a daemon by its /status: the word for its state, and everything that is wrong with it.

// Returns the status of the edge and that of the clock on this port, of which one may be missing.
function daemonsOf(status) {
  const isEdge = "listen_addr" in status;
  const clock = isEdge ? status.clock : status;
  return { edge: isEdge ? status : undefined, clock: isObject(clock) ? clock : undefined };
}

function isObject(value) {
  return typeof value === "object" && value !== null;
}

function listOf(value) {
  return Array.isArray(value) ? value : [];
}

// Returns all alarms of the port.
function alarmsOf(status) {
  const { edge, clock } = daemonsOf(status);
  const own = edge === undefined ? [] : listOf(edge.alarms);
  return [
    ...own,
    ...listOf(edge?.memory?.alarms),
    ...listOf(edge?.tls?.alarms),
    ...listOf(clock?.alarms),
  ];
}

// Returns what is wrong apart from the reasons why the daemon is not ready, and from its alarms.
function troublesOf(status) {
  const { edge } = daemonsOf(status);
  const troubles = listOf(status.refused_files).map(
    ({ files, error }) => `Changed files can’t be used (${files}): ${error}`,
  );
  if (edge === undefined) {
    return troubles;
  }
  if (edge.holdover === true) {
    troubles.push("Holdover: the edge continues on its own time, without an accepted clock.");
  }
  for (const clock of listOf(edge.clocks)) {
    if (clock.state === "silent") {
      troubles.push(`${clock.id} is silent: no answer for 10 s.`);
    }
    if (clock.state === "disagrees") {
      troubles.push(`${clock.id} disagrees with the other clocks or with this edge’s time.`);
    }
  }
  if (edge.connections >= edge.max_connections) {
    troubles.push("The edge is full.");
  }
  if (edge.accept_queue?.overflowed_in_last_minute === true) {
    troubles.push("The kernel dropped connections within the last minute: a queue was full.");
  }
  return [...troubles, ...listOf(edge.tls?.warnings)];
}

// Returns the level, the word for the state, and the reasons.
function judge(status) {
  const [alarms, troubles] = [alarmsOf(status), troublesOf(status)];
  const reasons = [...listOf(status.reasons), ...troubles];
  if (status.ready !== true) {
    const isDraining = daemonsOf(status).edge?.draining === true;
    return { level: "bad", word: isDraining ? "Draining" : "Not ready", reasons };
  }
  if (alarms.length > 0 || troubles.length > 0) {
    const count = alarms.length === 1 ? "1 alarm" : `${alarms.length} alarms`;
    const raised = alarms.length === 0 ? [] : [`Ready, with ${count}.`];
    return { level: "warn", word: "Attention", reasons: [...raised, ...reasons] };
  }
  return { level: "good", word: "Ready", reasons: ["Nothing needs attention."] };
}

// The states of clocks, in words.
const CLOCK_STATES = {
  accepted: "accepted",
  false: "falseticker",
  disagrees: "disagrees",
  heard: "not judged yet",
  silent: "silent",
};
