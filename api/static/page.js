// Keeps an open page up to date and sends its forms without leaving it. Without this file the
// page works too: forms are forms, and a reload shows what is new.
'use strict';

const PERIOD_MS = 2000;

// --- what has changed --------------------------------------------------------------------------

// Gives the seconds that the server wants to be left alone for.
async function refresh() {
  const address = new URL(location.href);
  address.searchParams.set('live', '1');
  const response = await fetch(address, { cache: 'no-store' });
  if (response.status === 401) {
    location.assign('/sign-in');
    return 0;
  }
  if (response.status === 429) return Number(response.headers.get('retry-after'));
  if (!response.ok) throw new Error(`status ${response.status}`);
  const fresh = new DOMParser().parseFromString(await response.text(), 'text/html');
  keepingFocus(() => {
    for (const part of document.querySelectorAll('[data-live]')) {
      const wanted = fresh.getElementById(part.id);
      if (wanted) change(part, wanted);
    }
  });
  return 0;
}

// Turns one element into another and touches only what differs: focus, selection, scroll
// positions and opened details stay.
function change(kept, wanted) {
  if (kept.nodeType !== Node.ELEMENT_NODE) {
    if (kept.data !== wanted.data) kept.data = wanted.data;
    return;
  }
  for (const { name } of [...kept.attributes]) {
    if (name !== 'open' && !wanted.hasAttribute(name)) kept.removeAttribute(name);
  }
  for (const { name, value } of wanted.attributes) {
    if (kept.getAttribute(name) !== value) kept.setAttribute(name, value);
  }
  changeChildren(kept, wanted);
}

function changeChildren(kept, wanted) {
  const named = new Map();
  for (const child of kept.children) if (child.id) named.set(child.id, child);
  let place = kept.firstChild;
  for (const fresh of [...wanted.childNodes]) {
    const own = fresh.id ? named.get(fresh.id) : place;
    if (own && own.nodeName === fresh.nodeName && (own.id || '') === (fresh.id || '')) {
      if (own === place) place = place.nextSibling;
      else kept.insertBefore(own, place);
      change(own, fresh);
    } else {
      kept.insertBefore(document.importNode(fresh, true), place);
    }
  }
  while (place) {
    const next = place.nextSibling;
    place.remove();
    place = next;
  }
}

// When the focused element is gone, its nearest surroundings get the focus.
function keepingFocus(work) {
  const focused = document.activeElement;
  const around = [];
  for (let node = focused?.parentElement; node; node = node.parentElement) around.push(node);
  work();
  if (!focused || focused === document.body || focused.isConnected) return;
  const left = around.find((node) => node.isConnected);
  const target = left?.querySelector('a, button, summary') ?? document.getElementById('main');
  target.focus({ preventScroll: true });
}

async function follow() {
  let pauseMs = PERIOD_MS;
  while (document.querySelector('[data-live]')) {
    await new Promise((resolve) => setTimeout(resolve, pauseMs));
    pauseMs = PERIOD_MS;
    if (document.hidden) continue;
    try {
      const wanted = await refresh();
      pauseMs = Math.max(PERIOD_MS, wanted * 1000);
      say('connection', wanted ? `This key is at its limit: the page goes on in ${wanted} s.` : '');
    } catch {
      say('connection', 'The server does not answer: trying again.');
    }
  }
}

// --- forms -------------------------------------------------------------------------------------

const sending = new WeakSet();

function send(form) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest(); // fetch does not tell how far an upload has come
    const meter = form.querySelector('progress');
    if (meter) {
      meter.hidden = false;
      request.upload.onprogress = ({ loaded, total }) => (meter.value = loaded / total);
    }
    request.onload = () => resolve(request);
    request.onerror = () => reject(new Error('the server does not answer: try again'));
    request.onloadend = () => meter && (meter.hidden = true);
    request.open('POST', form.action);
    const fields = new FormData(form);
    request.send(form.enctype === 'multipart/form-data' ? fields : new URLSearchParams(fields));
  });
}

async function submit(form) {
  const file = form.querySelector('input[type=file]');
  // The server would break such an upload off, and then no browser shows what it said.
  if (file && file.files[0].size > Number(file.dataset.maxBytes)) {
    throw new Error(file.dataset.tooLarge);
  }
  const { status, responseURL, responseText } = await send(form);
  if (status >= 400) throw new Error(problemIn(responseText));
  if (new URL(responseURL).pathname === location.pathname && !file) {
    await refresh();
  } else {
    location.assign(responseURL);
  }
}

function problemIn(text) {
  const page = new DOMParser().parseFromString(text, 'text/html');
  return page.querySelector('[data-problem]')?.textContent ?? 'that did not work: try again';
}

function say(id, text) {
  const element = document.getElementById(id);
  if (element.textContent !== text) element.textContent = text;
}

document.addEventListener('submit', async (event) => {
  const form = event.target;
  if (form.hasAttribute('data-plain')) return;
  event.preventDefault();
  if (sending.has(form)) return;
  if (form.dataset.confirm && !window.confirm(form.dataset.confirm)) return;
  sending.add(form);
  say('notice', '');
  try {
    await submit(form);
  } catch (error) {
    say('notice', error.message);
  } finally {
    sending.delete(form);
  }
});

follow();
