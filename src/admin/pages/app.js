// What the pages do more with scripts: ask before what cannot be undone, keep figures fresh, follow the log.
"use strict";

document.addEventListener("submit", (event) => {
  const question = event.target.dataset.confirm;
  if (question && !window.confirm(question)) event.preventDefault();
});

for (const part of document.querySelectorAll("[data-refresh]")) {
  window.setInterval(async () => {
    if (document.hidden || part.contains(document.activeElement)) return;
    try {
      const answer = await fetch(location.href, { credentials: "same-origin" });
      const page = new DOMParser().parseFromString(await answer.text(), "text/html");
      const fresh = page.getElementById(part.id);
      if (fresh) part.replaceChildren(...fresh.childNodes);
      else location.reload();
    } catch { /* The gateway is away; the figures stay as they were. */ }
  }, Number(part.dataset.refresh) * 1000);
}

const feed = document.querySelector("[data-feed]");
if (feed) {
  const element = (name, text, kind) => {
    const made = document.createElement(name);
    made.textContent = text ?? "–";
    if (kind !== undefined) made.className = kind;
    return made;
  };
  const at = (text) => (text ?? "–").slice(0, 19).replace("T", " ");
  const add = (entry, word) => {
    let body = document.querySelector("main tbody");
    if (!body) return location.reload();
    const row = document.createElement("tr");
    const what = document.createElement("td");
    what.append(element("span", entry.kind, "badge"), " ", element("code", entry.value));
    const state = document.createElement("td");
    state.append(element("span", word, "badge " + (entry.lift ? "warn" : "good")));
    row.append(element("td", entry.sequence), what, element("td", entry.issuer), element("td", entry.reason),
      element("td", entry.actor), element("td", at(entry.at)), element("td", at(entry.expires_at)), state);
    row.className = "new";
    body.prepend(row);
    while (body.rows.length > 200) body.lastElementChild.remove();
  };
  const source = new EventSource(feed.dataset.feed + "?since=" + encodeURIComponent(feed.dataset.since));
  source.addEventListener("open", () => { feed.textContent = "Live: entries appear as they come in force."; feed.classList.add("live"); });
  source.addEventListener("error", () => { feed.textContent = "The stream is interrupted; trying again."; feed.classList.remove("live"); });
  source.addEventListener("revocation", (event) => add(JSON.parse(event.data), "in force"));
  source.addEventListener("unrevoke", (event) => add(JSON.parse(event.data), "lifted"));
}
