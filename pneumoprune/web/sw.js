// Keeps the files of the page, so that it opens without a network. Nothing else is kept, and nothing is sent.
const PAGE = { version: "", files: [] }; // written by `pneumoprune page`

const OURS = `pneumoprune ${self.registration.scope} `, NAME = OURS + PAGE.version; // a host may serve several pages

self.addEventListener("install", (event) => {
  event.waitUntil(caches.open(NAME).then((cache) => cache.addAll(PAGE.files)));
});

self.addEventListener("activate", (event) => {
  const outdated = (name) => name.startsWith(OURS) && name !== NAME;
  event.waitUntil(caches.keys().then((names) => Promise.all(names.filter(outdated).map((name) => caches.delete(name)))));
});

self.addEventListener("fetch", (event) => {
  const { method, url } = event.request;
  if (method !== "GET" || !url.startsWith(self.registration.scope)) return;
  const kept = () => caches.open(NAME).then((cache) => cache.match(event.request, { ignoreSearch: true }));
  event.respondWith(kept().then((answer) => answer ?? fetch(event.request)));
});
