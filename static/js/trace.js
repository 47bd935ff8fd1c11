// The frames of a connection, live (apps/console/connection_pages.py): each piece that a gateway read or wrote.
"use strict";

document.addEventListener("DOMContentLoaded", () => {
  const LINES = 2000; // kept on the page
  const view = document.getElementById("trace");
  const state = document.getElementById("trace-state");
  const source = new EventSource(view.dataset.stream);
  let pieces = 0;

  const add = (clock, words, level) => {
    const following = view.scrollHeight - view.scrollTop - view.clientHeight < 30;
    const line = document.createElement("div");
    line.className = `line level-${level}`;
    const time = document.createElement("time");
    time.textContent = clock;
    const text = document.createElement("span");
    text.textContent = words;
    line.append(time, text);
    view.append(line);
    while (view.childElementCount > LINES) view.firstElementChild.remove();
    if (following) view.scrollTop = view.scrollHeight;
  };

  source.addEventListener("listening", () => { state.textContent = "Listening."; });
  source.addEventListener("message", (event) => {
    const piece = JSON.parse(JSON.parse(event.data).body);
    const clock = new Date(piece.at * 1000).toLocaleTimeString([], { hour12: false });
    if (piece.missed) {
      add(clock, `${piece.connection}: ${piece.missed} pieces were too many to show`, "warning");
      return;
    }
    pieces += 1;
    state.textContent = `${pieces} piece${pieces === 1 ? "" : "s"}.`;
    const way = piece.direction === "in" ? "client says" : "gateway says";
    add(clock, `${piece.connection} ${way}, ${piece.bytes} bytes\n${piece.text}`, piece.direction === "in" ? "info" : "debug");
  });
  source.addEventListener("missed", (event) => add("", `${JSON.parse(event.data).count} pieces were missed`, "warning"));
  source.addEventListener("expired", () => { source.close(); state.textContent = "This page is old: load it again."; });
  source.onerror = () => { state.textContent = "The connection is gone; trying again …"; };
});
