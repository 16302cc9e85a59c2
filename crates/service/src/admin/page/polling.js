
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

// Asks, shows what comes of it, and sets the timer for the next round, whatever happens.
async function poll() {
  let answer;
  try {
    answer = await askBoth();
    showAnswer(...answer);
  } catch (error) {
    // With an answer, it is showing it that has failed.
    if (answer === undefined && !(error instanceof SyntaxError)) {
      showSilence(error);
    } else {
      showUnreadable(error);
    }
  } finally {
    document.querySelector("main").hidden = false;
    showAge();
    // If the page was hidden and shown again meanwhile, another round may have set a timer.
    clearTimeout(polling.timer);
    if (document.visibilityState === "visible") {
      polling.timer = setTimeout(poll, PAUSE_MS);
    }
  }
}

function showAnswer(status, metrics) {
  if (metrics !== undefined) {
    polling.samples = parseMetrics(metrics, "tickstorm_");
  }
  show(status, polling.samples);
  polling.answeredAt = Date.now();
  document.body.classList.remove("lost");
}

// Shows that the port does not answer. What is below may be wrong by now.
function showSilence(error) {
  const isSilent = error instanceof TypeError || error instanceof DOMException;
  const reasons = [`This port does not answer (${isSilent ? "no answer" : error.message}).`];
  const since = moment(polling.answeredAt);
  if (since !== undefined) {
    reasons.push(`Everything below is from ${since}.`);
  }
  showLoss("No answer", reasons);
}

// Shows that the answer is none that this page understands. Parts of it may be below.
function showUnreadable(error) {
  showLoss("Unreadable", [
    `The answer of this port can’t be read (${error.message}).`,
    "Everything below may be wrong. /status has the answer itself.",
  ]);
}

function showLoss(word, reasons) {
  document.body.classList.add("lost");
  document.title = `${word}: ${element("id").textContent} (TickStorm)`;
  showVerdict({ level: "bad", word, reasons });
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
