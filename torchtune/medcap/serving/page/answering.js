// One run's answer to a question: asked, shown while it comes, and its boxes and masks.

import * as api from "./api.js";
import { $, complain } from "./dom.js";
import * as masks from "./masks.js";

export async function answerOne(conversation, exchange, model, signal) {
  const answer = exchange.answers.get(model);
  const alone = $("alone").checked;
  answer.seen = conversation.seen(exchange, model, alone);
  const sent = conversation.turns(exchange, model, alone).at(-1).images;
  answer.earlier = sent.filter((image) => !exchange.images.includes(image));
  try {
    const messages = conversation.messages(exchange, model, $("system").value.trim(), alone);
    const completed = await api.complete(
      { model, messages, ...sampling() },
      (piece) => {
        answer.text += piece;
        const place = $("log").querySelector(`[data-open="${CSS.escape(model)}"] .text`);
        if (place) place.textContent = answer.text;
        $("log").scrollTop = $("log").scrollHeight;
      },
      signal,
    );
    answer.finish = completed.finish;
    answer.masks = masks.read(completed.masks, answer.seen);
    answer.state = "done";
  } catch (error) {
    answer.state = error.name === "AbortError" ? "stopped" : "failed";
    answer.problem = error.message;
  }
  if (answer.state === "done") await findBoxes(conversation, exchange, model, answer);
}

async function findBoxes(conversation, exchange, model, answer) {
  const image = conversation.shownFor(exchange).at(-1);
  if (!image || !answer.text) return;
  // A run that was shown several slices does not say which one it means.
  const slice = typeof image.view?.frames === "number" ? { axis: image.view.axis ?? "axial", number: image.view.frames } : null;
  try {
    const found = await api.findRegions(model, answer.text, image.width, image.height);
    answer.regions = found.map((region) => ({ ...region, image, slice }));
  } catch (error) {
    complain(error); // the answer is whole without its boxes
  }
}

// What an answer was drawn with, for files and votes.
export const settings = () => ({ ...sampling(), system: $("system").value.trim() });

function sampling() {
  const read = (id) => ($(id).value === "" ? undefined : Number($(id).value));
  return {
    temperature: read("temperature"),
    top_p: read("top_p"),
    top_k: read("top_k"),
    max_tokens: read("max_tokens"),
    seed: read("seed"),
  };
}
