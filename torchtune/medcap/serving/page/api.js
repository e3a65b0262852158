// What the page asks of the server. Answers stream as server-sent events (OpenAI's chat completions).

const KEY = "medcap-key";

export class ServerError extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

export function keepKey(key) {
  sessionStorage.setItem(KEY, key);
}

export const hasKey = () => Boolean(sessionStorage.getItem(KEY));

async function call(path, options = {}) {
  const key = sessionStorage.getItem(KEY);
  const headers = { ...options.headers };
  if (key) headers.authorization = `Bearer ${key}`;
  let response;
  try {
    response = await fetch(path, { ...options, headers });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ServerError(0, "The server cannot be reached.");
  }
  if (!response.ok) {
    const body = await response.json().catch(() => null);
    throw new ServerError(response.status, body?.error?.message ?? `The server answered ${response.status}.`);
  }
  return response;
}

const send = (path, body, signal) =>
  call(path, { method: "POST", body: JSON.stringify(body), headers: { "content-type": "application/json" }, signal });

export const settings = async () => (await call("page/settings")).json();
export const example = async (number) => (await call(`page/examples/${number}`)).blob();
export const thumbnail = async (number) => (await call(`page/examples/${number}/thumbnail`)).blob();
export const vote = (body) => send("page/votes", body);
export const findRegions = async (model, text, width, height) =>
  (await (await send("page/regions", { model, text, width, height })).json()).regions;
// The words of each run: the boxes that the text names, in the run's notation.
export const placeBoxes = async (models, text, boxes) =>
  (await (await send("page/boxes", { models, text, boxes })).json()).words;

// What the model will see of a file, as a picture that any browser can show.
export async function preview(blob) {
  const response = await call("page/preview", { method: "POST", body: blob });
  return {
    picture: await response.blob(),
    width: Number(response.headers.get("x-image-width")),
    height: Number(response.headers.get("x-image-height")),
    sha256: response.headers.get("x-image-sha256"),
    hasSlices: response.headers.get("x-image-has-slices") === "1",
  };
}

// Pictures of the slices of a volume, or of one DICOM image, along an axis and through a window.
export async function slices(blob, axis, window) {
  const query = new URLSearchParams({ axis, window });
  return (await call(`page/slices?${query}`, { method: "POST", body: blob })).json();
}

// Calls onPiece with each piece of the answer; returns why it ended, and its masks.
export async function complete(body, onPiece, signal) {
  const response = await send("v1/chat/completions", { ...body, stream: true }, signal);
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let held = "";
  let finish = null;
  let masks = [];
  for (;;) {
    const { value, done } = await reader.read();
    if (done) break;
    held += value;
    const lines = held.split("\n");
    held = lines.pop();
    for (const line of lines) {
      if (!line.startsWith("data: ") || line === "data: [DONE]") continue;
      const event = JSON.parse(line.slice(6));
      if (event.error) throw new ServerError(0, event.error.message);
      const choice = event.choices?.[0];
      if (choice?.delta?.content) onPiece(choice.delta.content);
      masks = choice?.delta?.masks ?? masks;
      finish = choice?.finish_reason ?? finish;
    }
  }
  if (finish === null) throw new ServerError(0, "The server broke off in the middle of the answer.");
  return { finish, masks };
}
