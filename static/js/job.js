// A job, live: its event stream (apps/console/events.py) moves the bar, adds log lines and changes the state.
// Serves the console's page of a job and the status page of the person who waits; an element that a page
// has not is left out. Without this script the page shows the job as it was when it was loaded.
"use strict";

document.addEventListener("DOMContentLoaded", () => {
  const FINAL = new Set(["succeeded", "failed", "cancelled", "expired"]);
  const LINES = 3000; // kept on the page; the whole log is a download
  const WINDOW = 20_000; // milliseconds of progress that the rate is taken from
  const REOPEN = 5_000; // milliseconds until a refused stream is asked for again

  const page = document.getElementById("job");
  const part = (name) => page.querySelector(`[data-${name}]`);
  const [bar, badge, text, percent, count, rate, eta, elapsed, spoken, connection, title, explain] = [
    "bar", "badge", "text", "percent", "count", "rate", "eta", "elapsed", "spoken", "connection", "title", "explain",
  ].map(part);
  const log = document.getElementById("log");
  const follow = part("follow");
  const words = JSON.parse(document.getElementById("state-words")?.textContent ?? "null");
  const name = document.title;
  const number = new Intl.NumberFormat();
  const say = (element, value) => { if (element && element.textContent !== value) element.textContent = value; };

  let state = page.dataset.state;
  let samples = []; // [moment, done] of the latest WINDOW
  let lastSpoken = -1;

  // ---- progress
  const showProgress = ({ at, done, total, text: label }) => {
    const moment = Date.parse(at);
    if (samples.length && done < samples.at(-1)[1]) samples = []; // another attempt, or another step
    samples.push([moment, done]);
    while (samples.length > 2 && moment - samples[0][0] > WINDOW) samples.shift();
    say(text, label);
    if (!total) return;
    const part = Math.min(1, done / total);
    const whole = Math.floor(part * 100);
    bar.max = total;
    bar.value = done;
    say(percent, `${whole} %`);
    say(count, `${number.format(done)} of ${number.format(total)}`);
    document.title = `${whole} % · ${name}`;
    if (whole >= lastSpoken + 10) {
      lastSpoken = whole;
      say(spoken, `${whole} percent`);
    }
    const span = (moment - samples[0][0]) / 1000;
    const speed = span >= 1 ? (done - samples[0][1]) / span : 0;
    say(rate, speed > 0 ? `${number.format(speed < 10 ? Math.round(speed * 10) / 10 : Math.round(speed))} a second` : "");
    say(eta, speed > 0 && done < total ? `about ${msgweb.age((total - done) / speed)} left` : "");
  };

  // ---- log
  let following = true;
  let unseen = 0;
  const atBottom = () => log.scrollHeight - log.scrollTop - log.clientHeight < 30;
  const toBottom = () => { log.scrollTop = log.scrollHeight; };
  const showFollow = () => {
    follow.hidden = following;
    say(follow, unseen ? `${unseen} new line${unseen === 1 ? "" : "s"}, go on following` : "Follow the log");
  };
  if (log) {
    toBottom();
    log.addEventListener("scroll", () => {
      following = atBottom();
      if (following) unseen = 0;
      showFollow();
    }, { passive: true });
    follow.addEventListener("click", () => {
      following = true;
      unseen = 0;
      toBottom();
      showFollow();
    });
  }
  const showLines = (lines) => {
    if (!log || !lines.length) return;
    const fragment = document.createDocumentFragment();
    for (const { at, level, text: content } of lines.slice(-LINES)) {
      const line = document.createElement("div");
      line.className = `line level-${level}`;
      const time = document.createElement("time");
      time.dateTime = at;
      time.textContent = msgweb.time(Date.parse(at));
      const span = document.createElement("span");
      span.textContent = content;
      line.append(time, span);
      fragment.append(line);
    }
    log.append(fragment);
    while (log.childElementCount > LINES) log.firstElementChild.remove();
    if (following) toBottom();
    else {
      unseen += lines.length;
      showFollow();
    }
  };

  // ---- state
  let refreshing = 0;
  const refresh = () => {
    window.clearTimeout(refreshing);
    refreshing = window.setTimeout(() => {
      htmx.ajax("GET", page.dataset.details, { target: "#outcome", swap: "innerHTML" });
    }, 60);
  };
  const showState = ({ at, state: next }) => {
    if (next !== state) {
      page.classList.replace(`state-${state}`, `state-${next}`);
      badge?.classList.replace(`state-${state}`, `state-${next}`);
      state = next;
      say(badge, state);
      if (words) {
        say(title, words[state].title);
        say(explain, words[state].text);
      }
      if (state === "running") {
        if (elapsed && !elapsed.dataset.started) elapsed.dataset.started = at;
        if (!samples.length) bar.removeAttribute("value"); // something goes on; how far, nobody said yet
      }
    }
    if (FINAL.has(state)) {
      for (const element of page.querySelectorAll("[data-while-open]")) element.hidden = true;
      say(rate, "");
      say(eta, "");
      if (elapsed) elapsed.dataset.finished = at;
      if (state === "succeeded") {
        bar.value = bar.max;
        say(percent, "100 %");
      } else if (!bar.hasAttribute("value")) bar.value = 0;
      say(spoken, words ? words[state].title : state);
      document.title = `${words ? words[state].title : state} · ${name}`;
    }
    refresh();
  };

  // ---- how long it has taken
  const showElapsed = () => {
    if (!elapsed?.dataset.started) return;
    const began = Date.parse(elapsed.dataset.started);
    const seconds = ((Date.parse(elapsed.dataset.finished) || Date.now()) - began) / 1000;
    say(elapsed, FINAL.has(state) ? `took ${seconds < 10 ? `${seconds.toFixed(1)} s` : msgweb.age(seconds)}` : `for ${msgweb.age(seconds)}`);
  };
  showElapsed();
  window.setInterval(showElapsed, 1000);

  // ---- the stream. What arrives within one frame is shown at once.
  let pending = [];
  const flush = () => {
    const batch = pending;
    pending = [];
    showLines(batch.filter(([kind]) => kind === "log").map(([, data]) => data));
    const latest = batch.filter(([kind]) => kind === "progress");
    for (const [, data] of latest) showProgress(data);
    for (const [kind, data] of batch) if (kind === "state") showState(data);
    showElapsed();
  };
  const notice = (content) => {
    connection.hidden = !content;
    say(connection.firstElementChild, content);
  };

  const open = (path) => {
    const source = new EventSource(path);
    let last = null;
    const take = (kind) => (event) => {
      last = event.lastEventId || last;
      // A hidden page gets no frames; its events are shown all the same.
      if (!pending.length) document.hidden ? window.setTimeout(flush, 250) : window.requestAnimationFrame(flush);
      pending.push([kind, JSON.parse(event.data)]);
    };
    for (const kind of ["log", "progress", "state"]) source.addEventListener(kind, take(kind));
    source.addEventListener("open", () => notice(""));
    source.addEventListener("end", () => {
      source.close();
      refresh();
    });
    source.addEventListener("expired", () => {
      source.close();
      notice("This page has been open for too long. Load it again to go on watching.");
    });
    source.addEventListener("error", () => {
      notice("The connection is lost. It is tried again; nothing is missed.");
      if (source.readyState !== EventSource.CLOSED) return; // the browser tries again by itself
      const next = new URL(path, window.location.href);
      if (last) next.searchParams.set("after", last);
      window.setTimeout(() => open(next.pathname + next.search), REOPEN);
    });
    window.addEventListener("pagehide", () => source.close());
    window.addEventListener("pageshow", (event) => { if (event.persisted) window.location.reload(); });
  };
  if (page.dataset.stream) open(page.dataset.stream);
});
