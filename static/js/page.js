// What every page needs: times in the reader's own zone, ages that count, confirmation before a dangerous form is sent.
"use strict";

(() => {
  const clock = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "medium" });

  /** "12 s", "3 min", "2 h", "5 d": the server's `ages` filter says it alike. */
  const age = (seconds) => {
    if (seconds < 90) return `${Math.max(0, Math.floor(seconds))} s`;
    if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
    if (seconds < 129600) return `${Math.round(seconds / 3600)} h`;
    return `${Math.round(seconds / 86400)} d`;
  };

  /** <time data-ago datetime=...> shows its age; every <time> shows the exact local moment on hover. */
  const tell = () => {
    const now = Date.now();
    for (const element of document.querySelectorAll("time[datetime]")) {
      const moment = Date.parse(element.dateTime);
      if (Number.isNaN(moment)) continue;
      if (!element.title) element.title = clock.format(moment);
      if ("ago" in element.dataset) {
        const text = `${age((now - moment) / 1000)} ago`;
        if (element.textContent !== text) element.textContent = text;
      }
    }
  };

  document.addEventListener("submit", (event) => {
    const question = event.target.dataset.confirm;
    if (question && !window.confirm(question)) event.preventDefault();
  });
  document.addEventListener("DOMContentLoaded", tell);
  document.addEventListener("htmx:afterSettle", tell);
  window.setInterval(tell, 1000);
  window.msgweb = { age, tell };
})();
