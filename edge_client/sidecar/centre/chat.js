// The chat page. Everything that is shown is made as text nodes: nothing that anybody wrote is ever read as markup.
"use strict";

const ROOT = document.body.dataset.root + "/v1";
const CSRF = document.body.dataset.csrf;
const talk = document.getElementById("talk");
const log = document.getElementById("log");
const form = document.getElementById("form");
const say = document.getElementById("say");
const note = document.getElementById("status");
const welcome = document.getElementById("welcome");
let busy = false;
let numbered = 0;

const WORDS = {
  en: {
    you: "You", assistant: "Assistant", like: "I like", dislike: "Not for me:", take: "Choose", taken: "Chosen",
    why: "Why this?", whyAnswer: "Why this answer?", good: "That was right", bad: "That was wrong", meant: "What did you mean?", pick: "Choose …", without: "From now on:", reasons: "What it is based on",
    because: "What is wrong with it?", welcome: "Good to know", later: "Not now", never: "Do not write by yourself", unasked: "Why do you write?", noted: "Noted.", send: "Send", thanks: "Thank you:", quick: ["Too expensive", "Not my taste", "Too far away"],
    plain: "Just not this one", chance: "Among all that fits, it had a chance of {share} to stand here.", favour: "For it:", against: "Against it:", choose: "Which one?", offers: "Suggestions",
    per: { night: "a night", person: "a person", day: "a day", total: "in all" },
  },
  de: {
    you: "Du", assistant: "Assistent", like: "Gefällt mir:", dislike: "Nichts für mich:", take: "Nehmen", taken: "Genommen",
    why: "Warum das?", whyAnswer: "Warum diese Antwort?", good: "Das war richtig", bad: "Das war falsch", meant: "Was hast du gemeint?", pick: "Wähle …", without: "Ab jetzt:", reasons: "Worauf es beruht",
    because: "Was passt daran nicht?", welcome: "Gut zu wissen", later: "Nicht jetzt", never: "Nicht von selbst schreiben", unasked: "Warum schreibst du?", noted: "Notiert.", send: "Senden", thanks: "Danke:", quick: ["Zu teuer", "Nicht mein Geschmack", "Zu weit weg"],
    plain: "Einfach nicht das", chance: "Unter allem, was passt, stand es mit {share} Wahrscheinlichkeit hier.", favour: "Dafür:", against: "Dagegen:", choose: "Was davon?", offers: "Vorschläge",
    per: { night: "pro Nacht", person: "pro Person", day: "pro Tag", total: "insgesamt" },
  },
  es: {
    you: "Tú", assistant: "Asistente", like: "Me gusta:", dislike: "No es para mí:", take: "Elegir", taken: "Elegido",
    why: "¿Por qué esto?", whyAnswer: "¿Por qué esta respuesta?", good: "Eso era correcto", bad: "Eso no era correcto", meant: "¿Qué querías decir?", pick: "Elige …", without: "Desde ahora:", reasons: "En qué se basa",
    because: "¿Qué no te gusta?", welcome: "Bueno saberlo", later: "Ahora no", never: "No escribas por tu cuenta", unasked: "¿Por qué escribes?", noted: "Anotado.", send: "Enviar", thanks: "Gracias:", quick: ["Demasiado caro", "No es mi gusto", "Demasiado lejos"],
    plain: "Este no, sin más", chance: "Entre todo lo que encaja, tenía una probabilidad del {share} de estar aquí.", favour: "A favor:", against: "En contra:", choose: "¿Cuál?", offers: "Sugerencias",
    per: { night: "por noche", person: "por persona", day: "por día", total: "en total" },
  },
};

// How often the page asks whether something is to be said by itself, while it is looked at.
const UNASKED_EVERY_MS = 60000;

// Reasons on a card; "Why this?" has all of them.
const MOST_POINTS = 2;

const UP = "M7 10v10H4V10h3zm0 0 4-7c1.500 0 2.500 1 2.500 2.500V9H19c1.200 0 2 1 1.800 2.200l-1.300 7c-.2 1-1 1.800-2 1.800H7";

// -- making elements -----------------------------------------------------------------------------------------------

function make(name, properties = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (key in element && key !== "lang") element[key] = value;
    else element.setAttribute(key, value);
  }
  element.append(...children.filter((child) => child !== null));
  return element;
}

function hidden(text) {
  return make("span", { className: "hidden" }, text + " ");
}

function thumb(label, down) {
  const drawn = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  drawn.setAttribute("viewBox", "0 0 24 24");
  drawn.setAttribute("aria-hidden", "true");
  const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
  path.setAttribute("d", UP);
  if (down) path.setAttribute("transform", "rotate(180 12 12)");
  drawn.append(path);
  return make("button", { type: "button", className: "thumb", "aria-pressed": "false", "aria-label": label, title: label }, drawn);
}

function wordsOf(language) {
  return WORDS[language] || WORDS.en;
}

function money(amount, currency, language) {
  try {
    const digits = Number.isInteger(amount) ? 0 : 2;
    return new Intl.NumberFormat(language, {
      style: "currency", currency, minimumFractionDigits: digits, maximumFractionDigits: digits,
    }).format(amount);
  } catch {
    return `${amount} ${currency}`;
  }
}

// -- calling the device --------------------------------------------------------------------------------------------

async function call(method, path, body) {
  const headers = { "Tacit-Csrf": CSRF };
  if (body !== undefined) headers["Content-Type"] = "application/json";
  let answer;
  try {
    answer = await fetch(ROOT + path, { method, headers, body: body === undefined ? undefined : JSON.stringify(body) });
  } catch {
    throw new Error("The assistant does not answer. Is it still running on this device?");
  }
  const document_ = await answer.json();
  if (!answer.ok) throw new Error(document_.detail || "That did not work.");
  return document_;
}

// -- showing -------------------------------------------------------------------------------------------------------

function showMine(text) {
  welcome.hidden = true;
  const turn = make("li", { className: "turn mine" }, make("p", { className: "bubble", dir: "auto" }, hidden("You:"), text));
  talk.append(turn);
  turn.scrollIntoView({ block: "end" });
}

function showReply(reply, said, reactions = {}) {
  const language = reply.language || "en";
  const words = wordsOf(language);
  const turn = make("li", { className: "turn theirs", lang: language });
  turn.append(make("p", { className: "bubble", dir: "auto" }, hidden(`${words.assistant}:`), reply.text));
  const cards = reply.suggestions || [];
  if (cards.length) {
    turn.append(make("ul", { className: "cards", "aria-label": words.offers }, ...cards.map((card) => showCard(card, words, language, reactions))));
  }
  const choices = reply.choice_labels || [];
  if (choices.length) {
    const buttons = choices.map((label) => {
      const button = make("button", { type: "button", className: "chip choice" }, label);
      button.addEventListener("click", () => send(label));
      return make("li", {}, button);
    });
    turn.append(make("ul", { className: "chips", "aria-label": words.choose }, ...buttons));
  }
  turn.append(...foot(reply, said, words));
  talk.append(turn);
  // The question and the beginning of the answer are what has to be seen.
  turn.previousElementSibling?.scrollIntoView({ block: "start" });
}

// What the assistant says by itself: the words, why it comes, and what the user makes of it.
function showUnasked(message) {
  welcome.hidden = true;
  const words = wordsOf(message.language);
  const turn = make("li", { className: "turn theirs unasked", lang: message.language });
  turn.append(make("p", { className: "bubble", dir: "auto" }, hidden(`${words.assistant}:`), message.text));
  const box = make("div", { className: "why", hidden: true });
  const result = make("p", { className: "small result", role: "status" });
  const row = make("div", { className: "foot" }, whyButton(words.unasked, box, words, async () => [message.why]));
  const outcomes = [[words.welcome, "acted"], [words.later, "dismissed"], [words.never, "disabled"]];
  const buttons = outcomes.map(([label, outcome]) => {
    const button = make("button", { type: "button", className: "chip" }, label);
    button.addEventListener("click", async () => {
      try {
        await call("POST", `/deliveries/${message.id}/outcome`, { outcome });
        for (const other of buttons) other.disabled = true;
        result.textContent = words.noted;
      } catch (error) {
        result.textContent = error.message;
      }
    });
    return button;
  });
  row.append(...buttons);
  turn.append(row, box, result);
  talk.append(turn);
}

async function askUnasked() {
  if (document.hidden || busy) return;
  try {
    for (const message of (await call("POST", "/unasked")).messages) showUnasked(message);
  } catch {
    // Nobody waits for it; the next minute may be better.
  }
}

function foot(reply, said, words) {
  const row = make("div", { className: "foot" });
  const box = make("div", { className: "why", hidden: true });
  row.append(whyButton(words.whyAnswer, box, words, async () => reply.reasons || []));
  const more = [];
  if (!(reply.suggestions || []).length && !(reply.choices || []).length && !reply.question) more.push(...verdict(reply, said, words, row));
  return [row, box, ...more];
}

// Was it understood? "Right" confirms the intent; "wrong" asks what was meant. Both become an example, if the user allows that.
function verdict(reply, said, words, row) {
  const up = thumb(words.good, false);
  const down = thumb(words.bad, true);
  const result = make("p", { className: "small result", role: "status" });
  const ask = make("form", { className: "because", hidden: true });
  const teach = async (intent, pressed) => {
    try {
      const told = await call("POST", "/feedback", { text: said, intent });
      pressed.setAttribute("aria-pressed", "true");
      up.disabled = down.disabled = true;
      ask.hidden = true;
      result.replaceChildren(`${words.thanks} `, make("span", { lang: "en" }, told.reason));
    } catch (error) {
      result.textContent = error.message;
    }
  };
  if (!reply.out_of_scope) {
    up.addEventListener("click", () => teach(reply.intent, up));
    row.append(up);
  }
  const select = make("select", { id: `meant-${++numbered}` });
  ask.append(make("div", { className: "line" }, make("label", { className: "hidden", htmlFor: select.id }, words.meant), select, make("button", {}, words.send)));
  ask.addEventListener("submit", (event) => {
    event.preventDefault();
    if (select.value) teach(select.value, down);
  });
  down.setAttribute("aria-expanded", "false");
  down.addEventListener("click", async () => {
    try {
      if (!select.length) {
        const intents = Object.entries(await call("GET", "/intents"));
        select.append(make("option", { value: "" }, `${words.meant} ${words.pick}`));
        select.append(...intents.map(([name, label]) => make("option", { value: name }, label)));
      }
      ask.hidden = !ask.hidden;
      down.setAttribute("aria-expanded", String(!ask.hidden));
      if (!ask.hidden) select.focus();
    } catch (error) {
      result.textContent = error.message;
    }
  });
  row.append(down);
  return [ask, result];
}

function showCard(card, words, language, reactions) {
  const item = make("li", { className: "card" });
  const top = make("div", { className: "top" }, make("h2", { dir: "auto" }, card.title));
  if (card.price !== null && card.price !== undefined) {
    const per = words.per[card.per] || "";
    top.append(make("p", { className: "price" }, money(card.price, card.currency, language), per ? make("span", { className: "small" }, ` ${per}`) : null));
  }
  item.append(top);
  const points = [
    ...card.reasons.slice(0, MOST_POINTS).map((text) => make("li", {}, make("span", {}, hidden(words.favour), text))),
    ...card.drawbacks.slice(0, MOST_POINTS - 1).map((text) => make("li", { className: "against" }, make("span", {}, hidden(words.against), text))),
  ];
  if (points.length) item.append(make("ul", { className: "points" }, ...points));
  if (!card.decision_id) return item;
  const acts = make("div", { className: "acts" });
  const box = make("div", { className: "why", hidden: true });
  acts.append(
    ...thumbs(card.decision_id, `${words.like} ${card.title}`, `${words.dislike} ${card.title}`, words, reactions, item, takeButton(card, words)),
    whyButton(words.why, box, words, () => whyCard(card, words, language), card.title),
  );
  item.append(acts, box);
  return item;
}

async function whyCard(card, words, language) {
  const { reasons } = await call("GET", `/why/${encodeURIComponent(card.decision_id)}`);
  if (!(card.propensity < 0.9995)) return reasons;
  const share = new Intl.NumberFormat(language, { style: "percent", maximumFractionDigits: 0 }).format(card.propensity);
  return [...reasons, words.chance.replace("{share}", share)];
}

function takeButton(card, words) {
  return make("button", { type: "button", className: "take", "aria-pressed": "false", "aria-label": `${words.take}: ${card.title}` }, words.take);
}

// Thumbs up and down, and with `take` a third button; they exclude each other. `place` is where more is asked and said.
function thumbs(decision, likeLabel, dislikeLabel, words, reactions, place, take) {
  const up = thumb(likeLabel, false);
  const down = thumb(dislikeLabel, true);
  const result = make("p", { className: "small result", role: "status" });
  const ask = make("form", { className: "because", hidden: true });
  const mark = (reaction) => {
    up.setAttribute("aria-pressed", String(reaction === "up"));
    down.setAttribute("aria-pressed", String(reaction === "down"));
    if (take) take.setAttribute("aria-pressed", String(reaction === "chosen"));
    if (take && reaction === "chosen") take.textContent = words.taken;
    if (place.classList.contains("card")) place.classList.toggle("down", reaction === "down");
    for (const button of [up, down, take]) if (button && reaction) button.disabled = true;
  };
  const react = async (reaction, because) => {
    ask.hidden = true;
    mark(reaction);
    try {
      const told = await call("POST", "/react", { decision_id: decision, reaction, because: because || "" });
      const left = told.excludes && told.excludes.length ? `${words.without} ${told.excludes.join("; ")}` : "";
      result.replaceChildren(left || `${words.thanks} `, left ? "" : make("span", { lang: "en" }, told.reason));
    } catch (error) {
      mark("");
      for (const button of [up, down, take]) if (button) button.disabled = false;
      result.textContent = error.message;
    }
  };
  const field = make("input", { type: "text", id: `because-${++numbered}`, maxLength: 500, autocomplete: "off", dir: "auto", placeholder: words.because });
  for (const text of [...words.quick, words.plain]) {
    const button = make("button", { type: "button", className: "chip" }, text);
    button.addEventListener("click", () => react("down", text === words.plain ? "" : text));
    ask.append(button);
  }
  ask.append(make("div", { className: "line" }, make("label", { className: "hidden", htmlFor: field.id }, words.because), field, make("button", {}, words.send)));
  ask.addEventListener("submit", (event) => {
    event.preventDefault();
    react("down", field.value.trim());
  });
  up.addEventListener("click", () => react("up"));
  down.setAttribute("aria-expanded", "false");
  down.addEventListener("click", () => {
    ask.hidden = !ask.hidden;
    down.setAttribute("aria-expanded", String(!ask.hidden));
    if (!ask.hidden) field.focus();
  });
  if (take) take.addEventListener("click", () => react("chosen"));
  if (reactions[decision]) mark(reactions[decision]);
  // Below the row of buttons, once that is there.
  queueMicrotask(() => place.append(ask, result));
  return take ? [take, up, down] : [up, down];
}

function whyButton(label, box, words, reasons, about) {
  const button = make("button", { type: "button", className: "link", "aria-expanded": "false" }, label);
  if (about) button.append(make("span", { className: "hidden" }, ` ${about}`));
  button.addEventListener("click", async () => {
    if (!box.hidden) {
      box.hidden = true;
      button.setAttribute("aria-expanded", "false");
      return;
    }
    let found;
    try {
      found = await reasons();
    } catch (error) {
      found = [error.message];
    }
    const points = found.map((text) => make("li", {}, make("span", { dir: "auto" }, text)));
    box.replaceChildren(make("p", { className: "small" }, words.reasons), make("ul", { className: "points plain" }, ...points));
    box.hidden = false;
    button.setAttribute("aria-expanded", "true");
  });
  return button;
}

function showProblem(text) {
  const turn = make("li", { className: "turn theirs failed" }, make("p", { className: "bubble" }, text));
  talk.append(turn);
  turn.scrollIntoView({ block: "end" });
}

// -- talking -------------------------------------------------------------------------------------------------------

async function send(text) {
  const said = text.trim();
  if (!said || busy) return;
  busy = true;
  showMine(said);
  const dots = make("li", { className: "turn theirs waiting", "aria-hidden": "true" }, make("p", { className: "bubble" }, "•••"));
  // An answer that comes at once needs no sign of waiting.
  const late = setTimeout(() => talk.append(dots), 150);
  try {
    const reply = await call("POST", "/chat", { text: said });
    clearTimeout(late);
    dots.remove();
    showReply(reply, said);
  } catch (error) {
    clearTimeout(late);
    dots.remove();
    showProblem(error.message);
    if (!say.value) say.value = said;
  } finally {
    busy = false;
    say.focus();
  }
}

function grow() {
  say.style.height = "auto";
  say.style.height = `${say.scrollHeight + 2}px`;
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  const text = say.value;
  if (busy || !text.trim()) return;
  say.value = "";
  grow();
  send(text);
});

say.addEventListener("input", grow);
say.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    form.requestSubmit();
  }
});

for (const opener of document.querySelectorAll(".opener")) {
  opener.addEventListener("click", () => send(opener.textContent));
}

document.getElementById("new").addEventListener("click", async () => {
  try {
    await call("DELETE", "/turns");
    talk.replaceChildren();
    welcome.hidden = false;
    note.textContent = "A new conversation.";
  } catch (error) {
    note.textContent = error.message;
  }
  say.focus();
});

(async () => {
  try {
    const kept = await call("GET", "/turns");
    log.setAttribute("aria-live", "off");
    for (const turn of kept.turns) {
      if (turn.unasked) {
        showUnasked(turn.unasked);
        continue;
      }
      showMine(turn.text);
      showReply(turn.reply, turn.text, kept.reactions);
    }
    log.setAttribute("aria-live", "polite");
    await askUnasked();
    setInterval(askUnasked, UNASKED_EVERY_MS);
  } catch (error) {
    showProblem(error.message);
  }
})();
