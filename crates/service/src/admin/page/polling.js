
// Asks this port for /status and /metrics, while the page is visible, and says so if there is no
// answer.

// The pause between two rounds, and the time that an answer may take. Together they stay below 5 s,
// within which a daemon that has stopped must show.
const PAUSE_MS = 2000;
const ANSWER_MS = 2000;

const polling = { timer: undefined, answeredAt: undefined, samples: new Map() };

async function ask(path) {
  const response = await fetch(path, {
    cache: "no-store",
    credentials: "omit",
    signal: AbortSignal.timeout(ANSWER_MS),
  });
  if (!response.ok) {
    throw new Error(`it answers ${response.status} ${response.statusText}`);
  }
  return response;
}

async function askBoth() {
  const status = ask("status").then((response) => response.json());
  // A busy port refuses metrics first. The page then shows those from before.
  const metrics = ask("metrics").then((response) => response.text()).catch(() => undefined);
  return Promise.all([status, metrics]);
}

async function poll() {
  let answer;
  let failure;
  try {
    answer = await askBoth();
  } catch (error) {
    failure = describe(error);
  }
  if (answer === undefined) {
    showLoss(failure);
  } else {
    showAnswer(...answer);
  }
  document.querySelector("main").hidden = false;
  showAge();
  // If the page was hidden and shown again meanwhile, another round may have set a timer.
  clearTimeout(polling.timer);
  if (document.visibilityState === "visible") {
    polling.timer = setTimeout(poll, PAUSE_MS);
  }
}

function describe(error) {
  if (error instanceof SyntaxError) {
    return "its answer can’t be read";
  }
  return error instanceof TypeError || error instanceof DOMException ? "no answer" : error.message;
}

function showAnswer(status, metrics) {
  if (metrics !== undefined) {
    polling.samples = parseMetrics(metrics, "tickstorm_");
  }
  polling.answeredAt = Date.now();
  document.body.classList.remove("lost");
  show(status, polling.samples);
}

// Shows that the port does not answer. What is below may be wrong by now.
function showLoss(failure) {
  document.body.classList.add("lost");
  document.title = `No answer: ${element("id").textContent} (TickStorm)`;
  const since = moment(polling.answeredAt);
  const reasons = [`This port does not answer (${failure}).`];
  if (since !== undefined) {
    reasons.push(`Everything below is from ${since}.`);
  }
  showVerdict({ level: "bad", word: "No answer", reasons });
}

function showAge() {
  if (polling.answeredAt === undefined) {
    write("age", "No data yet");
    return;
  }
  const seconds = Math.max(0, Math.round((Date.now() - polling.answeredAt) / 1000));
  const age = seconds < 3 ? "Live" : `Data is ${duration(seconds)} old`;
  write("age", document.visibilityState === "visible" ? age : "Paused");
}

document.addEventListener("visibilitychange", () => {
  if (document.visibilityState === "visible") {
    poll();
  } else {
    clearTimeout(polling.timer);
    showAge();
  }
});
setInterval(showAge, 1000);
poll();
