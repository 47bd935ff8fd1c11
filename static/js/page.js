// What every page needs: times in the reader's own zone, ages that count, parts that refresh themselves in place,
// confirmation before a dangerous form is sent, buttons that copy.
"use strict";

(() => {
  const exact = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "medium" });
  const clock = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" });
  const day = new Intl.DateTimeFormat(undefined, { day: "numeric", month: "short" });

  /** "12 s", "3 min", "2 h", "5 d": the filter `age` of the templates says it alike. */
  const age = (seconds) => {
    if (seconds < 90) return `${Math.max(0, Math.floor(seconds))} s`;
    if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
    if (seconds < 129600) return `${Math.round(seconds / 3600)} h`;
    return `${Math.round(seconds / 86400)} d`;
  };

  const time = (moment) => clock.format(moment);

  /** The text of a <time>: its age (data-ago), or its moment in the reader's zone (data-clock, and in a log). */
  const tell = () => {
    const now = Date.now();
    for (const element of document.querySelectorAll("time[datetime]")) {
      if (element.dataset.told && !("ago" in element.dataset)) continue;
      const moment = Date.parse(element.dateTime);
      if (Number.isNaN(moment)) continue;
      element.title ||= exact.format(moment);
      let text = element.textContent;
      if ("ago" in element.dataset) text = `${age((now - moment) / 1000)} ago`;
      else if ("clock" in element.dataset) text = `${day.format(moment)}, ${time(moment)}`;
      else if (element.closest(".log")) text = time(moment);
      element.dataset.told = "1";
      if (element.textContent !== text) element.textContent = text;
    }
  };

  /** Make `from` like `to`, node by node: what did not change keeps its focus, its selection and its animation. */
  const morph = (from, to) => {
    for (const { name, value } of to.attributes) if (from.getAttribute(name) !== value) from.setAttribute(name, value);
    for (const { name } of [...from.attributes]) if (!to.hasAttribute(name)) from.removeAttribute(name);
    morphChildren(from, to);
  };
  const morphChildren = (from, to) => {
    const old = [...from.childNodes];
    const fresh = [...to.childNodes];
    fresh.forEach((node, index) => {
      const before = old[index];
      if (!before) from.append(node);
      else if (before.nodeName !== node.nodeName) before.replaceWith(node);
      else if (node.nodeType === Node.ELEMENT_NODE) morph(before, node);
      else if (before.data !== node.data) before.data = node.data;
    });
    old.slice(fresh.length).forEach((node) => node.remove());
  };

  // A live part asks for itself every few seconds; not while nobody looks. An answer that does not come (the network is
  // another one now, say) is not waited for: nothing is asked before it, and the figures would stand still.
  const answerMilliseconds = 10_000;
  document.addEventListener("htmx:beforeRequest", (event) => {
    if ("live" in event.detail.elt.dataset && document.hidden) event.preventDefault();
  });
  document.addEventListener("htmx:configRequest", (event) => {
    if ("live" in event.detail.elt.dataset) event.detail.timeout = answerMilliseconds;
  });
  document.addEventListener("htmx:beforeSwap", (event) => {
    const { elt, xhr } = event.detail;
    const asked = event.detail.pathInfo?.requestPath?.split("?")[0];
    if (asked && xhr.responseURL && new URL(xhr.responseURL).pathname !== asked) {
      event.detail.shouldSwap = false;
      window.location.reload(); // the answer came from elsewhere: the session is over, log in again
    } else if ("live" in elt.dataset) {
      event.detail.shouldSwap = false;
      if (xhr.status !== 200) return;
      const template = document.createElement("template");
      template.innerHTML = xhr.responseText;
      morphChildren(elt, template.content);
      tell();
    }
  });

  document.addEventListener("submit", (event) => {
    const question = event.target.dataset.confirm;
    if (question && !window.confirm(question)) event.preventDefault();
  });
  document.addEventListener("change", (event) => {
    const form = event.target.form;
    if (form && "autosubmit" in form.dataset) form.requestSubmit();
  });
  document.addEventListener("click", async (event) => {
    const button = event.target.closest("[data-copy]");
    if (!button) return;
    await navigator.clipboard.writeText(button.dataset.copy);
    const text = button.textContent;
    button.textContent = button.dataset.copied;
    window.setTimeout(() => { button.textContent = text; }, 1600);
  });

  document.addEventListener("DOMContentLoaded", () => {
    if (navigator.clipboard) for (const button of document.querySelectorAll("[data-copy]")) button.hidden = false;
    for (const button of document.querySelectorAll("form[data-autosubmit] button")) button.hidden = true;
    document.querySelector(".rail nav [aria-current]")?.scrollIntoView({ block: "nearest", inline: "center" });
    tell();
  });
  document.addEventListener("htmx:afterSettle", tell);
  window.setInterval(tell, 1000);
  window.msgweb = { age, time, tell };
})();
