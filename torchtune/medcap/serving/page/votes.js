// Votes on answers: good or bad, or which of several is best.

import { settings } from "./answering.js";
import * as api from "./api.js";
import { textFor } from "./conversation.js";
import { complain, make } from "./dom.js";
import { viewWords } from "./view.js";

// models: whose answers were looked at; all of them saw the same images.
async function vote(conversation, exchange, body, models, redraw) {
  const answers = models.map((model) => [model, exchange.answers.get(model)]);
  try {
    await api.vote({
      ...body,
      question: textFor(exchange, models[0]),
      images: answers[0][1].seen.map(votedImage),
      turn: conversation.exchanges.indexOf(exchange) + 1,
      answers: Object.fromEntries(answers.map(([model, answer]) => [model, answer.text])),
      settings: settings(),
    });
    redraw();
  } catch (error) {
    complain(error);
  }
}

function votedImage(image) {
  const view = viewWords(image);
  return { name: image.name, sha256: image.sha256, ...(view && { view }) };
}

export function buttons(conversation, exchange, model, redraw) {
  const answer = exchange.answers.get(model);
  return [["up", "Good"], ["down", "Bad"]].map(([name, textContent]) => {
    const button = make("button", { type: "button", className: "small", textContent });
    button.setAttribute("aria-pressed", answer.vote === name);
    button.addEventListener("click", () => {
      answer.vote = name;
      const comparable = conversation.comparable(exchange);
      vote(conversation, exchange, { vote: name, model }, comparable.includes(model) ? comparable : [model], redraw);
    });
    return button;
  });
}

export function comparison(conversation, exchange, models, redraw) {
  const bar = make("p", { className: "compare", textContent: "Best:" });
  for (const name of [...models, "equal", "none"]) {
    const button = make("button", { type: "button", className: "small", textContent: name });
    button.setAttribute("aria-pressed", exchange.best === name);
    button.addEventListener("click", () => {
      exchange.best = name;
      vote(conversation, exchange, { vote: "best", model: name }, models, redraw);
    });
    bar.append(button);
  }
  return bar;
}
