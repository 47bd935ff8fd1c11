// Orders as they come: the topic's stream says that there is one, the server renders the list.
"use strict";

(() => {
  const list = document.getElementById("orders");
  const sign = document.getElementById("listening");
  if (!list || !window.EventSource) return;
  let loading = false;
  let again = false;

  /** Take the list from the server: it knows what happened while nobody listened, too. */
  const reload = async () => {
    if (loading) { again = true; return; }
    loading = true;
    try {
      const answer = await fetch(window.location.href, { headers: { Accept: "text/html" }, cache: "no-store" });
      if (answer.redirected || !answer.ok) { window.location.reload(); return; }
      const page = new DOMParser().parseFromString(await answer.text(), "text/html");
      const known = new Set([...list.querySelectorAll("tr[data-order]")].map((row) => row.dataset.order));
      const fresh = page.getElementById("orders");
      for (const row of fresh.querySelectorAll("tr[data-order]")) {
        if (!known.has(row.dataset.order)) row.classList.add("fresh");
      }
      list.replaceChildren(...fresh.childNodes);
      window.msgweb.tell();
    } catch (error) {
      if (!(error instanceof TypeError)) throw error;  // the network is away: the stream reloads when it is back
    } finally {
      loading = false;
      if (again) { again = false; reload(); }
    }
  };

  const show = (state, text) => { sign.className = `listening ${state}`; sign.textContent = text; };
  const stream = new EventSource(list.dataset.stream);
  stream.addEventListener("listening", () => { show("on", "Listening for new orders"); reload(); });
  stream.addEventListener("message", reload);
  stream.addEventListener("missed", reload);
  stream.addEventListener("expired", () => window.location.reload());
  stream.addEventListener("error", () => {
    if (stream.readyState === EventSource.CLOSED) show("off", "Not listening: load the page again");
    else show("off", "Connection lost, trying again");
  });
})();
