// Keeps a page current and adds what only a script can: nothing here is needed to do anything.
"use strict";

// --- Live: when central says that something changed, the page is asked for again, and the parts marked
// data-live take over what is different. Focus, open menus and half-typed forms stay as they are.

function same(a, b) {
  return a.nodeType === b.nodeType && a.nodeName === b.nodeName && keyOf(a) === keyOf(b);
}

function keyOf(node) {
  return node.nodeType === 1 ? node.id || node.dataset.key || "" : "";
}

function becomeLike(old, fresh) {
  if (old.nodeType !== 1) {
    if (old.data !== fresh.data) old.data = fresh.data;
    return;
  }
  const typing = old.matches("input, textarea, select");
  for (const { name } of [...old.attributes]) {
    const ours = name === "open" || (name === "hidden" && old.matches("[data-copy]"));
    if (!fresh.hasAttribute(name) && !ours) old.removeAttribute(name);
  }
  for (const { name, value } of fresh.attributes) {
    const ours = name === "open" || (name === "hidden" && old.matches("[data-copy]"));
    if (!ours && !(typing && name === "value" && old.value !== old.defaultValue) && old.getAttribute(name) !== value) {
      old.setAttribute(name, value);
    }
  }
  if (!typing) childrenLike(old, fresh);
}

function childrenLike(old, fresh) {
  const keyed = new Map();
  for (const child of old.children) if (keyOf(child)) keyed.set(keyOf(child), child);
  let at = old.firstChild;
  for (const wanted of [...fresh.childNodes]) {
    const known = keyed.get(keyOf(wanted));
    if (known && known !== at && same(known, wanted)) {
      old.insertBefore(known, at);
      becomeLike(known, wanted);
    } else if (at && same(at, wanted)) {
      const next = at.nextSibling;
      becomeLike(at, wanted);
      at = next;
    } else {
      old.insertBefore(wanted, at);
    }
  }
  while (at) {
    const next = at.nextSibling;
    at.remove();
    at = next;
  }
}

let asking = false;
let again = false;

async function refresh() {
  if (asking) {
    again = true;
    return;
  }
  asking = true;
  try {
    // A page that answered a form says where its living parts can be read again.
    const from = document.querySelector("[data-from]")?.dataset.from || location.href;
    const answer = await fetch(from, { headers: { Accept: "text/html" } });
    if (answer.redirected && new URL(answer.url).pathname === "/sign-in") {
      location.reload();
      return;
    }
    if (!answer.ok) throw new Error(String(answer.status));
    const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
    for (const part of document.querySelectorAll("[data-live]")) {
      const wanted = fresh.getElementById(part.id);
      if (wanted) becomeLike(part, wanted);
    }
    document.title = fresh.title;
    dress(document);
    stale(null);
  } catch {
    stale("No answer from central: what stands here may be old.");
  } finally {
    asking = false;
    if (again) {
      again = false;
      refresh();
    }
  }
}

function stale(text) {
  const note = document.getElementById("stale");
  if (!note) return;
  note.hidden = !text;
  if (note.textContent !== (text || "")) note.textContent = text || "";
}

// A page in a background tab holds no connection: browsers allow six to one address, all tabs together.
let source = null;

function follow() {
  if (!document.querySelector("[data-live]")) return;
  if (document.hidden) {
    if (source) source.close();
    source = null;
  } else if (!source) {
    source = new EventSource("/live");
    source.addEventListener("change", refresh);
    source.addEventListener("error", () => {
      stale("Not connected to central: what stands here may be old.");
      // After a refusal the browser does not try again by itself.
      if (source && source.readyState === EventSource.CLOSED) {
        source = null;
        setTimeout(follow, 3000);
      }
    });
  }
}

// --- Ages run on by themselves; pointing at one tells the local time too.

function ages() {
  for (const time of document.querySelectorAll("time[data-ago]")) {
    const at = new Date(time.dateTime);
    const seconds = Math.round((Date.now() - at) / 1000);
    const size = Math.abs(seconds);
    const span = size < 60 ? `${size} s` : size < 3600 ? `${Math.floor(size / 60)} min`
      : size < 172800 ? `${Math.floor(size / 3600)} h` : `${Math.floor(size / 86400)} days`;
    const text = size < 5 ? "just now" : seconds < 0 ? `in ${span}` : `${span} ago`;
    if (time.textContent !== text) time.textContent = text;
    const exact = time.title.split(" · ")[0];
    const title = `${exact} · ${at.toLocaleString()} here`;
    if (time.title !== title) time.title = title;
  }
}

// --- Copying, and forms that show only what their choice needs.

function dress(root) {
  for (const button of root.querySelectorAll("[data-copy]")) button.hidden = !navigator.clipboard;
  for (const choice of root.querySelectorAll("[data-choice]")) choose(choice);
  ages();
}

function choose(choice) {
  const form = choice.form;
  for (const part of form.querySelectorAll("[data-for]")) {
    part.hidden = !part.dataset.for.split(" ").includes(choice.value);
  }
}

document.addEventListener("click", async (event) => {
  const button = event.target.closest("[data-copy]");
  if (button) {
    const label = button.querySelector("span");
    await navigator.clipboard.writeText(button.parentElement.querySelector("pre").textContent);
    label.textContent = "Copied";
    setTimeout(() => { label.textContent = "Copy"; }, 1500);
    return;
  }
  for (const open of document.querySelectorAll("details.confirm[open], details.who[open]")) {
    if (!open.contains(event.target)) open.open = false;
  }
});

document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape") return;
  for (const open of document.querySelectorAll("details.confirm[open], details.who[open]")) open.open = false;
});

document.addEventListener("change", (event) => {
  if (event.target.matches("[data-choice]")) choose(event.target);
});

// A form is sent once, however often its button is pressed.
document.addEventListener("submit", (event) => {
  if (event.target.method !== "post") return;
  for (const button of event.target.querySelectorAll("button")) setTimeout(() => { button.disabled = true; });
});

document.addEventListener("visibilitychange", () => {
  follow();
  if (!document.hidden && document.querySelector("[data-live]")) refresh();
});

dress(document);
setInterval(ages, 1000);
follow();
